"""Manifests: what a version is, apart from where its bytes lie.

A version is a root (canonical JSON; its BLAKE3 is the version id) over parts: rows sorted by the bytes of their path. A part's id
is the BLAKE3 of its canonical column bytes, not of the Parquet file, so that another writer library gives the same id:

    canonical JSON {"columns": [[name, type], …], "rows": n}, then for each column
        one bit a row, "is there", packed big-endian;
        strings: lengths as little-endian int64, then all bytes; booleans: one byte a row; others: little-endian values (null as zero)

A part ends before a row whose path hash says so (1 in 65,536), so that new rows change few parts; 1 M rows at most.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from lake import stores
from lake.canonical import blake3_hex, canonical_json, is_hash, read_json
from lake.errors import Corrupt, NotFound, Refused
from lake.packs import parquet_bytes
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
CUT_MASK = np.uint64(0xFFFF)
MAX_NAME = 255
# what content_id is: the BLAKE3 of the file's bytes, or of the canonical JSON [store, key, etag, size] (lake/inplace.py)
IDENTITIES = ("content", "etag")
UInt64 = npt.NDArray[np.uint64]


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


def _text_bytes(column: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Lengths of each string in bytes (n), and all bytes joined."""
    array = pc.fill_null(column, "").cast(pa.large_binary())
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.large_binary())
    if not len(array):
        return np.zeros(0, np.int64), np.zeros(0, np.uint8)
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    data = array.buffers()[2]
    joined = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
    return np.diff(offsets), joined[offsets[0] : offsets[-1]]


def canonical_columns_id(table: pa.Table) -> str:
    """BLAKE3 of the canonical column bytes of a table (see the module's text)."""
    columns = [[field.name, str(field.type)] for field in table.schema]
    digest = blake3(canonical_json({"columns": columns, "rows": table.num_rows}))
    for field, column in zip(table.schema, table.columns, strict=True):
        there = pc.is_valid(column).to_numpy(zero_copy_only=False) if table.num_rows else np.zeros(0, bool)
        digest.update(np.packbits(there).tobytes())
        if pa.types.is_string(field.type):
            lengths, joined = _text_bytes(column)
            digest.update(lengths.astype("<i8").tobytes())
            digest.update(np.ascontiguousarray(joined).data)
        elif table.num_rows:
            values = pc.fill_null(column, pa.scalar(0).cast(field.type)).to_numpy(zero_copy_only=False)
            if pa.types.is_floating(field.type):
                values = np.where(np.isnan(values), np.nan, values + 0.0)  # one NaN, no minus zero
            digest.update(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))).tobytes())
    return digest.hexdigest()


def path_hashes(paths: Any) -> UInt64:
    """A 64-bit hash of each path: sum of (byte + 1) * K**(place + 1) mod 2**64, then the mixer of splitmix64."""
    lengths, joined = _text_bytes(paths)
    hashes = np.zeros(len(lengths), np.uint64)
    if len(joined):
        starts = np.cumsum(lengths) - lengths
        places = np.arange(len(joined), dtype=np.int64) - np.repeat(starts, lengths)
        powers = np.cumprod(np.full(int(lengths.max()), 0x9E3779B97F4A7C15, np.uint64), dtype=np.uint64)
        products = (joined.astype(np.uint64) + np.uint64(1)) * powers[places]
        full = np.flatnonzero(lengths)
        hashes[full] = np.add.reduceat(products, starts[full])
    hashes ^= hashes >> np.uint64(30)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def check_paths(paths: Any, what: str) -> None:
    """Every path is relative and plain, parts of at most 255 bytes, strictly ascending. Raises Refused."""
    if not len(paths):
        return
    bad = pc.fill_null(pc.match_substring_regex(paths, r"^$|^/|/$|//|\x00|(^|/)\.{1,2}(/|$)"), True)
    if pc.any(bad).as_py():
        path = pc.filter(paths, bad)[0].as_py()
        raise Refused(f"{what}: the path {str(path)[:200]!r}", "it is no plain relative path")
    lengths, joined = _text_bytes(paths)
    ends = np.cumsum(lengths)
    breaks = np.sort(np.concatenate([np.flatnonzero(joined == ord("/")), ends]))
    # a name starts after a slash, or where the path starts: both count the byte before as none of it
    starts = np.sort(np.concatenate([np.flatnonzero(joined == ord("/")) + 1, ends - lengths]))
    longest = int((breaks - starts).max())
    if longest > MAX_NAME:
        raise Refused(what, f"a name in a path has {longest} bytes, {MAX_NAME} are possible", "shorten it")
    if len(paths) > 1 and not pc.all(pc.less(paths[:-1], paths[1:])).as_py():
        place = pc.index(pc.less(paths[:-1], paths[1:]), False).as_py()
        raise Refused(
            f"{what}: the path {paths[place + 1].as_py()!r}",
            f"it does not come after {paths[place].as_py()!r}: a path stands twice, or the rows are not sorted",
            "let the query give each path once (for example one recipe), ordered by path",
        )


