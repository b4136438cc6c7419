"""What a version (or a file list of it) wants of which packs, kept on the node so that neither store nor control is needed again.

    <state>/views/<version>[-<list>].rows/        the rows, in segments (cacheengine/segments.py)
    <state>/views/<version>[-<list>].want.json    which parts of which segments it has, and where the rows of a pack are; written last

A version whose parts are in segments of versions saved before links those and writes one of the other parts. Small segments
are written again with it, so that each is at least twice as large as the next: after any number of nights the rows of a pack
stand in few places.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cacheengine import crashpoints, segments
from cacheengine.packs.have import Have, Heads, Ints, Mask, make
from cacheengine.segments import Segment
from lake import keptfiles, versions
from lake.canonical import is_hash
from lake.errors import Corrupt, NotFound, Refused
from lake.manifests import Root
from lake.stores import Store
from lake.versions import Available

INDEX_SUFFIX = ".want.json"
_LIST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LAYOUT = 3
_WITHOUT_TIMES = 2  # as written before 0.2.0: its rows lack mtime_s
_NAMED = 5
# of an older layout: such rows are read from the store again
_OLD = (".parquet", ".packs.parquet")


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
class SegmentUse:
    """rows and packs: the files of a segment, and their sizes. dead: its parts that the version has not."""

    rows: Path
    packs: Path
    sizes: tuple[int, int]
    dead: tuple[int, ...]


@dataclass(frozen=True)
class Want:
    """files and bytes: N of N. packs: ascending by id. index: the file that says all this.

    identity: what a content id is (lake.manifests). assembled: ids of packs that are put together from single objects here.
    parts: (segment, first row group, row groups), ascending by path. at: of each pack, (segment, row group). has_times: whether its
    rows have mtime_s.
    """

    version: str
    list_id: str | None
    files: int
    bytes: int
    packs: tuple[PackPart, ...]
    index: Path
    identity: str
    assembled: frozenset[str]
    segments: tuple[SegmentUse, ...]
    parts: tuple[tuple[int, int, int], ...]
    at: tuple[tuple[tuple[int, int], ...], ...]
    has_times: bool = True


def index_path(views: Path, version: str, list_id: str | None = None) -> Path:
    """Raises Refused for what is no version or list id: both come over the wire and become a path."""
    if not is_hash(version) or (list_id is not None and not _LIST_ID.fullmatch(list_id)):
        raise Refused(f"the version {version[:80]!r} with list {list_id!r}", "these are no ids")
    return views / f"{f'{version}-{list_id}' if list_id else version}{INDEX_SUFFIX}"


def _beside(index: Path, suffix: str) -> Path:
    return index.with_name(index.name.removesuffix(INDEX_SUFFIX) + suffix)


def load_want(views: Path, version: str, list_id: str | None = None) -> Want | None:
    """The want as saved on this node; None when it is not there, or not whole."""
    try:
        want = read_index(index_path(views, version, list_id))
        if not all(map(_is_whole, want.segments)):
            return None
    except (FileNotFoundError, Corrupt):
        return None
    return want if (want.version, want.list_id) == (version, list_id) else None


def _is_whole(use: SegmentUse) -> bool:
    try:
        return (use.rows.stat().st_size, use.packs.stat().st_size) == use.sizes
    except FileNotFoundError:
        return False


def read_index(index: Path) -> Want:
    """The want whose index this is. Raises FileNotFoundError, Corrupt."""
    folder = _beside(index, ".rows")
    try:
        value = json.loads(index.read_bytes())
        if value["layout"] not in (_LAYOUT, _WITHOUT_TIMES):
            raise ValueError(f"its layout is {value['layout']}")
        uses = []
        for name, sizes, dead in value["segments"]:
            rows, packs, _ = segments.files_of(folder, name)
            uses.append(SegmentUse(rows, packs, tuple(sizes), tuple(dead)))
        return Want(
            value["version"],
            value["list_id"],
            value["files"],
            value["bytes"],
            tuple(PackPart(*pack) for pack in value["packs"]),
            index,
            value["identity"],
            frozenset(value["assembled"]),
            tuple(uses),
            tuple(map(tuple, value["parts"])),
            tuple(tuple(map(tuple, places)) for places in value["at"]),
            value["layout"] != _WITHOUT_TIMES,
        )
    except FileNotFoundError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(
            str(index), f"it is no index of a version: {error}", "it is made again by itself"
        ) from error


def _save_index(want: Want) -> None:
    value = {
        "layout": _LAYOUT,
        "version": want.version,
        "list_id": want.list_id,
        "files": want.files,
        "bytes": want.bytes,
        "identity": want.identity,
        "assembled": sorted(want.assembled),
        "segments": [
            (use.rows.name.removesuffix(segments.SUFFIXES[0]), use.sizes, use.dead) for use in want.segments
        ],
        "parts": want.parts,
        "packs": [(pack.id, pack.size, pack.files, pack.bytes) for pack in want.packs],
        "at": want.at,
    }
    partial = want.index.with_name(f".{want.index.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(json.dumps(value, separators=(",", ":")))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(want.index)
    finally:
        partial.unlink(missing_ok=True)


def save_want(
    store: Store, views: Path, version: str, list_id: str | None = None, paths: Collection[str] | None = None
) -> Want:
    """Read the version's rows from the store (checked there) and save them; with `paths`, only these.

    Parts that a version saved here has are not opened: what they are was checked then. Raises NotFound (no such version here, or
    paths that it does not have), Corrupt, StoreDown.
    """
    store = replace(store, kept=views / "parts")
    root, available = versions.read_whole(store, version)
    chosen = None if paths is None else pa.array(sorted(set(paths)), pa.string())
    index = index_path(views, version, list_id)
    views.mkdir(parents=True, exist_ok=True)
    try:
        found = _gather(store, root, available, index, list_id, chosen)
        want = _put_together(root, available, index, list_id, found)
    finally:
        keptfiles.make_room(views / "parts")
    if chosen is None and (want.files, want.bytes) != (available.files, available.bytes):
        raise Corrupt(
            f"the version {version[:12]}", "its rows are not those that were published", "verify it"
        )
    if chosen is not None and want.files != len(chosen):
        _refuse_unknown(want, chosen)
    crashpoints.reach("warm.rows")
    _save_index(want)
    for suffix in _OLD:
        _beside(index, suffix).unlink(missing_ok=True)
    return want


def saved_of_version(views: Path, version: str) -> Iterator[Want]:
    """What is saved of a version on this node: all of it first, then file lists of it."""
    index = index_path(views, version)
    for path in (index, *sorted(views.glob(f"{version}-*{INDEX_SUFFIX}"))):
        try:
            want = read_index(path)
        except (FileNotFoundError, Corrupt):
            continue
        if want.version == version and all(map(_is_whole, want.segments)):
            yield want


def narrow_want(want: Want, list_id: str, paths: Collection[str]) -> Want | None:
    """Rows of a file list, taken from rows that are saved here, and saved: neither store nor control is asked.

    Args:
        want: The whole version, or another list of it.
        list_id: Of the new list.
        paths: What it names.

    Returns:
        None when `want` lacks one of the paths, or its files went meanwhile.
    """
    chosen = pa.array(sorted(set(paths)), pa.string())
    try:
        tables = []
        for place, part in enumerate(want.packs):
            table = _pack_rows(want, place, ["path", "offset", "size", "content_id"])
            table = table.filter(pc.is_in(table["path"], chosen))
            if table.num_rows:
                pack = pa.array([part.id] * table.num_rows, pa.string())
                tables.append(table.append_column("pack", pack))
    except (FileNotFoundError, Corrupt):
        return None
    table = pa.concat_tables(tables).sort_by("path") if tables else None
    if table is None or table.num_rows != len(chosen):
        return None
    index = want.index.with_name(index_path(want.index.parent, want.version, list_id).name)
    name = segments.name_of([(want.version, "")], list_id)
    segment = segments.write_segment(_beside(index, ".rows"), name, iter([("", "", table)]), table.num_rows)
    by_path, by_pack, _ = segment.files
    sizes = {part.id: part.size for part in want.packs}
    (rows,) = segment.parts
    made = replace(
        want,
        list_id=list_id,
        files=table.num_rows,
        bytes=sum(pack.bytes for pack in segment.packs),
        packs=tuple(PackPart(p.pack, sizes[p.pack], p.files, p.bytes) for p in segment.packs),
        index=index,
        segments=(SegmentUse(by_path, by_pack, (by_path.stat().st_size, by_pack.stat().st_size), ()),),
        parts=((0, rows.first, rows.groups),),
        at=tuple(((0, group),) for group in range(len(segment.packs))),
        has_times=True,
    )
    _save_index(made)
    return made


def _refuse_unknown(want: Want, chosen: pa.Array) -> None:
    """Raises NotFound, naming paths of a file list that the version does not have."""
    there = [table["path"].combine_chunks() for table in _rows(want, ["path"])]
    known = pa.concat_arrays([pa.array([], pa.string()), *there])
    missing = chosen.filter(pc.invert(pc.is_in(chosen, known))).to_pylist()
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    raise NotFound(
        f"{', '.join(missing[:_NAMED])}{more} in version {want.version[:12]}",
        "the file list names paths that the version does not have",
        "correct the list",
    )


def _pairs(root: Root, available: Available) -> list[tuple[str, str]]:
    """(part, its locations), in order."""
    return list(zip((part.id for part in root.parts), available.locations, strict=True))


def _gather(
    store: Store, root: Root, available: Available, index: Path, list_id: str | None, chosen: pa.Array | None
) -> list[Segment]:
    """Segments that together have every part of the version: those of earlier ones, and one of the parts that they lack."""
    folder, pairs = _beside(index, ".rows"), _pairs(root, available)
    rows = {pair: part.rows for pair, part in zip(pairs, root.parts, strict=True)}
    found = [] if chosen is not None else _shared(index, rows, {use.id: use.size for use in available.packs})
    known = {(part.part, part.locations) for segment in found for part in segment.parts}
    places = [place for place, pair in enumerate(pairs) if pair not in known]
    if not places and found:
        return found
    tables = versions.rows_of(store, root, available, places)
    if chosen is not None:
        tables = (table.filter(pc.is_in(table["path"], chosen)) for table in tables)
    lacking = [pairs[place] for place in places]
    parts = ((*pair, table) for pair, table in zip(lacking, tables, strict=True))
    name = segments.name_of(lacking, list_id)
    return [*found, segments.write_segment(folder, name, parts, sum(rows[pair] for pair in lacking))]


def _shared(index: Path, rows: Mapping[tuple[str, str], int], sizes: Mapping[str, int]) -> list[Segment]:
    """Segments of the versions saved here that are worth sharing, linked for this one. rows: of each (part, its locations) of it."""
    good: list[tuple[int, Segment]] = []
    for segment in _saved(index.parent):
        inside = all(pack.end <= sizes.get(pack.pack, -1) for pack in segment.packs)
        if inside and 2 * (live := _live(segment, rows)) >= segment.rows:
            good.append((live, segment))
    lacking, chosen = dict(rows), list[Segment]()
    for _, segment in sorted(good, key=lambda one: (-one[0], one[1].name)):
        if 2 * _live(segment, lacking) >= segment.rows:  # else others have its parts
            chosen.append(segment)
            for part in segment.parts:
                lacking.pop((part.part, part.locations), None)
    chosen.sort(key=lambda segment: -segment.rows)
    smaller = sum(lacking.values())
    while chosen and smaller and chosen[-1].rows < 2 * smaller:
        smaller += chosen.pop().rows
    linked = []
    for segment in chosen:
        # freed meanwhile, or no more links: its rows are read again
        with suppress(OSError):
            linked.append(segments.link_segment(segment, _beside(index, ".rows")))
    return linked


def _live(segment: Segment, rows: Mapping[tuple[str, str], int]) -> int:
    return sum(rows.get((part.part, part.locations), 0) for part in segment.parts)


def _saved(views: Path) -> Iterator[Segment]:
    """Every segment of whole versions that are saved on this node, once."""
    seen = set()
    for index in sorted(views.glob(f"[0-9a-f]*{INDEX_SUFFIX}")):
        if not is_hash(index.name.removesuffix(INDEX_SUFFIX)):
            continue  # of a file list: not all rows of its parts
        try:
            want = read_index(index)
            for use in want.segments if want.has_times else ():
                name = use.rows.name.removesuffix(segments.SUFFIXES[0])
                if name not in seen and _is_whole(use):
                    yield segments.read_segment(use.rows.parent, name)
                    seen.add(name)
        except (FileNotFoundError, Corrupt):
            continue


def _put_together(
    root: Root, available: Available, index: Path, list_id: str | None, found: list[Segment]
) -> Want:
    """The version's own view of the segments: its parts in order, its packs, and how much it wants of each."""
    place_of = {pair: place for place, pair in enumerate(_pairs(root, available))}
    totals: dict[str, tuple[int, int]] = {}
    at: dict[str, list[tuple[int, int]]] = {}
    parts: dict[int, tuple[int, int, int]] = {}
    uses = []
    for number, segment in enumerate(found):
        dead = []
        for inner, part in enumerate(segment.parts):
            place = place_of.get((part.part, part.locations))
            if place is None or place in parts:
                dead.append(inner)
            else:
                parts[place] = (number, part.first, part.groups)
        counted = segments.counts(segment, dead)
        for pack, (files, size) in counted.items():
            before = totals.get(pack, (0, 0))
            totals[pack] = (before[0] + files, before[1] + size)
        for group, rows in enumerate(segment.packs):
            if rows.pack in counted:
                at.setdefault(rows.pack, []).append((number, group))
        by_path, by_pack, _ = segment.files
        uses.append(
            SegmentUse(by_path, by_pack, (by_path.stat().st_size, by_pack.stat().st_size), tuple(dead))
        )
    sizes = {use.id: use.size for use in available.packs}
    packs = tuple(PackPart(pack, sizes[pack], *totals[pack]) for pack in sorted(totals))
    return Want(
        available.version,
        list_id,
        sum(pack.files for pack in packs),
        sum(pack.bytes for pack in packs),
        packs,
        index,
        root.identity,
        frozenset(available.assembled),
        tuple(uses),
        tuple(parts[place] for place in sorted(parts)),
        tuple(tuple(at[pack.id]) for pack in packs),
    )


