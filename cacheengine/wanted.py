"""What a version (or a file list of it) wants of which packs, kept on the node so that neither store nor control is needed again.

    <state>/views/<version>[-<list>].parquet         rows sorted by path: for images and trees
    <state>/views/<version>[-<list>].packs.parquet   the same rows by pack and offset, one row group a pack; written last

The second is an index: its footer names the packs, and one pack is read at a time, so that ten million files stay on disk. It is
sorted in buckets of ids of packs, so that as many do not have to be in memory at once.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cacheengine import crashpoints
from cacheengine.have import Have, Heads, Ints, Mask, make
from lake import keptfiles, versions
from lake.canonical import is_hash
from lake.errors import Corrupt, NotFound, Refused
from lake.manifests import read_root
from lake.stores import Store

INDEX_SUFFIX = ".packs.parquet"
_LIST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_META = b"outlap.want"
_NAMED = 5
BUCKET_ROWS = 500_000
_BUCKET = pa.schema(
    [
        ("path", pa.string()),
        ("pack", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("content_id", pa.string()),
    ]
)


@dataclass(frozen=True)
class PackWant:
    """Rows of one pack, ascending by offset: offset and length in bytes, content_id (n, 32) uint8. size: of the whole pack.

    Two paths of the same content are two rows of one member. assembled: its members are single objects. hashed: a content id is the
    BLAKE3 of the bytes; else it says which object they are.
    """

    pack: str
    size: int
    offset: Ints
    length: Ints
    content_id: npt.NDArray[np.uint8]
    assembled: bool = False
    hashed: bool = True

    @property
    def head(self) -> Heads:
        """First 8 bytes of each content id, as the have records hold them."""
        return np.ascontiguousarray(self.content_id[:, :8]).view("<u8").reshape(-1)

    def take(self, rows: Mask | Ints) -> PackWant:
        return PackWant(
            self.pack,
            self.size,
            self.offset[rows],
            self.length[rows],
            self.content_id[rows],
            self.assembled,
            self.hashed,
        )

    def keys(self) -> Have:
        """The members as a have record would list them."""
        return make(self.offset, self.length, self.head)


@dataclass(frozen=True)
class PackPart:
    """One pack of a want. size: of the whole pack; files and bytes: what is wanted of it."""

    id: str
    size: int
    files: int
    bytes: int


@dataclass(frozen=True)
class Want:
    """files and bytes: N of N. packs: in the order of the index. rows, index: the files above.

    identity: what a content id is (lake.manifests). assembled: ids of packs that are put together from single objects here.
    """

    version: str
    list_id: str | None
    files: int
    bytes: int
    packs: tuple[PackPart, ...]
    rows: Path
    index: Path
    identity: str = "content"
    assembled: frozenset[str] = frozenset()


def rows_path(views: Path, version: str, list_id: str | None = None) -> Path:
    """Raises Refused for what is no version or list id: both come over the wire and become a path."""
    if not is_hash(version) or (list_id is not None and not _LIST_ID.fullmatch(list_id)):
        raise Refused(f"the version {version[:80]!r} with list {list_id!r}", "these are no ids")
    return views / (f"{version}-{list_id}.parquet" if list_id else f"{version}.parquet")


def index_path(views: Path, version: str, list_id: str | None = None) -> Path:
    return rows_path(views, version, list_id).with_suffix(INDEX_SUFFIX)


def load_want(views: Path, version: str, list_id: str | None = None) -> Want | None:
    """The want as saved on this node; None when it is not there, or not whole."""
    rows, index = rows_path(views, version, list_id), index_path(views, version, list_id)
    try:
        want = read_index(index)
    except (FileNotFoundError, Corrupt):
        return None
    if not rows.exists() or (want.version, want.list_id) != (version, list_id):
        return None
    return want


def read_index(index: Path) -> Want:
    """The want whose index this is. Raises FileNotFoundError, Corrupt."""
    try:
        with index.open("rb") as file:
            value = json.loads(pq.read_schema(file).metadata[_META])
        packs = tuple(PackPart(*part) for part in value["packs"])
        rows = index.with_name(index.name.removesuffix(INDEX_SUFFIX) + ".parquet")
        return Want(
            value["version"],
            value["list_id"],
            value["files"],
            value["bytes"],
            packs,
            rows,
            index,
            value.get("identity", "content"),
            frozenset(value.get("assembled", ())),
        )
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise Corrupt(
            str(index), f"it is no index of a version: {error}", "it is made again by itself"
        ) from error


def save_want(
    store: Store, views: Path, version: str, list_id: str | None = None, paths: Collection[str] | None = None
) -> Want:
    """Read the version's rows from the store (checked there) and save them; with `paths`, only these.

    Parts that an earlier version had come from copies on this node (lake/keptfiles.py). Raises NotFound (no such version
    here, or paths that it does not have), Corrupt, StoreDown.
    """
    store = replace(store, kept=views / "parts")
    available = versions.read_available(store, version)
    identity = read_root(store, version).identity
    chosen = None if paths is None else pa.array(sorted(set(paths)), pa.string())
    views.mkdir(parents=True, exist_ok=True)
    rows, index = rows_path(views, version, list_id), index_path(views, version, list_id)
    mine = f"{os.getpid()}-{threading.get_ident()}.tmp"
    part_rows, part_index = rows.with_name(f".{rows.name}.{mine}"), index.with_name(f".{index.name}.{mine}")
    buckets = [
        part_index.with_name(f"{part_index.name}-{number}")
        for number in range(min(256, 1 + available.files // BUCKET_ROWS))
    ]
    try:
        counts = _write_rows(store, version, chosen, part_rows, buckets)
        sizes = {use.id: use.size for use in available.packs}
        packs = tuple(PackPart(pack, sizes[pack], *counts[pack]) for pack in sorted(counts))
        want = Want(
            version,
            list_id,
            sum(part.files for part in packs),
            sum(part.bytes for part in packs),
            packs,
            rows,
            index,
            identity,
            frozenset(available.assembled),
        )
        if chosen is None and (want.files, want.bytes) != (available.files, available.bytes):
            raise Corrupt(
                f"the version {version[:12]}", "its rows are not those that were published", "verify it"
            )
        if chosen is not None and want.files != len(chosen):
            there = (
                pq.read_table(part_rows, columns=["path"])["path"].combine_chunks()
                if packs
                else pa.array([], pa.string())
            )
            missing = chosen.filter(pc.invert(pc.is_in(chosen, there))).to_pylist()
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise NotFound(
                f"{', '.join(missing[:_NAMED])}{more} in version {version[:12]}",
                "the file list names paths that the version does not have",
                "correct the list",
            )
        _write_index(want, buckets, part_index)
        part_rows.replace(rows)
        crashpoints.reach("warm.rows")
        part_index.replace(index)
    finally:
        for file in (part_rows, part_index, *buckets):
            file.unlink(missing_ok=True)
        keptfiles.make_room(views / "parts")
    return want


def _write_rows(
    store: Store, version: str, chosen: pa.Array | None, out: Path, buckets: Sequence[Path]
) -> dict[str, tuple[int, int]]:
    """Write rows as they stream in, and a copy by ranges of pack ids for the index; pack → (files, bytes)."""
    counts: dict[str, tuple[int, int]] = {}
    with ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        files = [
            stack.enter_context(pa.ipc.new_stream(stack.enter_context(pa.OSFile(str(bucket), "wb")), _BUCKET))
            for bucket in buckets
        ]
        for part in versions.rows(store, version):
            if chosen is not None:
                part = part.filter(pc.is_in(part["path"], chosen))
            names = ["path", "size", "pack", "offset"]
            if "timestamp_ns" in part.schema.names:
                names.append("timestamp_ns")
            if writer is None:
                schema = part.select(names).schema
                writer = stack.enter_context(pq.ParquetWriter(out, schema, compression="zstd"))
            writer.write_table(part.select(names), row_group_size=1 << 18)
            mine = part.select(_BUCKET.names).cast(_BUCKET)
            found = mine.group_by("pack").aggregate([("size", "count"), ("size", "sum")])
            for pack, number, size in zip(*(column.to_pylist() for column in found.columns), strict=True):
                files_before, bytes_before = counts.get(pack, (0, 0))
                counts[pack] = (files_before + number, bytes_before + (size or 0))
            for number, table in _split(mine, len(buckets)):
                files[number].write_table(table)
    if writer is None:
        raise Corrupt(f"the version {version[:12]}", "it has no rows", "publish it again")
    return counts


def _split(table: pa.Table, count: int) -> Iterator[tuple[int, pa.Table]]:
    """(number, rows) by the first byte of the pack's id, so that buckets are ranges of ids in order."""
    if count == 1:
        yield 0, table
        return
    first = pc.binary_slice(table["pack"].cast(pa.binary()), 0, 2).to_numpy(zero_copy_only=False)
    number = np.array([int(text, 16) * count // 256 for text in first.tolist()], np.int64)
    for one in np.unique(number).tolist():
        yield one, table.filter(pa.array(number == one))


def _write_index(want: Want, buckets: Sequence[Path], out: Path) -> None:
    """Sort bucket by bucket by pack and offset, one row group a pack."""
    value = {
        "version": want.version,
        "list_id": want.list_id,
        "files": want.files,
        "bytes": want.bytes,
        "packs": [[part.id, part.size, part.files, part.bytes] for part in want.packs],
        "identity": want.identity,
        "assembled": sorted(want.assembled),
    }
    schema = _BUCKET.remove(_BUCKET.get_field_index("pack")).with_metadata(
        {_META: json.dumps(value).encode()}
    )
    parts = iter(want.packs)
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for bucket in buckets:
            with pa.OSFile(str(bucket), "rb") as source:
                table = pa.ipc.open_stream(source).read_all()
            table = table.sort_by([("pack", "ascending"), ("offset", "ascending"), ("path", "ascending")])
            table, start = table.drop_columns(["pack"]).replace_schema_metadata(schema.metadata), 0
            while start < table.num_rows:
                part = next(parts)
                writer.write_table(table.slice(start, part.files), row_group_size=max(1, part.files))
                start += part.files
    with out.open("rb") as file:
        os.fsync(file.fileno())


def read_pack(want: Want, place: int) -> PackWant:
    """Rows of the pack at that place of want.packs. Raises Corrupt, FileNotFoundError."""
    [part] = read_packs(want, [place])
    return part


def read_packs(want: Want, places: Iterable[int] | None = None) -> Iterator[PackWant]:
    """All packs of a want, or those at these places, one at a time. Raises as read_pack."""
    columns = ["offset", "size", "content_id"]
    for place, table in _row_groups(want, range(len(want.packs)) if places is None else places, columns):
        part, text = want.packs[place], "".join(table["content_id"].to_pylist())
        try:
            content_id = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(table.num_rows, 32)
        except ValueError as error:
            raise Corrupt(
                str(want.index), f"a content id is no hash: {error}", "publish the version again"
            ) from error
        yield PackWant(
            part.id,
            part.size,
            _ints(table["offset"]),
            _ints(table["size"]),
            content_id,
            part.id in want.assembled,
            want.identity == "content",
        )


def _ints(column: pa.ChunkedArray) -> Ints:
    values: Ints = column.to_numpy().astype(np.int64)
    return values


# index → (inode, time and size of its file; its footer): of thousands of packs, parsing it takes longer than reading one of them
_footers: dict[Path, tuple[tuple[int, int, int], pq.FileMetaData]] = {}
_FOOTERS_KEPT = 4


def _footer(index: Path, source: pa.OSFile) -> pq.FileMetaData:
    status = os.fstat(source.fileno())
    stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
    known = _footers.get(index)
    if known is None or known[0] != stamp:
        known = (stamp, pq.read_metadata(source))
        for old in list(_footers)[: 1 - _FOOTERS_KEPT]:
            _footers.pop(old, None)
        _footers[index] = known
    return known[1]


def _row_groups(want: Want, places: Iterable[int], columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
    """(place, its rows) of each: an empty row group is never written, so places and row groups run together."""
    try:
        with (
            pa.OSFile(str(want.index), "rb") as source,
            pq.ParquetFile(source, metadata=_footer(want.index, source)) as file,
        ):
            for place in places:
                yield place, file.read_row_group(place, columns=columns)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise Corrupt(str(want.index), f"it cannot be read: {error}", "it is made again by itself") from error


def paths_at(want: Want, place: int, rows: Mask | Ints) -> list[str]:
    """Paths of rows of one pack: only failures need them."""
    [(_, table)] = _row_groups(want, [place], ["path"])
    paths: list[str] = (
        table["path"]
        .combine_chunks()
        .take(pa.array(np.flatnonzero(rows) if rows.dtype == np.bool_ else rows))
        .to_pylist()
    )
    return paths


def forget_want(views: Path, version: str, list_id: str | None = None) -> None:
    """Remove the saved rows; they come from the store again when needed."""
    index_path(views, version, list_id).unlink(missing_ok=True)
    _footers.pop(index_path(views, version, list_id), None)
    rows_path(views, version, list_id).unlink(missing_ok=True)
