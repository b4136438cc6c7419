"""Publish: rows → parts → root → locations → available → tag → `latest`, in this order, each step harmless to repeat.

Nothing is visible before the last two: a reader starts at a ref.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lake import catalog, manifests, refs, stores
from lake.errors import Corrupt, NotFound, Refused
from lake.manifests import FRAME_COLUMNS, KEY_COLUMNS, TAG_TYPES, PartRef
from lake.names import check_dataset, check_path
from lake.packs import ALIGN, PACK_TARGET, PackWriter, pack_key, put_pack, read_members
from lake.stores import Store
from lake.versions import Available, PackUse, is_available, write_available


@dataclass(frozen=True)
class Published:
    """is_new: False when `latest` already was this version, and nothing was written."""

    dataset: str
    tag: str
    version: str
    files: int
    bytes: int
    parts_written: int
    parts_reused: int
    is_new: bool


def _columns(schema: Any) -> list[tuple[str, Any]]:
    """(name, type) of the manifest's columns for rows of this schema. Raises Refused."""
    names = set(schema.names)
    missing = [name for name, _ in (*KEY_COLUMNS, ("pack", None), ("offset", None)) if name not in names]
    if missing:
        raise Refused(
            "the rows to publish", f"they lack {', '.join(missing)}", "start from `select * from frames`"
        )
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
            raise Refused("the rows to publish", f"{name} is null in {shaped[name].null_count} of them")
    return shaped


class _PackCheck:
    """Collects what a version uses of each pack, and checks every row against the pack's own list of members."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sizes: dict[str, int] = {}
        self._uses: dict[str, tuple[int, int]] = {}

    def add(self, part: pa.Table) -> None:
        """Raises NotFound, Corrupt when a row's bytes are not where it says. Packs stay in no memory."""
        for pack in pc.unique(part["pack"]).to_pylist():
            mine = part.filter(pc.equal(part["pack"], pack))
            info = stores.head(self._store, pack_key(pack))
            if info is None:
                raise NotFound(
                    pack_key(pack), f"it is not in store {self._store.name}", "ingest the drive again"
                )
            members = read_members(self._store, pack)
            at = pc.index_in(mine["offset"], members["offset"].combine_chunks())
            same = pc.and_(
                pc.equal(pc.take(members["size"], at), mine["size"]),
                pc.equal(pc.take(members["content_id"], at), mine["content_id"]),
            )
            if not pc.all(pc.fill_null(same, False)).as_py():
                path = pc.filter(mine["path"], pc.invert(pc.fill_null(same, False)))[0].as_py()
                raise Corrupt(
                    f"{path} in {pack_key(pack)}", "the pack does not list it so", "ingest the drive again"
                )
            files, size = self._uses.get(pack, (0, 0))
            self._uses[pack] = (files + mine.num_rows, size + int(pc.sum(mine["size"]).as_py()))
            self._sizes[pack] = info.size

    def uses(self) -> tuple[PackUse, ...]:
        return tuple(PackUse(pack, self._sizes[pack], *self._uses[pack]) for pack in sorted(self._uses))


def publish_rows(
    store: Store,
    dataset: str,
    batches: Iterable[pa.Table],
    schema: Any,
    origin: Mapping[str, Any],
    tag: str | None = None,
) -> Published:
    """Publish rows (any batches, ascending paths; pack and offset say where the bytes lie in this store).

    Raises Refused for rows that cannot be a version (none at all, a path twice, …), NotFound and Corrupt for bytes that are not there.
    """
    check_dataset(dataset)
    columns = _columns(schema)
    names = [name for name, _ in columns]
    parts: list[PartRef] = []
    locations: list[str] = []
    written, above, last = 0, set[str](), ""
    packs = _PackCheck(store)
    for part in manifests.cut_parts(_shaped(batch, columns) for batch in batches):
        part = part.combine_chunks()
        manifests.check_paths(part["path"], "the rows to publish")
        if parts and part["path"][0].as_py() <= last:
            raise Refused(
                f"the path {part['path'][0].as_py()!r}", "it stands twice, or the rows are not sorted by path"
            )
        above = manifests.check_folders(part["path"], above, "the rows to publish")
        packs.add(part)
        reference, is_new = manifests.put_part(store, part.select(names))
        locations.append(manifests.put_locations(store, part))
        parts.append(reference)
        written, last = written + is_new, reference.last
    if not parts:
        raise Refused(
            f"the dataset {dataset!r}", "there is no file to publish", "widen the query, or check the source"
        )
    version, root = manifests.make_root([(name, str(kind)) for name, kind in columns], parts)
    files, size = sum(part.rows for part in parts), sum(part.bytes for part in parts)
    stores.put_if_absent(store, manifests.root_key(version), root)
    if not is_available(store, version):
        write_available(store, Available(version, files, size, tuple(locations), packs.uses()))
    before = refs.read_ref(store, dataset, refs.LATEST)
    numbered = point_refs(store, dataset, version, origin, tag)
    is_new = before is None or before.version != version
    return Published(dataset, numbered, version, files, size, written, len(parts) - written, is_new)


