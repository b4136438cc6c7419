"""Legal deletion: a drive goes from every version, tag, pack and list of a store, at once and without a grace.

A version never changes: one that holds the drive is published again without it, the tags that move (`latest` and named ones) are
moved there, its numbered tags are taken away, and it is deleted. Packs that hold the drive's bytes beside others are first packed
again without them. Every step can be killed and run again. What is not in this store is said in the report.

    deletions/<vehicle>-<drive>-<ns>.json      the report
"""

from __future__ import annotations

import itertools
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lake import catalog, leases, manifests, quarantine, recipe_order, refs, repack, stores, trash, versions
from lake.canonical import read_json
from lake.errors import Conflict, NotFound
from lake.garbage import catalog_packs, needed_keys
from lake.holdings import held_by, holdings_key, versions_in
from lake.names import check_part, near_names
from lake.packs import pack_key
from lake.publish import publish_between
from lake.refs import Ref
from lake.stores import Store
from lake.unreadable import Unreadable, read_each
from lake.versions import available_key, read_available

BETWEEN = "outlap.erasure"
REPORTS = "deletions/"
REST = (
    "other IDCs: run the same there",
    "nodes: `outlap free` of the versions named here, then their caches have the bytes no more",
    "objects that were published in place: delete them in the store they lie in",
    "exports, back-ups and checkpoints made from these versions: not in reach",
)


@dataclass(frozen=True)
class Replaced:
    """A version that held the drive. new: the one without it, None when nothing was left. tags: what was moved or taken away."""

    old: str
    new: str | None
    files: int
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Erased:
    """objects: keys that were deleted (in a dry run: that the drive has now); bytes: of these. rest: what this does not reach."""

    vehicle: str
    drive: str
    dry_run: bool
    versions: tuple[Replaced, ...]
    packs_made_anew: int
    objects: tuple[str, ...]
    bytes: int
    rest: tuple[str, ...] = REST


def _landed(store: Store, vehicle: str, drive: str) -> dict[str, int]:
    """Key → size of the upload and of what was said against it."""
    found = {info.key: info.size for info in stores.list_objects(store, f"landing/{vehicle}/{drive}/")}
    said = (stores.head(store, key) for key in quarantine.keys_of(vehicle, drive))
    return found | {info.key: info.size for info in said if info is not None}


def _own_keys(store: Store, vehicle: str, drive: str) -> dict[str, int]:
    """Key → size of what is kept under the drive's name."""
    found = _landed(store, vehicle, drive)
    for date in stores.list_folders(store, f"raw/{vehicle}/"):
        prefix = f"raw/{vehicle}/{date}/{drive}/"
        found |= {info.key: info.size for info in stores.list_objects(store, prefix)}
    for cut in catalog.drives_in(store):
        if (cut.vehicle, cut.drive) == (vehicle, drive):
            key = catalog.frames_key(cut.date, cut.vehicle, cut.drive, cut.recipe)
            info = stores.head(store, key)
            found |= {key: info.size} if info is not None else {}
    marks = stores.list_objects(store, recipe_order.folder_of(vehicle, drive))
    return found | {info.key: info.size for info in marks}


def _is_of(rows: pa.Table, vehicle: str, drive: str) -> pa.ChunkedArray:
    mine = pc.fill_null(pc.equal(rows["drive"], drive), False)
    if "vehicle" in rows.schema.names and pa.types.is_string(rows.schema.field("vehicle").type):
        mine = pc.and_(mine, pc.fill_null(pc.equal(rows["vehicle"], vehicle), True))
    return mine


def _packs_of(store: Store, version: str, vehicle: str, drive: str) -> set[str]:
    """Packs in which a version has files of the drive."""
    found: set[str] = set()
    for rows in versions.rows(store, version):
        found |= set(rows.filter(_is_of(rows, vehicle, drive))["pack"].unique().to_pylist())
    return found


@dataclass
class _Tags:
    """Which tags name which version, also in the trash, and the numbers of datasets: listed once, however many versions there are."""

    store: Store
    by_version: dict[str, list[Ref]]
    trash: dict[str, list[str]]
    numbers: dict[str, refs.Numbers]

    def of(self, version: str) -> list[Ref]:
        return [ref for ref in self.by_version.get(version, ()) if ref.dataset != BETWEEN]

    def number(self, dataset: str, version: str, was: str) -> Ref:
        """The numbered tag that a version has or gets."""
        if dataset not in self.numbers:
            self.numbers[dataset] = refs.list_numbers(self.store, dataset)
        origin = {"by": "outlap delete-drive", "was": was}
        return refs.tag_version(self.store, dataset, version, origin, self.numbers[dataset])


