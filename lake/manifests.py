"""Manifests: what a version is, apart from where its bytes lie.

A version is a root (canonical JSON; its BLAKE3 is the version id) over parts: rows sorted by the bytes of their path. A part's id
is the BLAKE3 of its canonical column bytes, not of the Parquet file, so that another writer library gives the same id:

    canonical JSON {"columns": [[name, type], …], "rows": n}, then for each column
        one bit a row, "is there", packed big-endian;
        strings: lengths as little-endian int64, then all bytes; booleans: one byte a row; others: little-endian values (null as zero)

A part ends before a row whose path hash says so (1 in 8,192), so that new rows change few parts; 1 M rows at most.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from lake import keptfiles, stores
from lake.canonical import blake3_hex, canonical_json, is_hash, read_json
from lake.errors import Corrupt, NotFound, Refused
from lake.packs import parquet_bytes
from lake.paths import check_folders as check_folders
from lake.paths import check_paths as check_paths
from lake.paths import check_utf8, path_hashes, text_bytes
from lake.stores import Store

KEY_COLUMNS: tuple[tuple[str, Any], ...] = (
    ("path", pa.string()),
    ("content_id", pa.string()),
    ("size", pa.int64()),
)
FRAME_COLUMNS: tuple[tuple[str, Any], ...] = (
    ("drive", pa.string()),
    ("channel", pa.string()),
    ("timestamp_ns", pa.int64()),
    ("sample_id", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("recipe", pa.string()),
)
LOCATION_SCHEMA = pa.schema([("pack", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
TAG_TYPES = {"string": pa.string(), "bool": pa.bool_(), "int64": pa.int64(), "double": pa.float64()}
MAX_PART_ROWS = 1_000_000
CUT_MASK = np.uint64(0x1FFF)
IS_HEX = np.isin(np.arange(256), np.frombuffer(b"0123456789abcdef", np.uint8))
# EROFS counts blocks of 4 KiB in 32 bits
MAX_FILE = 1 << 44
# what content_id is: the BLAKE3 of the file's bytes, or of the canonical JSON [store, key, etag, size] (lake/inplace.py)
IDENTITIES = ("content", "etag")


@dataclass(frozen=True)
class PartRef:
    """id: of its canonical column bytes; bytes: sum of file sizes; first, last: paths."""

    id: str
    rows: int
    bytes: int
    first: str
    last: str


@dataclass(frozen=True)
class Root:
    """identity: what content_id is (IDENTITIES); columns: (name, type) of the rows."""

    identity: str
    files: int
    bytes: int
    columns: tuple[tuple[str, str], ...]
    parts: tuple[PartRef, ...]


def part_key(part_id: str) -> str:
    return f"manifests/parts/{_checked_id(part_id)}.parquet"


def location_key(location_id: str) -> str:
    return f"locations/{_checked_id(location_id)}.parquet"


def root_key(version: str) -> str:
    return f"manifests/roots/{_checked_id(version)}.json"


def _checked_id(text: str) -> str:
    if not is_hash(text):
        raise Refused(f"the id {text[:80]!r}", "it is not 64 hex digits")
    return text


def canonical_columns_id(table: pa.Table) -> str:
    """BLAKE3 of the canonical column bytes of a table (see the module's text)."""
    columns = [[field.name, str(field.type)] for field in table.schema]
    digest = blake3(canonical_json({"columns": columns, "rows": table.num_rows}))
    for field, column in zip(table.schema, table.columns, strict=True):
        there = pc.is_valid(column).to_numpy(zero_copy_only=False) if table.num_rows else np.zeros(0, bool)
        digest.update(np.packbits(there).tobytes())
        if pa.types.is_string(field.type):
            lengths, joined = text_bytes(column)
            digest.update(lengths.astype("<i8").tobytes())
            digest.update(np.ascontiguousarray(joined).data)
        elif table.num_rows:
            values = pc.fill_null(column, pa.scalar(0).cast(field.type)).to_numpy(zero_copy_only=False)
            if pa.types.is_floating(field.type):
                values = np.where(np.isnan(values), np.nan, values + 0.0)  # one NaN, no minus zero
            digest.update(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))).tobytes())
    return digest.hexdigest()


