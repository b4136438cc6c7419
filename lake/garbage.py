"""Garbage: what no tag, tag in the trash, pin or catalogue file needs. It is marked first, and deleted when a later run finds it
still unneeded after the grace; nothing is moved, so until then there is nothing to undo.

    trash/marks.parquet     key, size, etag of what is garbage, and when a run first saw that

Needed are, of each version that is needed: root, parts, locations, available, summary of drives, snapshot, packs and assemblies; and
the packs of every file of the catalogue. Only keys of these forms are ever deleted. Writers in progress hold it off (lake/leases.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lake import catalog, leases, manifests, refs, stores, trash
from lake.assemblies import assembly_key
from lake.canonical import is_hash
from lake.catalogcache import cache_folder, local_copies
from lake.errors import NotFound
from lake.holdings import holdings_key
from lake.packs import pack_key, parquet_bytes
from lake.snapshots import snapshot_key
from lake.stores import Info, Store
from lake.trash import DAY_NS, GRACE_DAYS
from lake.versions import available_key, read_available

MARKS = "trash/marks.parquet"
HASH = "[0-9a-f]{64}"
FORMS = {
    "manifests/parts/": rf"manifests/parts/{HASH}\.parquet",
    "manifests/roots/": rf"manifests/roots/{HASH}\.json",
    "locations/": rf"locations/{HASH}\.parquet",
    "available/": rf"available/{HASH}\.json",
    "drives/": rf"drives/{HASH}\.parquet",
    "assemblies/": rf"assemblies/{HASH}\.parquet",
    "catalog/snapshots/": rf"catalog/snapshots/{HASH}\.parquet",
    "packs/": rf"packs/[0-9a-f]{{2}}/{HASH}\.tar",
}
PARALLEL = 8


@dataclass(frozen=True)
class Collected:
    """tags: that went to the trash by retention; expired: whose grace in the trash is over; marked: garbage now, waiting for its grace;
    deleted: gone (in a dry run: what a run would do). held_by: writers because of whom nothing was deleted."""

    dry_run: bool
    tags: tuple[str, ...]
    expired: tuple[str, ...]
    marked: int
    marked_bytes: int
    deleted: tuple[str, ...]
    deleted_bytes: int
    held_by: tuple[str, ...] = ()


def needed_keys(store: Store, versions: Iterable[str], snapshots: Iterable[str] = ()) -> set[str]:
    """Keys of everything that these versions need in this store."""

    def one(version: str) -> set[str]:
        keys = {manifests.root_key(version), available_key(version), holdings_key(version)}
        try:
            root, there = manifests.read_root(store, version), read_available(store, version)
        except NotFound:
            return keys  # a tag of a version that has not (wholly) arrived: it has nothing here to lose
        keys |= {manifests.part_key(part.id) for part in root.parts}
        keys |= {manifests.location_key(location) for location in there.locations}
        return keys | {
            assembly_key(use.id) if use.id in there.assembled else pack_key(use.id) for use in there.packs
        }

    with ThreadPoolExecutor(PARALLEL) as pool:
        found = set().union(*pool.map(one, sorted(set(versions))))
    return found | {snapshot_key(snapshot) for snapshot in snapshots}


def catalog_packs(store: Store, scratch: Path) -> set[str]:
    """Keys of the packs that the files of the catalogue point into."""
    infos = list(stores.list_objects(store, catalog.PREFIX))
    keys: set[str] = set()
    for path in local_copies(store, infos, cache_folder(scratch), scratch / "frames"):
        keys |= {
            pack_key(pack) for pack in pq.read_table(path, columns=["pack"])["pack"].unique().to_pylist()
        }
        path.unlink()
    return keys


def _live(store: Store, kept_trash: Iterable[trash.Trashed], also: Iterable[str]) -> set[str]:
    named = [ref for dataset in refs.list_datasets(store) for ref in refs.list_refs(store, dataset)]
    named += [item.ref for item in kept_trash]
    snapshots = {str(ref.origin.get("catalog")) for ref in named}
    versions = [*(ref.version for ref in named), *also]
    return needed_keys(store, versions, (snapshot for snapshot in snapshots if is_hash(snapshot)))


def _read_marks(store: Store) -> dict[str, tuple[str, int]]:
    """key → (etag, marked_ns)."""
    try:
        table = pq.read_table(pa.BufferReader(stores.get(store, MARKS)))
    except NotFound:
        return {}
    columns = (table[name].to_pylist() for name in ("key", "etag", "marked_ns"))
    return {key: (etag, marked) for key, etag, marked in zip(*columns, strict=True)}


def _write_marks(store: Store, garbage: list[Info], marks: dict[str, tuple[str, int]]) -> None:
    rows = [(info.key, info.size, *marks[info.key]) for info in garbage]
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    types = (pa.string(), pa.int64(), pa.string(), pa.int64())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    stores.put(store, MARKS, parquet_bytes(pa.table(arrays, names=["key", "size", "etag", "marked_ns"])))


def collect(
    store: Store,
    scratch: Path,
    also: Iterable[str] = (),
    *,
    dry_run: bool = True,
    grace_days: float = GRACE_DAYS,
    now_ns: Callable[[], int] = time.time_ns,
) -> Collected:
    """Apply retention, empty the trash of what is past its grace, mark garbage, delete what was marked before the grace.

    also: versions that are needed for other reasons (pins of nodes). Raises StoreDown: then nothing more is deleted.
    """
    now, also = now_ns(), list(also)
    limit = now - int(grace_days * DAY_NS)
    leaving = trash.past_retention(store, now)
    bin_ = trash.trashed(store)
    expired = [item for item in bin_ if item.deleted_ns <= limit]
    if not dry_run:
        bin_ += [trash.delete_tag(store, ref.dataset, ref.tag) for ref in leaving]
        for item in expired:
            stores.delete(store, item.key)
    kept = [item for item in bin_ if item not in expired]
    # a dry run: what is to leave stays needed through the trash, as it would
    needed = _live(store, kept, also) | catalog_packs(store, scratch)
    garbage = [
        info
        for prefix, form in FORMS.items()
        for info in stores.list_objects(store, prefix)
        if info.key not in needed and re.fullmatch(form, info.key)
    ]
    old = _read_marks(store)
    # an object that was written again meanwhile begins its grace anew
    marks = {
        info.key: old[info.key]
        if old.get(info.key, ("", 0))[0] == (info.etag or "")
        else (info.etag or "", now)
        for info in garbage
    }
    due = _due(store, garbage, marks, limit)
    held: tuple[str, ...] = ()
    if not dry_run:
        if due:
            due, held = _delete(store, due, kept, also, scratch)
        gone = {info.key for info in due}
        _write_marks(store, [info for info in garbage if info.key not in gone], marks)
    gone = {info.key for info in due}
    waiting = [info for info in garbage if info.key not in gone]
    return Collected(
        dry_run,
        tuple(f"{ref.dataset}@{ref.tag}" for ref in leaving),
        tuple(f"{item.ref.dataset}@{item.ref.tag}" for item in expired),
        len(waiting),
        sum(info.size for info in waiting),
        tuple(sorted(gone)),
        sum(info.size for info in due),
        held,
    )


def _due(store: Store, garbage: list[Info], marks: dict[str, tuple[str, int]], limit: int) -> list[Info]:
    """Garbage whose grace is over; what a version says to be there goes only with, or after, its word that it is."""
    young = [
        info.key.removeprefix("available/").removesuffix(".json")
        for info in garbage
        if info.key.startswith("available/") and marks[info.key][1] > limit
    ]
    spoken_for = needed_keys(store, young)
    return [info for info in garbage if marks[info.key][1] <= limit and info.key not in spoken_for]


def _delete(
    store: Store, due: list[Info], kept: list[trash.Trashed], also: list[str], scratch: Path
) -> tuple[list[Info], tuple[str, ...]]:
    """Delete what is still unneeded while nobody writes; (what was deleted, who writes)."""
    with leases.deleting(store) as writers:
        if writers:
            return [], tuple(writers)
        # again: a tag or a drive may have come while we counted
        needed = _live(store, kept, also) | catalog_packs(store, scratch)
        due = [info for info in due if info.key not in needed]
        # what makes a version readable goes first: a run that is killed leaves none that seems whole
        order, gone, started = ("available/", "manifests/roots/"), list[Info](), time.monotonic()
        for info in sorted(due, key=lambda info: (not info.key.startswith(order), info.key)):
            if time.monotonic() - started > leases.DELETE_S / 2:
                break  # the rest next time: our own lease ends too
            stores.delete(store, info.key)
            gone.append(info)
    return gone, ()