def _list_tags(store: Store, unreadable: list[Unreadable]) -> _Tags:
    found = _Tags(store, {}, {}, {})
    for ref in refs.list_all_refs(store, unreadable):
        found.by_version.setdefault(ref.version, []).append(ref)
    for item in trash.trashed(store, unreadable=unreadable):
        found.trash.setdefault(item.ref.version, []).append(item.key)
    return found


def _was_deleted(store: Store, vehicle: str, drive: str) -> bool:
    """Whether a deletion of the drive has begun or ended: then it may be run again."""
    name = f"{REPORTS}{vehicle}-{drive}"
    keys = [info.key for info in stores.list_objects(store, REPORTS) if info.key.startswith(name)]
    if f"{name}.begun.json" in keys:
        return True
    unreadable: list[Unreadable] = []
    found = read_each(keys, lambda key: read_json(stores.get(store, key), key), unreadable)
    return any((one.get("vehicle"), one.get("drive")) == (vehicle, drive) for one in found)


def _not_found(store: Store, landing: Store | None, vehicle: str, drive: str) -> NotFound:
    known = {f"{cut.vehicle}/{cut.drive}" for cut in catalog.drives_in(store)}
    known |= {"/".join(pair) for pair in quarantine.names(store)}
    for one in (store, *([landing] if landing is not None else [])):
        for name in stores.list_folders(one, "landing/"):
            known |= {f"{name}/{folder}" for folder in stores.list_folders(one, f"landing/{name}/")}
    names = near_names(f"{vehicle}/{drive}", sorted(known))
    return NotFound(
        f"the drive {vehicle}/{drive}",
        f"store {store.name} has neither recordings nor frames nor versions of it; it has: {names}",
        "name one of these",
    )


def erase_drive(
    store: Store,
    vehicle: str,
    drive: str,
    scratch: Path,
    landing: Store | None = None,
    *,
    dry_run: bool = True,
) -> Erased:
    """Delete a drive for good. Raises NotFound, StoreDown, Conflict; then run it again: what was done stays done.

    landing: where it was uploaded, if that is another store; keys there are reported as `store: key`. A drive is found by the columns
    `drive` and `vehicle` of rows; where rows have no vehicle, by `drive` alone.
    """
    check_part("the vehicle", vehicle)
    check_part("the drive", drive)
    holdings = held_by(store, drive, vehicle)
    held = sorted({holding.version for holding in holdings})
    packs: set[str] = set()
    for version in held:
        packs |= _packs_of(store, version, vehicle, drive)
    for cut in catalog.drives_in(store):
        if (cut.vehicle, cut.drive) == (vehicle, drive):
            table = catalog.read_frames(store, cut.date, vehicle, drive, cut.recipe)
            packs |= set(table["pack"].unique().to_pylist())
    own = _own_keys(store, vehicle, drive)
    landed = _landed(landing, vehicle, drive) if landing is not None else {}
    named = {f"{landing.name}: {key}": size for key, size in landed.items()} if landing is not None else {}
    begun = f"{REPORTS}{vehicle}-{drive}.begun.json"  # a deletion that was killed ends with its report, too
    if not (held or packs or own or landed or _was_deleted(store, vehicle, drive)):
        raise _not_found(store, landing, vehicle, drive)
    unreadable: list[Unreadable] = []
    listed = _list_tags(store, unreadable)
    rest = (
        *REST,
        *(f"{one}: whether it names a version that held the drive is not known" for one in unreadable),
    )
    files = {version: sum(one.files for one in holdings if one.version == version) for version in held}
    if dry_run:
        tags = {version: tuple(f"{ref.dataset}@{ref.tag}" for ref in listed.of(version)) for version in held}
        sizes = (
            own
            | named
            | {pack_key(pack): info.size for pack in packs if (info := stores.head(store, pack_key(pack)))}
        )
        replaced = tuple(Replaced(version, None, files[version], tags[version]) for version in held)
        return Erased(vehicle, drive, True, replaced, 0, tuple(sorted(sizes)), sum(sizes.values()), rest)
    stores.put(store, begun, json.dumps({"at_ns": time.time_ns()}).encode())
    done = {version: _replace(store, version, vehicle, drive, listed) for version in held}
    replaced = tuple(
        Replaced(version, done[version][0], files[version], done[version][1]) for version in held
    )
    for ref in refs.list_refs(store, BETWEEN):
        stores.delete(store, refs.ref_key(BETWEEN, ref.tag))
    made_anew = _free_packs(store, set(held), packs, scratch)
    objects = _delete(store, set(held), packs, own, scratch) | named
    for key in landed:
        assert landing is not None
        stores.delete(landing, key)
    report = Erased(
        vehicle, drive, False, replaced, made_anew, tuple(sorted(objects)), sum(objects.values()), rest
    )
    key = f"{REPORTS}{vehicle}-{drive}-{time.time_ns():019d}.json"
    stores.put(store, key, json.dumps(asdict(report), indent=1).encode())
    stores.delete(store, begun)
    return report