def cut_parts(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Sorted rows in any batches → the same rows in parts, wherever the batches ended."""
    held: list[pa.Table] = []
    rows = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        cuts = np.flatnonzero((path_hashes(batch["path"]) & CUT_MASK) == 0).tolist()
        start = 0
        for cut in [*cuts, batch.num_rows]:
            at = start
            while rows + (cut - at) > MAX_PART_ROWS:
                room = MAX_PART_ROWS - rows
                yield pa.concat_tables([*held, batch.slice(at, room)])
                held, rows, at = [], 0, at + room
            if cut > at:
                held.append(batch.slice(at, cut - at))
                rows += cut - at
            if cut < batch.num_rows and rows:
                yield pa.concat_tables(held)
                held, rows = [], 0
            start = cut
    if rows:
        yield pa.concat_tables(held)


def part_of(table: pa.Table) -> PartRef:
    """What a root says of these rows."""
    return PartRef(
        canonical_columns_id(table),
        table.num_rows,
        int(pc.sum(table["size"]).as_py()),
        table["path"][0].as_py(),
        table["path"][table.num_rows - 1].as_py(),
    )


def put_part(store: Store, table: pa.Table, reference: PartRef | None = None) -> tuple[PartRef, bool]:
    """Write the rows of one part (reference: part_of them) unless they are there; True when they were written."""
    table = table.combine_chunks()
    reference = reference or part_of(table)
    return reference, stores.put_if_absent(store, part_key(reference.id), parquet_bytes(table))


def _locations(table: pa.Table) -> pa.Table:
    return table.select(LOCATION_SCHEMA.names).cast(LOCATION_SCHEMA).combine_chunks()


def locations_of(table: pa.Table) -> str:
    """The id of the locations of one part."""
    return canonical_columns_id(_locations(table))


def put_locations(store: Store, table: pa.Table, location_id: str | None = None) -> str:
    """Write the locations of one part (location_id: locations_of them); their id."""
    location_id = location_id or locations_of(table)
    stores.put_if_absent(store, location_key(location_id), parquet_bytes(_locations(table)))
    return location_id


def copy_part(source: Store, target: Store, part_id: str) -> None:
    """Bring a part to another store, checked on the way. Raises NotFound, Corrupt."""
    _copy_table(source, target, part_key(part_id), part_id)


def copy_locations(source: Store, target: Store, location_id: str) -> None:
    """Bring the locations of a part to another store, checked on the way. Raises NotFound, Corrupt."""
    _copy_table(source, target, location_key(location_id), location_id)


def _copy_table(source: Store, target: Store, key: str, table_id: str) -> None:
    data = stores.get(source, key)
    _table_of(data, table_id, f"{key} in store {source.name}")
    stores.put(target, key, data)  # over what may be damaged: it has the hash of its name


def copy_root(source: Store, target: Store, version: str) -> None:
    """Bring a root to another store, checked on the way. Raises NotFound, Corrupt."""
    read_root(source, version)
    stores.put(target, root_key(version), stores.get(source, root_key(version)))


def _read_table(store: Store, key: str, table_id: str) -> pa.Table:
    what = f"{key} in store {store.name}"
    if store.kept is None:
        return _table_of(stores.get(store, key), table_id, what)
    kept = keptfiles.read(store.kept, key)
    if kept is not None:
        try:
            return _table_of(kept, table_id, what)
        except Corrupt:
            keptfiles.forget(store.kept, key)  # the copy is bad, not what it is a copy of
    data = stores.get(store, key)
    table = _table_of(data, table_id, what)
    keptfiles.keep(store.kept, key, data)
    return table


def _table_of(data: bytes, table_id: str, what: str) -> pa.Table:
    """A table from its file, which must have the id. Raises Corrupt."""
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        if file.metadata.num_rows > MAX_PART_ROWS:
            raise Corrupt(what, f"it has {file.metadata.num_rows:,} rows, {MAX_PART_ROWS:,} are possible")
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(what, f"it is not Parquet: {error}", "sync it again") from error
    try:
        found = canonical_columns_id(table)
    except (pa.ArrowException, TypeError) as error:
        raise Corrupt(what, f"its columns have no canonical form: {error}") from error
    if found != table_id:
        raise Corrupt(what, "its rows do not have the hash of its name", "sync it again")
    return table


def check_rows(table: pa.Table, what: str) -> None:
    """Path, content_id and size of every row are legal, paths ascend. Raises Refused, naming the first bad row."""
    for name, kind in KEY_COLUMNS:
        if name not in table.schema.names or table.schema.field(name).type != kind:
            raise Refused(what, f"its column {name} is no {kind}, or is not there")
        if table[name].null_count:
            row = pc.index(pc.is_null(table[name]), True).as_py()
            raise Refused(f"{what}: row {row}", f"its {name} is null")
    for field, column in zip(table.schema, table.columns, strict=True):
        if field.type not in TAG_TYPES.values() and field.type != pa.int32():
            raise Refused(what, f"the column {field.name!r} is {field.type}")
        if pa.types.is_string(field.type) and field.name != "path":
            check_utf8(column, f"{what}: {field.name}")
    check_paths(table["path"], what)
    paths, sizes = table["path"], table["size"]
    bad = pc.or_(pc.less(sizes, 0), pc.greater(sizes, MAX_FILE))
    if pc.any(bad).as_py():
        row = pc.index(bad, True).as_py()
        raise Refused(
            f"{what}: row {row}, {paths[row].as_py()!r}", f"a size of {sizes[row].as_py()} cannot be"
        )
    lengths, digits = text_bytes(table["content_id"])
    # each wrong digit, by the row it stands in; lengths first, else the rows are not known
    wrong = np.flatnonzero(lengths != 64)
    if not len(wrong):
        wrong = np.flatnonzero(~IS_HEX[digits]) // 64
    if len(wrong):
        row = int(wrong[0])
        found = table["content_id"][row].as_py()[:80]
        raise Refused(f"{what}: row {row}, {paths[row].as_py()!r}", f"{found!r} is no hash")


def read_part(store: Store, part_id: str) -> pa.Table:
    """Rows of a part; hash, paths, sizes and content ids checked. Raises NotFound, Corrupt."""
    table = _read_table(store, part_key(part_id), part_id)
    try:
        check_rows(table, f"the part {part_id[:12]}")
    except Refused as error:
        raise Corrupt(part_key(part_id), str(error)) from error
    return table


def read_parts(store: Store, root: Root) -> Iterator[pa.Table]:
    """Every part of a root in turn, checked against what the root says of it, and against the parts before.

    Raises NotFound, Corrupt (other counts or columns, a path that is a file here and a folder there).
    """
    above: set[str] = set()
    for part in root.parts:
        table = _fitting(root, part, read_part(store, part.id))
        try:
            above = check_folders(table["path"], above, f"the part {part.id[:12]}")
        except Refused as error:
            raise Corrupt(part_key(part.id), str(error)) from error
        yield table


def read_one_part(store: Store, root: Root, place: int) -> pa.Table:
    """One part of a root, checked against what the root says of it. Raises NotFound, Corrupt."""
    return _fitting(root, root.parts[place], read_part(store, root.parts[place].id))


def _fitting(root: Root, part: PartRef, table: pa.Table) -> pa.Table:
    columns = tuple((field.name, str(field.type)) for field in table.schema)
    if columns != root.columns:
        raise Corrupt(part_key(part.id), f"its columns are {columns}, those of the version {root.columns}")
    paths, size = table["path"], int(pc.sum(table["size"]).as_py() or 0)
    found = (
        PartRef(part.id, table.num_rows, size, paths[0].as_py(), paths[-1].as_py()) if len(paths) else None
    )
    if found != part:
        raise Corrupt(part_key(part.id), f"the root speaks of {part}, it is {found}")
    return table


def read_locations(store: Store, location_id: str) -> pa.Table:
    """LOCATION_SCHEMA rows, hash checked."""
    table = _read_table(store, location_key(location_id), location_id)
    if table.schema.names != LOCATION_SCHEMA.names:
        raise Corrupt(location_key(location_id), f"its columns are {table.schema.names}")
    return table


def make_root(
    columns: Sequence[tuple[str, str]], parts: Sequence[PartRef], identity: str = "content"
) -> tuple[str, bytes]:
    """(version id, canonical JSON)."""
    data = canonical_json(
        {
            "outlap": 1,
            "identity": identity,
            "files": sum(part.rows for part in parts),
            "bytes": sum(part.bytes for part in parts),
            "columns": [list(column) for column in columns],
            "parts": [vars(part) for part in parts],
        }
    )
    return blake3_hex(data), data


def read_root(store: Store, version: str) -> Root:
    """The root of a version, hash and every field checked. Raises NotFound, Corrupt."""
    key = root_key(version)
    try:
        data = stores.get(store, key)
    except NotFound as error:
        raise NotFound(
            f"the version {version[:12]}", f"it is not in store {store.name}", "sync it there"
        ) from error
    if blake3_hex(data) != version:
        raise Corrupt(
            f"{key} in store {store.name}", "it does not have the hash of its name", "sync it again"
        )
    value = read_json(data, key)
    try:
        if canonical_json(value) != data:
            raise Corrupt(key, "it is not canonical JSON")
        parts = tuple(PartRef(p["id"], p["rows"], p["bytes"], p["first"], p["last"]) for p in value["parts"])
        columns = tuple((name, kind) for name, kind in value["columns"])
        root = Root(value["identity"], value["files"], value["bytes"], columns, parts)
    except (KeyError, TypeError, ValueError, Refused) as error:
        raise Corrupt(key, f"it is no root: {error!r}") from error
    problem = _root_problem(root)
    if problem is not None:
        raise Corrupt(key, problem)
    return root


def _root_problem(root: Root) -> str | None:
    """What cannot be in a root whose hash is right: somebody wrote it so."""
    for place, part in enumerate(root.parts):
        texts, counts = (part.id, part.first, part.last), (part.rows, part.bytes)
        if not all(isinstance(text, str) for text in texts) or not is_hash(part.id):
            return f"part {place}: its id or its paths are no text of the right form"
        if any(type(count) is not int or count < 0 for count in counts) or not 0 < part.rows <= MAX_PART_ROWS:
            return f"part {place}: {part.rows!r} rows of {part.bytes!r} bytes cannot be"
        if part.first > part.last:
            return f"part {place}: its first path comes after its last"
    for place, (one, two) in enumerate(itertools.pairwise(root.parts)):
        if one.last >= two.first:
            return f"part {place + 1}: {two.first!r} does not come after {one.last!r}"
    if root.identity not in IDENTITIES:
        return f"{root.identity!r} is no identity that is known: {', '.join(IDENTITIES)} are"
    if root.columns[: len(KEY_COLUMNS)] != tuple((name, str(kind)) for name, kind in KEY_COLUMNS):
        return f"its columns begin {root.columns[:3]}"
    if len({name for name, _ in root.columns}) != len(root.columns):
        return "a column stands twice"
    totals = (sum(part.rows for part in root.parts), sum(part.bytes for part in root.parts))
    return None if (root.files, root.bytes) == totals else f"its totals are not {totals}, those of its parts"