def read_rows(rows: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """path, size, pack, offset, mtime_s (segments.ROWS), ascending by path, of an index or of a Parquet file of rows.

    Rows that were saved before 0.2.0 have no mtime_s. Raises FileNotFoundError, Corrupt.
    """
    if rows.name.endswith(INDEX_SUFFIX):
        yield from _rows(read_index(rows), columns)
        return
    with pq.ParquetFile(rows) as file:
        columns = columns and [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(segments.GROUP_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])


def _rows(want: Want, columns: list[str] | None) -> Iterator[pa.Table]:
    """Neighbouring parts of one segment are read from one open file."""
    runs: list[tuple[int, list[tuple[int, int]]]] = []
    for number, first, groups in want.parts:
        if not runs or runs[-1][0] != number:
            runs.append((number, []))
        runs[-1][1].append((first, groups))
    for number, several in runs:
        yield from segments.read_groups(want.segments[number].rows, several, columns)


def read_pack(want: Want, place: int) -> PackWant:
    """Rows of the pack at that place of want.packs. Raises Corrupt, FileNotFoundError."""
    part = want.packs[place]
    table = _pack_rows(want, place, ["offset", "size", "content_id"])
    text = "".join(table["content_id"].to_pylist())
    try:
        content_id = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(table.num_rows, 32)
    except ValueError as error:
        raise Corrupt(
            str(want.index), f"a content id is no hash: {error}", "publish the version again"
        ) from error
    return PackWant(
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


def _pack_rows(want: Want, place: int, columns: list[str]) -> pa.Table:
    """Rows of one pack, ascending by offset; where offsets are the same always in the same order."""
    tables = []
    for number, group in want.at[place]:
        use = want.segments[number]
        names = [*columns, "part"] if use.dead else columns
        (table,) = segments.read_groups(use.packs, [(group, 1)], names)
        if use.dead:
            gone = pa.array(use.dead, pa.int32())
            table = table.filter(pc.invert(pc.is_in(table["part"], gone))).select(columns)
        tables.append(table)
    table = pa.concat_tables(tables)
    if len(tables) > 1:
        table = table.take(pa.array(np.argsort(_ints(table["offset"]), kind="stable")))
    return table


def read_packs(want: Want, places: Iterable[int] | None = None) -> Iterator[PackWant]:
    """All packs of a want, or those at these places, one at a time. Raises as read_pack."""
    for place in range(len(want.packs)) if places is None else places:
        yield read_pack(want, place)


def paths_at(want: Want, place: int, rows: Mask | Ints) -> list[str]:
    """Paths of rows of one pack: only failures need them."""
    paths: list[str] = (
        _pack_rows(want, place, ["offset", "path"])["path"]
        .combine_chunks()
        .take(pa.array(np.flatnonzero(rows) if rows.dtype == np.bool_ else rows))
        .to_pylist()
    )
    return paths


def forget_want(views: Path, version: str, list_id: str | None = None) -> None:
    """Remove the saved rows; they come from the store again when needed. What other versions share stays with them."""
    index = index_path(views, version, list_id)
    for file in (index, *(_beside(index, suffix) for suffix in _OLD)):
        file.unlink(missing_ok=True)
    shutil.rmtree(_beside(index, ".rows"), ignore_errors=True)