def _replace(
    store: Store, version: str, vehicle: str, drive: str, listed: _Tags
) -> tuple[str | None, tuple[str, ...]]:
    """Move or take away every tag of a version, also in the trash; (the version without the drive, the tags)."""
    tags = listed.of(version)
    new = _without(store, version, vehicle, drive) if tags else None
    for ref in tags:
        if new is not None:
            numbered = listed.number(ref.dataset, new, version)
            if not refs.NUMBERED.fullmatch(ref.tag):
                moved = Ref(ref.dataset, ref.tag, new, numbered.at_ns, numbered.origin)
                # a publish that was quicker has moved it on
                refs.move_ref(store, moved, lambda known: known.version == version)
                continue
        with suppress(NotFound):  # by another run of this
            refs.remove_ref(store, ref.dataset, ref.tag)
    for key in listed.trash.get(version, ()):
        stores.delete(store, key)
    return new, tuple(f"{ref.dataset}@{ref.tag}" for ref in tags)


def _without(store: Store, version: str, vehicle: str, drive: str) -> str | None:
    """The version without the drive, published under a name of its own until its tags are there; None when nothing is left."""
    root = manifests.read_root(store, version)
    rows = (part.filter(pc.invert(_is_of(part, vehicle, drive))) for part in versions.rows(store, version))
    left = (part for part in rows if part.num_rows)
    first = next(left, None)
    if first is None:
        return None
    batches = itertools.chain([first], left)
    tag = f"was-{version[:16]}"
    return publish_between(store, BETWEEN, tag, batches, _schema(root), identity=root.identity)


def _schema(root: manifests.Root) -> pa.Schema:
    kinds = {str(kind): kind for kind in (*manifests.TAG_TYPES.values(), pa.int32())}
    columns = [(name, kinds[kind]) for name, kind in root.columns]
    return pa.schema([*columns, ("pack", pa.string()), ("offset", pa.int64())])


def _free_packs(store: Store, held: set[str], packs: set[str], scratch: Path) -> int:
    """Versions that stay get their files out of the packs that hold the drive; how many packs that made."""
    made = 0
    for version in versions_in(store):
        if version in held:
            continue
        there = read_available(store, version)
        mine = {use.id for use in there.packs if use.id not in there.assembled} & packs
        if mine:
            before = {use.id for use in read_available(store, version).packs}
            repack.repack_without(store, version, mine, scratch)
            made += len({use.id for use in read_available(store, version).packs} - before)
    return made


def _delete(
    store: Store, held: set[str], packs: set[str], own: dict[str, int], scratch: Path
) -> dict[str, int]:
    """Delete the drive's objects, and what the versions that held it need and no other does; key → size."""
    with leases.deleting(store, "the deletion of a drive") as lease:
        if lease.writers:
            raise Conflict(
                "the deletion of a drive",
                f"{lease.writers[0]} is running in this store",
                "run it again when that has ended",
            )
        found = dict(own)
        for key in [key for key in own if key.startswith(catalog.PREFIX)]:
            lease.delete(key)  # before what it points at
        gone = needed_keys(store, held) | {pack_key(pack) for pack in packs}
        stay = needed_keys(store, set(versions_in(store)) - held) | catalog_packs(store, scratch)
        both = gone & stay & {pack_key(pack) for pack in packs}
        if both:
            raise Conflict(
                min(both),
                "another drive's catalogue or version is in the same pack",
                "delete that drive with it",
            )
        for key in (*(available_key(version) for version in held), *sorted(gone - stay), *own):
            info = stores.head(store, key)
            if info is not None:
                found[key] = info.size
                lease.delete(key, info)
        for version in held:
            lease.delete(holdings_key(version))
    return found