def folders_of(paths: Any) -> set[str]:
    """All folders above the paths."""
    found: set[str] = set()
    level = pc.unique(pc.replace_substring_regex(paths, r"/?[^/]*$", ""))
    while len(level):
        names = set(level.to_pylist()) - {""} - found
        found |= names
        level = pa.array(sorted({name.rpartition("/")[0] for name in names} - {""} - found), pa.string())
    return found


def check_folders(paths: Any, above: set[str], what: str) -> set[str]:
    """No path is both a file and a folder. `above`: earlier files that may be; what to pass with the next part."""
    folders = folders_of(paths)
    both = folders & above
    both |= set(pc.filter(paths, pc.is_in(paths, pa.array(sorted(folders), pa.string()))).to_pylist())
    if both:
        raise Refused(f"{what}: the path {min(both)!r}", "it is a file and a folder", "rename one of them")
    # Only an earlier file whose name begins the last path can still become a folder: rows are sorted.
    last = paths[len(paths) - 1].as_py()
    prefixes = [last[:end] for end in range(1, len(last) + 1)]
    here = set(pc.filter(paths, pc.is_in(paths, pa.array(prefixes, pa.string()))).to_pylist())
    return here | (above & set(prefixes))


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


def put_part(store: Store, table: pa.Table) -> tuple[PartRef, bool]:
    """Write the rows of one part unless they are there; True when they were written."""
    table = table.combine_chunks()
    part_id = canonical_columns_id(table)
    reference = PartRef(
        part_id,
        table.num_rows,
        int(pc.sum(table["size"]).as_py()),
        table["path"][0].as_py(),
        table["path"][table.num_rows - 1].as_py(),
    )
    return reference, stores.put_if_absent(store, part_key(part_id), parquet_bytes(table))


def put_locations(store: Store, table: pa.Table) -> str:
    """Write the locations of one part; their id."""
    table = table.select(LOCATION_SCHEMA.names).cast(LOCATION_SCHEMA).combine_chunks()
    location_id = canonical_columns_id(table)
    stores.put_if_absent(store, location_key(location_id), parquet_bytes(table))
    return location_id


def _read_table(store: Store, key: str, table_id: str) -> pa.Table:
    try:
        table = pq.read_table(io.BytesIO(stores.get(store, key)))
    except pa.ArrowException as error:
        raise Corrupt(
            f"{key} in store {store.name}", f"it is not Parquet: {error}", "sync it again"
        ) from error
    if canonical_columns_id(table) != table_id:
        raise Corrupt(
            f"{key} in store {store.name}", "its rows do not have the hash of its name", "sync it again"
        )
    return table


def read_part(store: Store, part_id: str) -> pa.Table:
    """Rows of a part, hash and paths checked. Raises NotFound, Corrupt."""
    table = _read_table(store, part_key(part_id), part_id)
    try:
        check_paths(table["path"], f"the part {part_id[:12]}")
    except (Refused, KeyError) as error:
        raise Corrupt(part_key(part_id), str(error)) from error
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
    """The root of a version, hash checked. Raises NotFound, Corrupt."""
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
        parts = tuple(PartRef(p["id"], p["rows"], p["bytes"], p["first"], p["last"]) for p in value["parts"])
        columns = tuple((name, kind) for name, kind in value["columns"])
        return Root(value["identity"], value["files"], value["bytes"], columns, parts)
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(key, f"it is no root: {error!r}") from error


@dataclass(frozen=True)
class Difference:
    """path, content_id and size of rows that only one side has; `changed`: paths with other bytes (new side's rows)."""

    added: pa.Table
    removed: pa.Table
    changed: pa.Table


def diff(store: Store, old: str, new: str) -> Difference:
    """Rows that differ between two versions; parts that both share are not opened."""
    before, after = read_root(store, old), read_root(store, new)
    shared = {part.id for part in before.parts} & {part.id for part in after.parts}
    left = _key_rows(store, [part.id for part in before.parts if part.id not in shared])
    right = _key_rows(store, [part.id for part in after.parts if part.id not in shared])
    removed = left.filter(pc.invert(pc.is_in(left["path"], right["path"].combine_chunks())))
    is_old = pc.is_in(right["path"], left["path"].combine_chunks())
    both = right.filter(is_old)
    at = pc.index_in(both["path"], left["path"].combine_chunks())
    changed = both.filter(pc.not_equal(both["content_id"], pc.take(left["content_id"], at)))
    return Difference(right.filter(pc.invert(is_old)), removed, changed)


def _key_rows(store: Store, parts: Sequence[str]) -> pa.Table:
    names = [name for name, _ in KEY_COLUMNS]
    empty = pa.schema(list(KEY_COLUMNS)).empty_table()
    return pa.concat_tables(
        [empty, *(read_part(store, part).select(names).cast(empty.schema) for part in parts)]
    )
