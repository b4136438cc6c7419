"""Plans of a new day of 1 % beside those of everything: what a sync has to move, and what a node has to hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks import lakerows, lakestore
from cacheengine import wanted
from lake import manifests, refs, stores, sync, verified, versions
from lake.stores import Store

ROUNDS = 5


def _copy(source: Store, target: Store, version: str) -> None:
    """A version without its packs."""
    root, there = versions.read_whole(source, version)
    for part in root.parts:
        manifests.copy_part(source, target, part.id)
    for item in there.locations:
        manifests.copy_locations(source, target, item)
    key = manifests.root_key(version)
    stores.put_if_absent(target, key, stores.get(source, key))
    versions.write_available(target, there)


def _seconds(work: Callable[[], object]) -> float:
    def once() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return median(once() for _ in range(ROUNDS))


def measure(folder: Path) -> dict[str, float]:
    """Seconds of plans of the versions `old` and `grown` that lie in `folder` (benchmarks.lakerows), in a SeaweedFS of its own."""
    made = lakerows.open_folder(folder)
    old, grown = ((folder / name).read_text() for name in ("old", "grown"))
    with lakestore.seaweed(folder / "weed") as server:
        for version in (old, grown):
            _copy(made, server.packed, version)
        full = _seconds(lambda: sync.plan(server.packed, server.in_place, grown, "front"))
        _copy(made, server.in_place, old)
        refs.move_ref(server.in_place, refs.Ref("front", refs.LATEST, old, 1, {}))
        verified.keep_verified(server.in_place, "front", old)
        new = _seconds(lambda: sync.plan(server.packed, server.in_place, grown, "front"))
        views = folder / "views"
        started = time.perf_counter()
        wanted.save_want(server.packed, views, old)
        rows = time.perf_counter()
        wanted.save_want(server.packed, views, grown)
        ended = time.perf_counter()
    return {"sync": full, "sync new": new, "warm": rows - started, "warm new": ended - rows}
