"""The files of the benchmarks: made once, as plain files; published as a real version; warmed into a cache by our own fetch."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cacheengine import wanted
from cacheengine.fetching import fetch
from cacheengine.node import CacheDirConfig
from cacheengine.packs import packcache, reserving
from cacheengine.packs.packcache import Cache
from cacheengine.packs.reserving import Need
from cacheengine.wanted import Want
from lake.assemblies import OpenNamed
from lake.config import StoreConfig
from lake.errors import Explained
from lake.publish import publish_folder
from lake.reading import no_other_store
from lake.stores import Store, open_store

CONCURRENCY = 8  # the default of a node


@dataclass(frozen=True)
class Files:
    """names: relative paths in random order, as they will be read; sizes in bytes together."""

    kind: str
    folder: Path
    names: tuple[str, ...]
    bytes: int


def make_files(folder: Path, kind: str, count: int, sizes: Callable[[random.Random], int]) -> Files:
    """Files that no compression helps, over six cameras and folders of 500, written in the order of their names."""
    source = random.Random(f"{kind} {count}")
    block = source.randbytes(4 << 20)
    names, total = [], 0
    for place in range(count):
        camera, ordinal = divmod(place, -(-count // 6))
        name = f"CAM_{camera}/{ordinal // 500:04d}/{place:09d}.jpg"
        path = folder / name
        if ordinal % 500 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        size = sizes(source)
        start = source.randrange(len(block) - size)
        # its number first, so that no two files are the same bytes
        path.write_bytes((place.to_bytes(8, "big") + block[start : start + size])[:size])
        names.append(name)
        total += size
    source.shuffle(names)
    return Files(kind, folder, tuple(names), total)


def frame_size(source: random.Random) -> int:
    """30–300 kB, 111 kB in the mean: few large ones, as JPEGs of a drive are."""
    return int(min(300_000, 30_000 + source.expovariate(1 / 90_000)))


def small_size(source: random.Random) -> int:
    """2–14 kB."""
    return source.randint(2_000, 14_000)


def folder_store(folder: Path) -> Store:
    """A store in a folder."""
    return open_store(StoreConfig(name="lake", idc="here", url=f"file://{folder}"))


@dataclass(frozen=True)
class Version:
    """A published version. views: where its rows are saved for views and readers."""

    files: Files
    want: Want
    store: Store
    views: Path


def publish(files: Files, store: Store, state: Path, scratch: Path) -> Version:
    """Publish the files as they are, and save the rows of the version as a node does."""
    made = publish_folder(store, files.kind, files.folder, scratch, {})
    views = state / "views"
    return Version(files, wanted.save_want(store, views, made.version), store, views)


def cache_in(folder: Path, medium: str = "ssd") -> Cache:
    """A cache directory with room for everything the benchmark makes."""
    config = {"path": folder, "medium": medium, "quota": 64 << 30}
    return packcache.open_cache([CacheDirConfig.model_validate(config)])


def warm(version: Version, cache: Cache, want: Want | None = None) -> None:
    """What a node's warm does: reserve the space, fetch, check, write, sync, mark; then count what the records say.

    want: the rows, when they were saved anew. Raises Explained when not every file is resident in the end.
    """
    make_resident(version.store, cache, want or version.want)


def make_resident(store: Store, cache: Cache, chosen: Want, open_named: OpenNamed = no_other_store) -> None:
    """The same of any rows. open_named: stores of objects that were published in place."""
    parts = [fetch.unique_members(part)[0] for part in wanted.read_packs(chosen)]
    needs = [Need(part.pack, part.size, part.offset, part.length) for part in parts]
    placed = reserving.reserve(cache, needs, "the benchmark", lambda _: False, lambda: "make room")
    jobs = [fetch.PackJob(part, placed[part.pack]) for part in parts]
    bad = fetch.fetch(store, jobs, CONCURRENCY, sources=fetch.Sources(open_named=open_named))
    resident = sum(
        int(np.count_nonzero(packcache.resident(cache, part))) for part in wanted.read_packs(chosen)
    )
    if bad or resident != chosen.files:
        why = bad[0].cause if bad else f"{resident} of {chosen.files} files are resident"
        raise Explained("the warm of the benchmark", why, "see its cause")


def pack_paths(version: Version, cache: Cache) -> tuple[Path, ...]:
    """The packs of a version in a cache, in the order of its devices."""
    return tuple(packcache.pack_path(cache.dirs[0], part.id) for part in version.want.packs)


def settle() -> None:
    """Everything written so far on disk: what is measured next does not pay for it."""
    os.sync()
