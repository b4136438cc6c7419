"""Publish: rows → parts → root → locations → available → tag → `latest`, in this order, each step harmless to repeat.

Nothing is visible before the last two: a reader starts at a ref.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lake import catalog, leases, ledger, manifests, refs, stores
from lake.assemblies import OpenNamed
from lake.availability import confirm, let_appear
from lake.before import version_before
from lake.building import BuiltPart, checked_parts, put_parts
from lake.errors import Empty, Refused
from lake.holdings import tally, write_holdings
from lake.imports import FILE_SCHEMA, ITEMS, Progress, folder_items, no_store, pack_items, prefix_items
from lake.leases import Writing
from lake.manifests import FRAME_COLUMNS, KEY_COLUMNS, TAG_TYPES, PartRef
from lake.names import check_dataset
from lake.packuse import PackCheck
from lake.placed import Placed
from lake.snapshots import Files, keep_snapshot, read_snapshot
from lake.stores import Store
from lake.tagging import MayLeave, point_refs
from lake.versions import Available, is_available, read_available

WHAT = "the rows to publish"


@dataclass(frozen=True)
class Published:
    """is_new: False when `latest` already was this version, and nothing was written. stays: tags that were not moved to it, for they
    name what was published meanwhile and is newer."""

    dataset: str
    tag: str
    version: str
    files: int
    bytes: int
    parts_written: int
    parts_reused: int
    is_new: bool
    stays: tuple[str, ...] = ()


def _columns(schema: Any) -> list[tuple[str, Any]]:
    """(name, type) of the manifest's columns for rows of this schema. Raises Refused."""
    names = set(schema.names)
    missing = [name for name, _ in (*KEY_COLUMNS, ("pack", None), ("offset", None)) if name not in names]
    if missing:
        raise Refused(WHAT, f"they lack {', '.join(missing)}", "start from `select * from frames`")
    fixed = [*KEY_COLUMNS, *FRAME_COLUMNS]
    known = {name for name, _ in fixed} | {"pack", "offset"}
    tags = []
    for column in sorted(names - known):
        kind = _tag_type(schema.field(column).type)
        if kind is None:
            raise Refused(
                f"the column {column!r}",
                f"{schema.field(column).type} is no type of a tag: {', '.join(TAG_TYPES)} are",
                f"cast it, or leave it out (`select * exclude ({column})`)",
            )
        tags.append((column, kind))
    return [*fixed, *tags]


def _tag_type(kind: Any) -> Any:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return TAG_TYPES["string"]
    if pa.types.is_boolean(kind):
        return TAG_TYPES["bool"]
    if pa.types.is_integer(kind):
        return TAG_TYPES["int64"]
    return TAG_TYPES["double"] if pa.types.is_floating(kind) else None


def _shaped(table: pa.Table, columns: list[tuple[str, Any]]) -> pa.Table:
    """The columns of the manifest and then pack and offset, of their types; absent frame columns are null."""
    arrays = [
        table[name].cast(kind) if name in table.schema.names else pa.nulls(table.num_rows, kind)
        for name, kind in columns
    ]
    arrays += [table["pack"].cast(pa.string()), table["offset"].cast(pa.int64())]
    shaped = pa.table(arrays, names=[*(name for name, _ in columns), "pack", "offset"])
    for name in ("path", "content_id", "size", "pack", "offset"):
        if shaped[name].null_count:
            raise Refused(WHAT, f"{name} is null in {shaped[name].null_count} of them")
    return shaped


def publish_rows(
    store: Store,
    dataset: str,
    batches: Iterable[pa.Table],
    schema: Any,
    origin: Mapping[str, Any],
    tag: str | None = None,
    *,
    identity: str = "content",
    keep: Callable[[], object] | None = None,
    may_leave: MayLeave | None = None,
) -> Published:
    """Publish rows (any batches, ascending paths; pack and offset say where the bytes lie in this store).

    identity: what content_id is (lake.manifests.IDENTITIES). keep: writes what the origin speaks of; called only before a new version
    gets its tag. may_leave: whether `latest` may leave what it names, asked when it is moved.
    Raises Refused for rows that cannot be a version (none at all, a path twice, …), NotFound and Corrupt for
    bytes that are not there.
    """
    check_dataset(dataset)
    with leases.writing(store, f"the publish of {dataset}") as lease:
        return _publish(store, lease, dataset, batches, schema, origin, tag, identity, keep, may_leave)


