"""Bring in what already lies about: local folders, prefixes of stores and lists of objects, packed on the way.

An import is a table of ITEMS, sorted by path: where each file of the version is now. Objects are read several at a time, in
order, within a bound of memory; a pack ends where the hash of a path says so, so that one more file re-makes one pack.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from lake import stores
from lake.assemblies import OpenNamed
from lake.canonical import blake3_hex
from lake.errors import NotFound, Refused
from lake.manifests import KEY_COLUMNS
from lake.names import check_path
from lake.packs import ALIGN, PACK_TARGET, PackWriter, put_pack
from lake.paths import path_hashes
from lake.placed import Place, Placed
from lake.stores import Store

PARALLEL = 32
IN_FLIGHT = 128 << 20
LARGE = 64 << 20  # larger files go into their pack piece by piece
CUT_MASK = np.uint64(0x1FF)
CUT_FROM = PACK_TARGET // 8
ROWS_AT_ONCE = 65_536
REPORT_EVERY = 64
ITEMS = pa.schema(
    [
        ("path", pa.string()),
        ("store", pa.string()),
        ("key", pa.string()),
        ("size", pa.int64()),
        ("etag", pa.string()),
    ]
)
FILE_SCHEMA = pa.schema([*KEY_COLUMNS, ("pack", pa.string()), ("offset", pa.int64())])
Progress = Callable[[int, int], None]
LOCAL = ""  # the store name of local files: their key is a path of this machine


class Wanted(NamedTuple):
    """A file of a list: its path in the version, and where it lies."""

    path: str
    store: str
    key: str


@dataclass(frozen=True)
class Found:
    """items: ITEMS, sorted by path, each once; missing: `STORE:KEY` that are not there; duplicates: paths that stood twice."""

    items: pa.Table
    missing: tuple[str, ...]
    duplicates: tuple[str, ...]


def _sorted(columns: Sequence[Any]) -> pa.Table:
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ITEMS, strict=True)]
    return pa.table(arrays, schema=ITEMS).sort_by("path")


def folder_items(folder: Path) -> pa.Table:
    """The files below a local folder. Raises NotFound, Refused for a name that is not UTF-8."""
    if not folder.is_dir():
        raise NotFound(f"the folder {folder}", "there is none", "name a folder of files")
    rows: list[tuple[Any, ...]] = []
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise Refused(f"the file {name!r}", "its name is not UTF-8", "rename it") from error
            info = path.stat()
            rows.append((name, LOCAL, str(path), info.st_size, f"{info.st_mtime_ns:x}-{info.st_size:x}"))
    return _sorted([[row[place] for row in rows] for place in range(len(ITEMS))])


def prefix_items(source: Store, prefix: str) -> pa.Table:
    """The objects below a prefix of a store, under their keys after it; empty objects that only mark a folder are left out.

    Raises NotFound when there is none.
    """
    base = prefix.strip("/") + "/" if prefix.strip("/") else ""
    batches = []
    listed = iter(stores.list_objects(source, base))
    while infos := list(islice(listed, ROWS_AT_ONCE)):
        kept = [info for info in infos if not info.key.endswith("/")]
        columns = [
            [info.key.removeprefix(base) for info in kept],
            [source.name] * len(kept),
            [info.key for info in kept],
            [info.size for info in kept],
            [info.etag or "" for info in kept],
        ]
        batches.append(_sorted(columns))
    table = pa.concat_tables([ITEMS.empty_table(), *batches]).sort_by("path")
    if not table.num_rows:
        raise NotFound(
            f"{source.name}:{base}", f"there is no object below it ({source.where})", "correct the prefix"
        )
    return table


def listed_items(wanted: Iterable[Wanted], open_named: OpenNamed) -> Found:
    """Look for each file of a list. A path that stands twice for the same place counts once; Refused for two places."""
    chosen: dict[str, Wanted] = {}
    duplicates = []
    for item in wanted:
        before = chosen.setdefault(check_path(item.path), item)
        if before is not item:
            duplicates.append(item.path)
            if before != item:
                raise Refused(
                    f"the path {item.path!r}",
                    f"it stands for {_place(before)} and for {_place(item)}",
                    "give the two files two paths",
                )
    opened = {name: open_named(name) for name in sorted({item.store for item in chosen.values()} - {LOCAL})}

    def look(item: Wanted) -> stores.Info | None:
        if item.store:
            return stores.head(opened[item.store], item.key)
        path = Path(item.key)
        if not path.is_file():
            return None
        return stores.Info(item.key, path.stat().st_size, f"{path.stat().st_mtime_ns:x}")

    items = list(chosen.values())
    with ThreadPoolExecutor(PARALLEL) as pool:
        infos = list(pool.map(look, items))
    there = [(item, info) for item, info in zip(items, infos, strict=True) if info is not None]
    table = _sorted(
        [
            [item.path for item, _ in there],
            [item.store for item, _ in there],
            [item.key for item, _ in there],
            [info.size for _, info in there],
            [info.etag or "" for _, info in there],
        ]
    )
    missing = tuple(_place(item) for item, info in zip(items, infos, strict=True) if info is None)
    return Found(table, missing, tuple(duplicates))


def _place(item: Wanted) -> str:
    return f"{item.store}:{item.key}" if item.store else item.key


@dataclass(frozen=True)
class _Source:
    """A file to pack: read gives all of it, pieces one after the other."""

    path: str
    size: int
    read: Callable[[], bytes]
    pieces: Callable[[], Iterator[bytes]]


def _local_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(stores.STREAM_CHUNK):
            yield piece


def _sources(items: pa.Table, open_named: OpenNamed) -> Iterator[_Source]:
    opened: dict[str, Store] = {}
    for batch in items.to_batches(max_chunksize=ROWS_AT_ONCE):
        for path, store, key, size in zip(
            *(batch[name].to_pylist() for name in ITEMS.names[:4]), strict=True
        ):
            if store == LOCAL:
                yield _Source(path, size, Path(key).read_bytes, partial(_local_pieces, Path(key)))
                continue
            if store not in opened:
                opened[store] = open_named(store)
            source = opened[store]
            yield _Source(path, size, partial(stores.get, source, key), partial(stores.stream, source, key))


def _ahead(sources: Iterator[_Source]) -> Iterator[tuple[_Source, bytes | None]]:
    """Each source in order with its bytes, read by several threads, at most IN_FLIGHT ahead; None for one of more than LARGE."""
    running: deque[tuple[_Source, Future[bytes] | None]] = deque()
    held = 0

    def first() -> tuple[_Source, bytes | None]:
        nonlocal held
        source, future = running.popleft()
        if future is None:
            return source, None
        held -= source.size
        return source, future.result()

    with ThreadPoolExecutor(PARALLEL) as pool:
        try:
            for source in sources:
                large = source.size > LARGE
                while running and (
                    (not large and held + source.size > IN_FLIGHT) or len(running) >= 4 * PARALLEL
                ):
                    yield first()
                running.append((source, None if large else pool.submit(source.read)))
                held += 0 if large else source.size
            while running:
                yield first()
        finally:
            for _, waiting in running:
                if waiting is not None:
                    waiting.cancel()


def _upload(store: Store, writer: PackWriter, local: Path, kept: list[Place]) -> pa.Table:
    """Finish a pack and put it into the store: FILE_SCHEMA rows of it and of what was kept meanwhile, by path."""
    try:
        pack = writer.finish()
        put_pack(store, pack.id, local)
    finally:
        local.unlink(missing_ok=True)
    columns = pack.members.rename_columns(["path", "offset", "size", "content_id"])
    columns = columns.append_column("pack", pa.array([pack.id] * columns.num_rows, pa.string()))
    made = columns.select(FILE_SCHEMA.names).cast(FILE_SCHEMA)
    return pa.concat_tables([made, _kept_rows(kept)]).sort_by("path") if kept else made


def _kept_rows(kept: list[Place]) -> pa.Table:
    return pa.Table.from_pylist([place._asdict() for place in kept], schema=FILE_SCHEMA)


def _is_same(place: Place | None, source: _Source, data: bytes | None) -> bool:
    """Whether the bytes of a file are those of that place."""
    if place is None:
        return False
    if data is not None:
        return blake3_hex(data) == place.content_id
    digest = blake3()
    for piece in source.pieces():
        digest.update(piece)
    return digest.hexdigest() == place.content_id


def pack_items(
    store: Store,
    items: pa.Table,
    open_named: OpenNamed,
    scratch: Path,
    progress: Progress | None = None,
    placed: Placed | None = None,
) -> Iterator[pa.Table]:
    """Pack the files of ITEMS rows, and upload each pack while the next is written.

    Args:
        store: where packs go.
        items: ITEMS, sorted by path.
        open_named: opens a store by its name.
        scratch: a folder with room for two packs, and one file more.
        progress: called with the bytes that are packed, and all.
        placed: files that lie in packs already; those with the same bytes are not packed again.

    Returns:
        FILE_SCHEMA rows of one pack after the other, in all by path.
    """
    done, total = 0, total_bytes(items)
    scratch.mkdir(parents=True, exist_ok=True)
    began = time.time_ns()
    number = count(1)
    writer: PackWriter | None = None
    local = scratch
    uploading: list[Future[pa.Table]] = []  # one at most
    kept: list[Place] = []
    ends = set(np.flatnonzero((path_hashes(items["path"]) & CUT_MASK) == 0).tolist())
    with ThreadPoolExecutor(1) as pool:
        try:
            for place, (source, data) in enumerate(_ahead(_sources(items, open_named))):
                size = source.size if data is None else len(data)
                before = _same_place(placed, source, size, data)
                if before is not None:
                    kept.append(before)
                    if writer is None and len(kept) >= ROWS_AT_ONCE:
                        yield from _taken(uploading)
                        yield _kept_rows(kept)
                        kept = []
                else:
                    if writer is not None and _is_full(writer, size, place in ends):
                        yield from _taken(uploading)
                        uploading.append(pool.submit(_upload, store, writer, local, kept))
                        writer, kept = None, []
                    if writer is None:
                        local = scratch / f"publish-{began}-{next(number)}.tar"
                        writer = PackWriter(local)
                    _add(writer, source, size, data)
                done += size
                if progress is not None and (place % REPORT_EVERY == 0 or done == total):
                    progress(done, total)
            yield from _taken(uploading)
            if writer is not None:
                uploading.append(pool.submit(_upload, store, writer, local, kept))
                writer, kept = None, []
                yield from _taken(uploading)
            if kept:
                yield _kept_rows(kept)
        finally:
            if writer is not None:
                writer.abandon()


def _taken(uploading: list[Future[pa.Table]]) -> Iterator[pa.Table]:
    """The rows of the pack that is on its way, once it has arrived."""
    while uploading:
        yield uploading.pop().result()


def _same_place(placed: Placed | None, source: _Source, size: int, data: bytes | None) -> Place | None:
    """Where a file with the same path and bytes lies in a pack already."""
    before = placed.find(source.path, size) if placed is not None else None
    return before if before is not None and _is_same(before, source, data) else None


def _is_full(writer: PackWriter, size: int, ends_here: bool) -> bool:
    return writer.size + size + ALIGN > PACK_TARGET or (ends_here and writer.size > CUT_FROM)


def _add(writer: PackWriter, source: _Source, size: int, data: bytes | None) -> None:
    if data is None:
        writer.add_pieces(check_path(source.path), size, source.pieces())
    else:
        writer.add(check_path(source.path), data)


def no_store(name: str) -> Store:
    """Opens nothing: for items that are all local files."""
    raise Refused(f"the store {name!r}", "local files are in no store")


def total_bytes(items: pa.Table) -> int:
    """Sum of sizes of ITEMS rows."""
    return int(pc.sum(items["size"]).as_py() or 0)
