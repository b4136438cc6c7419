"""Frames that lie about as single objects: packed on the way in, published in place, and warmed into a cache in memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import datasets
from cacheengine import wanted
from lake import imports, inplace, publish
from lake.stores import Store

PREFIX = "loop/"
MEMORY = Path("/dev/shm")


def pack_on_the_way(lake: Store, source: Store, scratch: Path) -> None:
    """Publish the objects below PREFIX: read, hashed, packed, uploaded, and a version of them."""
    publish.publish_objects(lake, "packed", source, PREFIX, scratch, {})


def publish_in_place(lake: Store, source: Store) -> str:
    """The same without a copy: each is read once for its content id; the version."""
    items = imports.prefix_items(source, PREFIX)
    return inplace.publish_in_place(lake, "in-place", items, lambda name: source, {}).version


@contextmanager
def memory_folder() -> Iterator[Path]:
    """An empty folder on tmpfs, gone after."""
    with tempfile.TemporaryDirectory(prefix="outlap-bench-", dir=MEMORY) as folder:
        yield Path(folder)


def warm(lake: Store, source: Store, version: str, folder: Path) -> None:
    """What a new node does: the rows, the space, every object checked against its content id and written into its pack, marked."""
    want = wanted.save_want(lake, folder / "views", version)
    datasets.make_resident(lake, datasets.cache_in(folder / "cache"), want, lambda name: source)


def fastest(rounds: int, *works: Callable[[Path], float]) -> list[float]:
    """Seconds of the fastest round of each, in turns, each in an empty folder in memory."""
    found = [float("inf")] * len(works)
    for _ in range(rounds):
        for place, work in enumerate(works):
            with memory_folder() as folder:
                found[place] = min(found[place], work(folder))
                shutil.rmtree(folder)
                folder.mkdir()
    return found