def point_refs(
    store: Store, dataset: str, version: str, origin: Mapping[str, Any], tag: str | None = None
) -> str:
    """Give a version its number, then its tag, then `latest`; the number's tag."""
    numbered = refs.tag_version(store, dataset, version, origin)
    for name in (*([tag] if tag and tag != numbered.tag else []), refs.LATEST):
        refs.move_ref(store, refs.Ref(dataset, name, version, numbered.at_ns, numbered.origin))
    return numbered.tag


def publish_query(
    store: Store, dataset: str, sql: str, scratch: Path, origin: Mapping[str, Any], tag: str | None = None
) -> Published:
    """Publish what a SELECT over the catalogue gives."""
    with catalog.query(store, sql, scratch) as answer:
        made_by = {**origin, "query": sql, "catalog": answer.snapshot}
        return publish_rows(store, dataset, answer.rows, answer.schema, made_by, tag)


def _pack_files(
    store: Store, sources: Iterable[tuple[str, Callable[[], bytes]]], scratch: Path
) -> Iterator[pa.Table]:
    """Pack files (ascending paths) and upload each pack; rows of each."""
    scratch.mkdir(parents=True, exist_ok=True)
    local = scratch / f"publish-{time.time_ns()}.tar"
    writer: PackWriter | None = None

    def finish(writer: PackWriter) -> pa.Table:
        pack = writer.finish()
        put_pack(store, pack.id, local)
        columns = pack.members.rename_columns(["path", "offset", "size", "content_id"])
        return columns.append_column("pack", pa.array([pack.id] * columns.num_rows, pa.string()))

    try:
        for path, read in sources:
            data = read()
            if writer is not None and writer.size + len(data) + ALIGN > PACK_TARGET:
                yield finish(writer)
                writer = None
            writer = writer or PackWriter(local)
            writer.add(check_path(path), data)
        if writer is not None:
            yield finish(writer)
    finally:
        local.unlink(missing_ok=True)


_FILE_SCHEMA = pa.schema([*KEY_COLUMNS, ("pack", pa.string()), ("offset", pa.int64())])


def publish_folder(
    store: Store, dataset: str, folder: Path, scratch: Path, origin: Mapping[str, Any], tag: str | None = None
) -> Published:
    """Publish the files below a local folder under their relative paths. Raises NotFound."""
    if not folder.is_dir():
        raise NotFound(f"the folder {folder}", "there is none", "name a folder of files")
    files = sorted(
        ((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()),
        key=lambda pair: pair[0].encode("utf-8", "surrogatepass"),
    )
    sources = ((name, path.read_bytes) for name, path in files)
    return publish_rows(store, dataset, _pack_files(store, sources, scratch), _FILE_SCHEMA, origin, tag)


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
    base = prefix.strip("/") + "/" if prefix.strip("/") else ""
    keys = sorted((info.key for info in stores.list_objects(source, base)), key=str.encode)
    sources = ((key.removeprefix(base), lambda key=key: stores.get(source, key)) for key in keys)
    return publish_rows(store, dataset, _pack_files(store, sources, scratch), _FILE_SCHEMA, origin, tag)