def _publish(
    store: Store,
    lease: Writing,
    dataset: str,
    batches: Iterable[pa.Table],
    schema: Any,
    origin: Mapping[str, Any],
    tag: str | None,
    identity: str,
    keep: Callable[[], object] | None,
    may_leave: MayLeave | None,
) -> Published:
    # what the tags name now may be left behind at the end; what comes meanwhile may be newer
    began = {name: refs.read_ref(store, dataset, name) for name in {refs.LATEST, tag or refs.LATEST}}
    built = _build(store, lease, dataset, batches, schema, identity)
    version, is_new = built.available.version, _names_another(store, dataset, built.available.version)
    if is_new and keep is not None:
        keep()
    pointed = point_refs(store, dataset, version, origin, tag, began=began, may_leave=may_leave)
    if not confirm(store, lease, built.available) and is_new and keep is not None:
        keep()
    return Published(
        dataset,
        pointed.tag,
        version,
        built.files,
        built.bytes,
        built.parts_written,
        built.parts_reused,
        is_new,
        pointed.stays,
    )


def publish_between(
    store: Store, dataset: str, tag: str, batches: Iterable[pa.Table], schema: Any, *, identity: str
) -> str:
    """Publish rows under one named tag alone, without a number: for a version that gets its tags in a moment.

    Args:
        store: the store.
        dataset: the name that keeps it until then.
        tag: the tag that keeps it; it may name something else already.
        batches: rows as `publish_rows` takes them.
        schema: their schema.
        identity: what content_id is.

    Returns:
        The version id.
    """
    with leases.writing(store, f"the publish of {dataset}") as lease:
        built = _build(store, lease, dataset, batches, schema, identity)
        version = built.available.version
        refs.move_ref(store, refs.Ref(dataset, tag, version, time.time_ns()))
        confirm(store, lease, built.available)
        return version


def _names_another(store: Store, dataset: str, version: str) -> bool:
    """Whether `latest` does not name this version now."""
    before = refs.read_ref(store, dataset, refs.LATEST)
    return before is None or before.version != version


@dataclass(frozen=True)
class _Built:
    """A version whose objects are all there, and no ref yet. available: what the store says of it; files, bytes: of its rows."""

    available: Available
    files: int
    bytes: int
    parts_written: int
    parts_reused: int


def _build(
    store: Store,
    lease: Writing,
    dataset: str,
    batches: Iterable[pa.Table],
    schema: Any,
    identity: str,
) -> _Built:
    columns = _columns(schema)
    names = [name for name, _ in columns]
    known = version_before(store, dataset)
    packs, drives, built = PackCheck(store, known), list[pa.Table](), list[BuiltPart]()
    parts = checked_parts((_shaped(batch, columns) for batch in batches), WHAT)
    for part, item in put_parts(store, parts, names, known):
        packs.add(part, item.is_known)
        drives.append(tally(part))
        built.append(item)
    version, root = _root(dataset, columns, [item.part for item in built], identity)
    files, size = sum(item.part.rows for item in built), sum(item.part.bytes for item in built)
    stores.put_if_absent(store, manifests.root_key(version), root)
    write_holdings(store, version, drives)
    locations = tuple(item.locations for item in built)
    made = Available(version, files, size, locations, packs.uses(), packs.assembled())
    there = read_available(store, version) if is_available(store, version) else None
    # packed is better than in place: whoever reads packs only can then have it
    if there is not None and (made.assembled or not there.assembled):
        made = there
    is_new = _names_another(store, dataset, version)
    if is_new or made is not there:
        # written again where it was: so that a collector that found it needless begins its grace anew
        let_appear(store, lease, made, before=there)
    written = sum(item.is_new for item in built)
    return _Built(made, files, size, written, len(built) - written)


def _root(
    dataset: str, columns: Sequence[tuple[str, Any]], parts: Sequence[PartRef], identity: str
) -> tuple[str, bytes]:
    if not parts:
        raise Empty(
            f"the dataset {dataset!r}",
            "there is no file to publish",
            "widen the query (recipes that are not current are in `frames_all`), or check the source",
        )
    return manifests.make_root([(name, str(kind)) for name, kind in columns], parts, identity)


