"""Segments: rows of some parts of a version, kept on a node in two orders.

    <name>.rows.parquet    by path, as the parts are, with the time that a view shows; no row group reaches over the end of a part
    <name>.packs.parquet   by pack and offset, one row group a pack; `part` says which of the parts a row is of
    <name>.json            which parts and packs these are; written last

A segment never changes. Versions that have its parts share it: each has hard links of its own, so the bytes go with the last of them.
The second file is sorted in buckets of ids of packs, so that ten million rows do not have to be in memory at once.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cacheengine.content_times import content_times
from lake.canonical import blake3_hex, canonical_json
from lake.errors import Corrupt

BUCKET_ROWS = 500_000
GROUP_ROWS = 1 << 18
SUFFIXES = (".rows.parquet", ".packs.parquet", ".json")
_REMADE = "it is made again by itself"
# mtime_s: see content_times; segments of releases before 0.2.0 lack it
ROWS = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("pack", pa.string()),
        ("offset", pa.int64()),
        ("mtime_s", pa.uint32()),
    ]
)
_BUCKET = pa.schema(
    [
        ("path", pa.string()),
        ("pack", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("content_id", pa.string()),
        ("part", pa.int32()),
    ]
)
_PACKS = _BUCKET.remove(_BUCKET.get_field_index("pack"))


@dataclass(frozen=True)
class PartRows:
    """part, locations: ids. Its rows are the row groups [first, first + groups) of the rows."""

    part: str
    locations: str
    rows: int
    first: int
    groups: int


@dataclass(frozen=True)
class PackRows:
    """What all parts of a segment want of a pack; no member ends after `end`."""

    pack: str
    files: int
    bytes: int
    end: int


@dataclass(frozen=True)
class Segment:
    """parts: ascending by path. packs: by id, in the order of the row groups."""

    folder: Path
    name: str
    parts: tuple[PartRows, ...]
    packs: tuple[PackRows, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def files(self) -> tuple[Path, ...]:
        return files_of(self.folder, self.name)


def files_of(folder: Path, name: str) -> tuple[Path, ...]:
    """Rows by path, rows by pack, and the list of parts and packs."""
    return tuple(folder / f"{name}{suffix}" for suffix in SUFFIXES)


def name_of(parts: Iterable[tuple[str, str]], list_id: str | None) -> str:
    """Of these (part, its locations), or of what a file list takes of them."""
    return blake3_hex(canonical_json([[list(part) for part in parts], list_id]))[:32]


def write_segment(folder: Path, name: str, parts: Iterable[tuple[str, str, pa.Table]], rows: int) -> Segment:
    """Save (part, its locations, rows with path, size, pack, offset, content_id) as they stream in, ascending by path.

    rows: about how many there will be. Raises Corrupt when no part comes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mine = f".{name}.{os.getpid()}-{threading.get_ident()}.tmp"
    by_path, by_pack, said = partial = [folder / f"{mine}{suffix}" for suffix in SUFFIXES]
    buckets = [folder / f"{mine}-{number}" for number in range(min(256, 1 + rows // BUCKET_ROWS))]
    try:
        kept, counts = _write_rows(parts, by_path, buckets)
        packs = tuple(PackRows(pack, *counts[pack]) for pack in sorted(counts))
        _write_packs(packs, buckets, by_pack)
        value = {"parts": [astuple(part) for part in kept], "packs": [astuple(pack) for pack in packs]}
        said.write_text(json.dumps(value, separators=(",", ":")))
        found = Segment(folder, name, tuple(kept), packs)
        for temporary, final in zip(partial, found.files, strict=True):
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(final)
    finally:
        for file_path in (*partial, *buckets):
            file_path.unlink(missing_ok=True)
    return found


def read_segment(folder: Path, name: str) -> Segment:
    """Raises FileNotFoundError, Corrupt."""
    said = files_of(folder, name)[2]
    try:
        value = json.loads(said.read_bytes())
        parts = tuple(PartRows(*part) for part in value["parts"])
        return Segment(folder, name, parts, tuple(PackRows(*pack) for pack in value["packs"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(str(said), f"it is no list of parts and packs: {error}", _REMADE) from error


def link_segment(segment: Segment, folder: Path) -> Segment:
    """The same segment in another folder. Raises OSError: it has gone, or the file system takes no more links."""
    folder.mkdir(parents=True, exist_ok=True)
    found = Segment(folder, segment.name, segment.parts, segment.packs)
    for source, target in zip(segment.files, found.files, strict=True):
        try:
            os.link(source, target)
        except FileExistsError:
            continue  # the same rows: a name says which parts these are
    return found


def counts(segment: Segment, dead: Collection[int]) -> dict[str, tuple[int, int]]:
    """Pack → (files, bytes) of the parts that are not at these places. Raises Corrupt, FileNotFoundError."""
    found = {pack.pack: (pack.files, pack.bytes) for pack in segment.packs}
    for table in _groups(segment.files[0], (segment.parts[place] for place in dead), ["pack", "size"]):
        for pack, files, size in _sums(table):
            there = found[pack]
            found[pack] = (there[0] - files, there[1] - size)
    return {pack: count for pack, count in found.items() if count[0]}


def _groups(path: Path, parts: Iterable[PartRows], columns: list[str]) -> Iterator[pa.Table]:
    yield from read_groups(path, [(part.first, part.groups) for part in parts], columns)


def read_groups(path: Path, runs: Sequence[tuple[int, int]], columns: list[str] | None) -> Iterator[pa.Table]:
    """Row groups of a Parquet file, given as (first, how many), one at a time; columns that it lacks are left out.

    Raises Corrupt, FileNotFoundError.
    """
    if not runs:
        return
    try:
        with pa.OSFile(str(path), "rb") as source, pq.ParquetFile(source, metadata=_footer(source)) as file:
            for first, number in runs:
                names = columns and [name for name in columns if name in file.schema_arrow.names]
                for group in range(first, first + number):
                    yield file.read_row_group(group, columns=names)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise Corrupt(str(path), f"it cannot be read: {error}", _REMADE) from error


# (device, inode, time, size) of a file → its footer: of thousands of packs, parsing it takes longer than reading one of them
_footers: dict[tuple[int, int, int, int], pq.FileMetaData] = {}
FOOTERS_KEPT = 16


def _footer(source: pa.OSFile) -> pq.FileMetaData:
    status = os.fstat(source.fileno())
    stamp = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
    known = _footers.get(stamp)
    if known is None:
        known = pq.read_metadata(source)
        for old in list(_footers)[: 1 - FOOTERS_KEPT]:
            _footers.pop(old, None)
        _footers[stamp] = known
    return known


def _sums(table: pa.Table) -> Iterator[tuple[str, int, int]]:
    """(pack, files, bytes)"""
    found = table.group_by("pack").aggregate([("size", "count"), ("size", "sum")])
    columns = (found[name].to_pylist() for name in ("pack", "size_count", "size_sum"))
    for pack, files, size in zip(*columns, strict=True):
        yield pack, files, size or 0


def _write_rows(
    parts: Iterable[tuple[str, str, pa.Table]], out: Path, buckets: Sequence[Path]
) -> tuple[list[PartRows], dict[str, tuple[int, int, int]]]:
    """Write rows as they stream in, and a copy by ranges of pack ids; the parts, and pack → (files, bytes, end)."""
    kept: list[PartRows] = []
    found: dict[str, tuple[int, int, int]] = {}
    first = 0
    with ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        files = [
            stack.enter_context(pa.ipc.new_stream(stack.enter_context(pa.OSFile(str(bucket), "wb")), _BUCKET))
            for bucket in buckets
        ]
        for place, (part, locations, table) in enumerate(parts):
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(out, ROWS, compression="zstd"))
            groups = -(-table.num_rows // GROUP_ROWS)
            kept.append(PartRows(part, locations, table.num_rows, first, groups))
            first += groups
            if not groups:
                continue
            writer.write_table(_with_times(table), row_group_size=GROUP_ROWS)
            number = pa.array(np.full(table.num_rows, place, np.int32))
            mine = table.append_column("part", number).select(_BUCKET.names).cast(_BUCKET)
            _count(mine, found)
            for bucket, rows in _split(mine, len(buckets)):
                files[bucket].write_table(rows)
    if writer is None:
        raise Corrupt("the version", "it has no rows", "publish it again")
    return kept, found


def _with_times(table: pa.Table) -> pa.Table:
    """The columns of ROWS. Raises Corrupt for a content id that is no hash."""
    try:
        times = pa.array(content_times(table["content_id"]))
    except ValueError as error:
        raise Corrupt("the rows of the version", str(error), "publish the version again") from error
    return table.append_column("mtime_s", times).select(ROWS.names).cast(ROWS)


def _count(table: pa.Table, found: dict[str, tuple[int, int, int]]) -> None:
    ends = table.append_column("end", pc.add(table["offset"], table["size"]))
    last = ends.group_by("pack").aggregate([("end", "max")])
    end_of = dict(zip(last["pack"].to_pylist(), last["end_max"].to_pylist(), strict=True))
    for pack, files, size in _sums(table):
        before = found.get(pack, (0, 0, 0))
        found[pack] = (before[0] + files, before[1] + size, max(before[2], end_of[pack]))


def _split(table: pa.Table, count: int) -> Iterator[tuple[int, pa.Table]]:
    """(number, rows) by the first byte of the pack's id, so that buckets are ranges of ids in order."""
    if count == 1:
        yield 0, table
        return
    first = pc.binary_slice(table["pack"].cast(pa.binary()), 0, 2).to_numpy(zero_copy_only=False)
    number = np.array([int(text, 16) * count // 256 for text in first.tolist()], np.int64)
    for one in np.unique(number).tolist():
        yield one, table.filter(pa.array(number == one))


def _write_packs(packs: Sequence[PackRows], buckets: Sequence[Path], out: Path) -> None:
    """Sort bucket by bucket by pack and offset, one row group a pack."""
    waiting = iter(packs)
    with pq.ParquetWriter(out, _PACKS, compression="zstd") as writer:
        for bucket in buckets:
            with pa.OSFile(str(bucket), "rb") as source:
                table = pa.ipc.open_stream(source).read_all()
            table = table.sort_by([("pack", "ascending"), ("offset", "ascending"), ("path", "ascending")])
            table, start = table.drop_columns(["pack"]), 0
            while start < table.num_rows:
                pack = next(waiting)
                writer.write_table(table.slice(start, pack.files), row_group_size=pack.files)
                start += pack.files
