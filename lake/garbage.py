"""Garbage: what no tag, tag in the trash, pin or catalogue file needs. It is marked first, and deleted when a later run finds it
still unneeded after the grace; nothing is moved, so until then there is nothing to undo.

    trash/marks.parquet     key, size, etag, age of what is garbage, and when a run first saw that

Needed are, of each version that is needed: root, parts, locations, available, summary of drives, snapshot, packs and assemblies; and
the packs of every file of the catalogue. Only keys of these forms are ever deleted. Writers in progress hold it off (lake/leases.py),
each delete is fenced (lake/fenced_deletes.py), and what any `available` speaks of that is not to be deleted itself is spared. An
object that cannot be read is told, and all that it may need is kept (`_SPARED_BY`); the rest is collected all the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lake import catalog, leases, manifests, refs, stores, trash
from lake.assemblies import assembly_key
from lake.canonical import is_hash
from lake.catalogcache import MEND, cache_folder, local_copies
from lake.errors import Conflict, Corrupt, NotFound, Refused
from lake.holdings import holdings_key, versions_in
from lake.packs import pack_key, parquet_bytes
from lake.snapshots import snapshot_key
from lake.stores import Info, Store
from lake.trash import DAY_NS, GRACE_DAYS
from lake.unreadable import Unreadable, set_aside
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
STOP_S = 1800.0  # a run deletes for so long, the next goes on
Mark = tuple[
    str, int, int
]  # etag and age (ns, by the store) of an object, and when it was first seen to be garbage


@dataclass(frozen=True)
class Collected:
    """tags: that went to the trash by retention; expired: whose grace in the trash is over; marked: garbage now, waiting for its grace;
    deleted: gone (in a dry run: what a run would do). held_by: writers because of whom nothing was deleted. unreadable: what could not
    be read, so that what it may need is kept; spared: prefixes of which nothing is collected because of that."""

    dry_run: bool
    tags: tuple[str, ...]
    expired: tuple[str, ...]
    marked: int
    marked_bytes: int
    deleted: tuple[str, ...]
    deleted_bytes: int
    held_by: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    spared: tuple[str, ...] = ()


def needed_keys(
    store: Store,
    versions: Iterable[str],
    snapshots: Iterable[str] = (),
    unreadable: list[Unreadable] | None = None,
) -> set[str]:
    """Find the keys of everything that some versions need in a store.

    Args:
        store: the store.
        versions: ids of the versions; one that has not (wholly) arrived needs what is there of it.
        snapshots: ids of snapshots of the catalogue.
        unreadable: takes roots and availabilities that cannot be read; None raises Corrupt for the first one.

    Returns:
        The keys, without those that only an unreadable object could tell.
    """
    bad: list[Unreadable] = []

    def one(version: str) -> set[str]:
        keys = {manifests.root_key(version), available_key(version), holdings_key(version)}
        try:
            keys |= {manifests.part_key(part.id) for part in manifests.read_root(store, version).parts}
        except NotFound:
            return keys  # a tag of a version that has not (wholly) arrived: it has nothing here to lose
        except Corrupt as error:
            set_aside(manifests.root_key(version), error, bad)
        try:
            there = read_available(store, version)
        except NotFound:
            return keys
        except Corrupt as error:
            set_aside(available_key(version), error, bad)
            return keys
        keys |= {manifests.location_key(location) for location in there.locations}
        return keys | {
            assembly_key(use.id) if use.id in there.assembled else pack_key(use.id) for use in there.packs
        }

    with ThreadPoolExecutor(PARALLEL) as pool:
        found = set().union(*pool.map(one, sorted(set(versions))))
    for problem in bad:
        set_aside(problem.key, Corrupt(problem.key, problem.why), unreadable)
    return found | {snapshot_key(snapshot) for snapshot in snapshots}


def catalog_packs(store: Store, scratch: Path, unreadable: list[Unreadable] | None = None) -> set[str]:
    """Find the keys of the packs that the files of the catalogue point into.

    Args:
        store: the store.
        scratch: a folder for copies.
        unreadable: takes the files that cannot be read; None raises Corrupt for the first one.

    Returns:
        The keys.
    """
    infos = list(stores.list_objects(store, catalog.PREFIX))
    keys: set[str] = set()
    copies = local_copies(store, infos, cache_folder(scratch), scratch / "frames", unreadable)
    for key, path in copies.items():
        try:
            packs = pq.read_table(path, columns=["pack"])["pack"].unique().to_pylist()
            keys |= {pack_key(pack) for pack in packs}
        except (pa.ArrowException, OSError, KeyError, Refused) as error:
            set_aside(key, Corrupt(key, f"it is no file of the catalogue: {error}", MEND), unreadable)
        path.unlink()
    return keys


# What an object that cannot be read may need: nothing below these prefixes is collected while there is one. A ref or an entry of the
# trash may name any version, so every version of the store is kept for it.
_SPARED_BY: dict[str, tuple[str, ...]] = {
    "refs/": ("catalog/snapshots/",),
    trash.PREFIX: ("catalog/snapshots/",),
    "manifests/roots/": ("manifests/parts/",),
    "available/": ("locations/", "packs/", "assemblies/"),
    catalog.PREFIX: ("packs/", "assemblies/"),
}


def _spared(unreadable: Iterable[Unreadable]) -> tuple[str, ...]:
    found = {
        prefix
        for one in unreadable
        for begin, prefixes in _SPARED_BY.items()
        if one.key.startswith(begin)
        for prefix in prefixes
    }
    return tuple(sorted(found))


def _every_version(store: Store) -> set[str]:
    """Ids of all versions of which the store has a root or an availability."""
    found = set()
    for prefix in ("manifests/roots/", "available/"):
        names = (info.key.removeprefix(prefix) for info in stores.list_objects(store, prefix))
        found |= {name.removesuffix(".json") for name in names if is_hash(name.removesuffix(".json"))}
    return found


@dataclass(frozen=True)
class _Roots:
    """What collection starts from. trash: entries whose grace lasts, None for all that is in the trash after the tags were read: a tag
    goes there before it goes; also: versions that are needed for other reasons."""

    trash: tuple[trash.Trashed, ...] | None
    also: tuple[str, ...]


def _live(store: Store, roots: _Roots, scratch: Path, unreadable: list[Unreadable]) -> set[str]:
    """Keys of everything that is needed; what `_spared` gives of unreadable is needed too."""
    named = [*refs.list_all_refs(store, unreadable)]
    binned = trash.trashed(store, unreadable=unreadable) if roots.trash is None else roots.trash
    named += [item.ref for item in binned]
    versions = {*(ref.version for ref in named), *roots.also}
    if any(one.key.startswith(("refs/", trash.PREFIX)) for one in unreadable):
        versions |= _every_version(store)
    snapshots = {str(ref.origin.get("catalog")) for ref in named}
    needed = needed_keys(store, versions, (one for one in snapshots if is_hash(one)), unreadable)
    return needed | catalog_packs(store, scratch, unreadable)


def _read_marks(store: Store, unreadable: list[Unreadable]) -> tuple[dict[str, Mark], str | None]:
    """(key → mark, etag of the list). Where it cannot be read every grace begins anew.

    Marks of an earlier release know no age: what they name begins its grace anew, too.
    """
    try:
        data, listed = stores.get_with_info(store, MARKS)
    except NotFound:
        return {}, None
    try:
        table = pq.read_table(pa.BufferReader(data))
        if "modified_ns" not in table.schema.names:
            return {}, listed.etag
        columns = [table[name].to_pylist() for name in ("key", "etag", "modified_ns", "marked_ns")]
    except (pa.ArrowException, OSError, KeyError) as error:
        set_aside(MARKS, Corrupt(MARKS, f"every grace begins anew: {error}"), unreadable)
        return {}, listed.etag
    return {key: (etag, age, marked) for key, etag, age, marked in zip(*columns, strict=True)}, listed.etag


def _write_marks(store: Store, garbage: list[Info], marks: dict[str, Mark], etag: str | None) -> None:
    rows = [(info.key, info.size, *marks[info.key]) for info in garbage]
    columns = list(zip(*rows, strict=True)) or [(), (), (), (), ()]
    types = (pa.string(), pa.int64(), pa.string(), pa.int64(), pa.int64())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    names = ["key", "size", "etag", "modified_ns", "marked_ns"]
    with suppress(Conflict, NotFound):  # another run wrote its own meanwhile: they stand, ours may be older
        stores.compare_and_swap(store, MARKS, parquet_bytes(pa.table(arrays, names=names)), etag)


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
    now, unreadable = now_ns(), list[Unreadable]()
    limit = now - int(grace_days * DAY_NS)
    bin_ = trash.trashed(store, unreadable=unreadable)
    leaving = trash.past_retention(store, now, refs.list_all_refs(store, unreadable), unreadable)
    expired = [item for item in bin_ if item.deleted_ns <= limit]
    if not dry_run:
        bin_ += [trash.delete_tag(store, ref.dataset, ref.tag) for ref in leaving]
        for item in expired:
            stores.delete(store, item.key)
    roots = _Roots(tuple(item for item in bin_ if item not in expired), tuple(also))
    # a dry run: what is to leave stays needed through the trash, as it would
    needed = _live(store, roots, scratch, unreadable)
    spared = _spared(unreadable)
    garbage = [
        info
        for prefix, form in FORMS.items()
        for info in stores.list_objects(store, prefix)
        if info.key not in needed and not info.key.startswith(spared) and re.fullmatch(form, info.key)
    ]
    old, marks_etag = _read_marks(store, unreadable)
    # an object that was written again meanwhile begins its grace anew: its bytes, and so its etag, may be the same
    marks: dict[str, Mark] = {}
    for info in garbage:
        known = old.get(info.key)
        is_same = known is not None and known[:2] == (info.etag or "", info.modified_ns)
        marks[info.key] = known if known is not None and is_same else (info.etag or "", info.modified_ns, now)
    due = _due(store, garbage, marks, limit, unreadable)
    held: tuple[str, ...] = ()
    if not dry_run:
        if due:
            due, held = _delete(store, due, roots.also, scratch, unreadable)
        gone = {info.key for info in due}
        _write_marks(store, [info for info in garbage if info.key not in gone], marks, marks_etag)
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
        tuple(unreadable),
        _spared(unreadable),
    )


def _due(
    store: Store, garbage: list[Info], marks: dict[str, Mark], limit: int, unreadable: list[Unreadable]
) -> list[Info]:
    """Garbage whose grace is over; what a version says to be there goes only with, or after, its word that it is."""
    young = [
        info.key.removeprefix("available/").removesuffix(".json")
        for info in garbage
        if info.key.startswith("available/") and marks[info.key][2] > limit
    ]
    spoken_for = needed_keys(store, young, unreadable=unreadable)
    spared = _spared(unreadable)
    return [
        info
        for info in garbage
        if marks[info.key][2] <= limit and info.key not in spoken_for and not info.key.startswith(spared)
    ]


def _delete(
    store: Store, due: list[Info], also: tuple[str, ...], scratch: Path, unreadable: list[Unreadable]
) -> tuple[list[Info], tuple[str, ...]]:
    """Delete what is still unneeded while nobody writes; (what was deleted, who writes or waits to)."""
    with leases.deleting(store) as lease:
        if lease.writers:
            return [], tuple(lease.writers)
        # again: a tag, a drive or a version may have come while we counted
        needed = _live(store, _Roots(None, also), scratch, unreadable)
        due = _still_there(store, [info for info in due if info.key not in needed])
        going = {info.key for info in due}
        others = [v for v in versions_in(store) if available_key(v) not in going | needed]
        spoken_for = needed_keys(store, others, unreadable=unreadable)
        spared = _spared(unreadable)
        due = [info for info in due if info.key not in spoken_for and not info.key.startswith(spared)]
        # what makes a version readable goes first: a run that is killed leaves none that seems whole
        order, gone, started = ("available/", "manifests/roots/"), list[Info](), leases.boot_s()
        for info in sorted(due, key=lambda info: (not info.key.startswith(order), info.key)):
            waiting = lease.waiting()
            if waiting or leases.boot_s() - started > STOP_S:
                return gone, tuple(waiting)  # the rest next time
            if lease.delete(info.key, info):
                gone.append(info)
    return gone, ()


def _still_there(store: Store, due: list[Info]) -> list[Info]:
    """Without the words that a version is there which were written again since they were listed."""
    now = {info.key: info for info in stores.list_objects(store, "available/")}
    return [info for info in due if not info.key.startswith("available/") or now.get(info.key) == info]