def version_of(dataset: str, batches: Iterable[pa.Table], schema: Any, identity: str = "content") -> str:
    """The id that publish_rows would give these rows; nothing is written, and no pack is looked at."""
    columns = _columns(schema)
    names = [name for name, _ in columns]
    parts = [
        manifests.part_of(part.select(names).combine_chunks())
        for part in checked_parts((_shaped(batch, columns) for batch in batches), WHAT)
    ]
    return _root(dataset, columns, parts, identity)[0]


def publish_query(
    store: Store,
    dataset: str,
    sql: str,
    scratch: Path,
    origin: Mapping[str, Any],
    tag: str | None = None,
    among: Files | None = None,
    may_leave: MayLeave | None = None,
) -> Published:
    """Publish what a SELECT over the catalogue gives. The origin names the query and the snapshot of the catalogue.

    among: the files that the catalogue had at an earlier moment (lake.snapshots), to be asked instead of those that it has now.
    may_leave: as publish_rows has it.
    """
    with catalog.query(store, sql, scratch, among) as answer:
        made_by = {**origin, "query": sql, "catalog": answer.snapshot}
        return publish_rows(
            store,
            dataset,
            answer.rows,
            answer.schema,
            made_by,
            tag,
            keep=lambda: keep_snapshot(store, answer.files),
            may_leave=may_leave,
        )


def rerun_query(store: Store, ref: refs.Ref, scratch: Path) -> str:
    """The version id that the query of a ref gives when it is asked of the same catalogue files again; nothing is written.

    Raises Refused when no query made the version, NotFound when the snapshot or a file of it is gone.
    """
    sql, snapshot = ref.origin.get("query"), ref.origin.get("catalog")
    if not isinstance(sql, str) or not isinstance(snapshot, str):
        raise Refused(
            f"run the query of {ref.dataset}@{ref.tag} again",
            "no query over the catalogue made this version",
            "`outlap show` says what made it",
        )
    with catalog.query(store, sql, scratch, read_snapshot(store, snapshot)) as answer:
        return version_of(ref.dataset, answer.rows, answer.schema)


def publish_items(
    store: Store,
    dataset: str,
    items: pa.Table,
    open_named: OpenNamed,
    scratch: Path,
    origin: Mapping[str, Any],
    tag: str | None = None,
    progress: Progress | None = None,
) -> Published:
    """Publish files packed on the way in. items: ITEMS and any columns of frames and tags, sorted by path.

    Objects that the last import of this dataset brought in, and that have not changed since, are not read again (lake/ledger.py). What
    is read and lies at the same path in the version before with the same bytes is not packed again (lake/placed.py).
    """
    extra = [name for name in items.schema.names if name not in ITEMS.names]
    fields = [pa.field(name, items.schema.field(name).type) for name in extra]
    known = ledger.unchanged(store, dataset, items)

    def packed() -> Iterator[pa.Table]:
        placed = Placed(store, dataset)
        if known is None or not pc.any(known[1]).as_py():
            yield from pack_items(store, items, open_named, scratch, progress, placed)
            return
        fresh = items.filter(pc.invert(known[1]))
        made = [FILE_SCHEMA.empty_table()]
        for table in pack_items(store, fresh, open_named, scratch, progress, placed):
            made.append(table.select(FILE_SCHEMA.names))
        yield from ledger.merged(store, known[0], items.filter(known[1]), pa.concat_tables(made))

    def rows() -> Iterator[pa.Table]:
        start = 0
        for table in packed():
            more = items.slice(start, table.num_rows)
            start += table.num_rows
            for name in extra:
                table = table.append_column(name, more[name])
            yield table

    done = publish_rows(store, dataset, rows(), pa.schema([*FILE_SCHEMA, *fields]), origin, tag)
    if known is None or known[0] != done.version or not pc.all(known[1]).as_py():
        ledger.keep_ledger(store, dataset, done.version, items)
    return done


def publish_folder(
    store: Store, dataset: str, folder: Path, scratch: Path, origin: Mapping[str, Any], tag: str | None = None
) -> Published:
    """Publish the files below a local folder under their relative paths. Raises NotFound."""
    return publish_items(store, dataset, folder_items(folder), no_store, scratch, origin, tag)


def publish_objects(
    store: Store,
    dataset: str,
    source: Store,
    prefix: str,
    scratch: Path,
    origin: Mapping[str, Any],
    tag: str | None = None,
) -> Published:
    """Publish the objects below a prefix of any store, packed on the way in."""
    return publish_items(store, dataset, prefix_items(source, prefix), lambda _: source, scratch, origin, tag)
