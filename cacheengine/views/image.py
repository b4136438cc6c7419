"""The metadata image of a view: an EROFS file system whose files point straight into packs.

Source of the format: the kernel's fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst. Little endian, 4 KiB blocks:

    byte 1024   superblock, 128 bytes, then one 128-byte device slot a pack (device ids count from 1)
    meta area   inodes; the number (nid) of an inode is its byte offset from here / 32. The root comes first.
    the rest    directories: blocks of 12-byte entries and then their names, sorted by bytes over the whole directory

A file is one chunk index {0, device id, block in the pack}, so its bytes are those of the pack, unchanged. Rows stream
through numpy batch by batch and a directory is written when the sorted rows have left it: memory holds the names of the
open directories only. The same rows give the same bytes. The kernel parses this, so paths are checked as hostile input.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cacheengine.content_times import EARLIEST_S
from lake.errors import Corrupt, Refused

BLOCK = 4096
MAGIC = 0xE0F5E1E2
FEATURE_CHUNKED, FEATURE_DEVICES = 0x4, 0x8
SLOT_OFFSET = 9  # the device table follows the superblock: (1024 + 128) / 128
MOST_DEVICES = 65535  # 16 bits in the superblock and in a chunk index
# layout << 1 | version: 4 is chunk-based, 0 flat; version 0 is the 32-byte inode, 1 the 64-byte one
COMPACT_CHUNKED, EXTENDED_CHUNKED, EXTENDED_FLAT = 8, 9, 1
# chunk indexes (0x20) and log2(blocks of a chunk): one chunk covers every file of that inode form (4 GiB, 8 TiB)
CHUNK_COMPACT, CHUNK_EXTENDED = 0x20 | 20, 0x20 | 31
TYPE_FILE, TYPE_DIR = 1, 2
LONGEST_NAME, LONGEST_PATH = 255, 4095
BATCH = 1 << 16
_COLUMNS = ("path", "size", "pack", "offset", "mtime_s")
# of directories, and of files whose rows have no time of their own: an image depends on its rows alone
MTIME_NS = EARLIEST_S * 10**9
# an empty component, `.`, `..` or a NUL
_BAD_PATH = r"(^|/)\.{0,2}(/|$)|\x00"


def _form(fields: str) -> np.dtype[Any]:
    """A packed structure from "name type, name type"."""
    return np.dtype([(part.split()[0], part.split()[1]) for part in fields.split(",")])


# both with the chunk index that follows the inode of a file, filled up to 64 and 96 bytes
_INDEX = "index_high <u2, device <u2, block <u4, pad V24"
_COMPACT = _form(
    "format <u2, xattrs <u2, mode <u2, nlink <u2, size <u4, mtime <u4, chunk <u4, ino <u4, uid <u2, gid <u2, rest <u4,"
    + _INDEX
)
_EXTENDED = _form(
    "format <u2, xattrs <u2, mode <u2, rest <u2, size <u8, chunk <u4, ino <u4, uid <u4, gid <u4, mtime <u8, mtime_ns <u4,"
    "nlink <u4, rest2 V16," + _INDEX
)
_UNIT, _COMPACT_UNITS, _EXTENDED_UNITS, _DIR_UNITS = 32, 2, 3, 2
_ENTRY = _form("nid <u8, name <u2, type u1, rest u1")
_ROOT_NID = 2  # 0 would be inode number 0, which readers of directories skip

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageInfo:
    """files; bytes: sum of their sizes; inodes: files and directories."""

    files: int
    bytes: int
    inodes: int


@dataclass(frozen=True)
class Attributes:
    """What all files and directories share. mode: permissions of files; directories have x where these have r."""

    uid: int = 0
    gid: int = 0
    mode: int = 0o444
    mtime_ns: int = MTIME_NS

    @property
    def folder_mode(self) -> int:
        return self.mode | (self.mode & 0o444) >> 2


PLAIN = Attributes()


@dataclass
class _Directory:
    """A directory that rows are still coming for. path: bytes with a slash at the end, empty for the root."""

    path: bytes
    nid: int
    parent: int
    names: list[pa.Array] = field(default_factory=list)
    nids: list[Ints] = field(default_factory=list)
    subdirs: list[bytes] = field(default_factory=list)
    subdir_nids: list[int] = field(default_factory=list)


@dataclass
class _Build:
    """What grows while rows stream in. inodes and directories are files; `written` lists (nid, size, first block, nlink)."""

    inodes: IO[bytes]
    directories: IO[bytes]
    meta: int
    attributes: Attributes
    extended: bool
    packs: pa.Array
    ends: Ints
    next_nid: int
    open: list[_Directory]
    blocks: int = 0
    files: int = 0
    size: int = 0
    last: bytes = b""
    written: list[tuple[int, int, int, int]] = field(default_factory=list)


def build_image(
    out: Path,
    tables: Iterable[pa.Table],
    packs: Sequence[str],
    uid: int = 0,
    gid: int = 0,
    mode: int = 0o444,
    mtime_ns: int = MTIME_NS,
    extended: bool = False,
) -> ImageInfo:
    """Write the image of all rows to `out`, atomically.

    tables: path (str), size, pack (id), offset (bytes, a multiple of 4096) and, where it is there, mtime_s (seconds, uint32);
    sorted by the bytes of path over all tables; other columns are ignored. packs: ids in the order in which they will be given as
    devices. mode: of files (see Attributes). mtime_ns: of directories, and of files without mtime_s. extended: inodes of 64 bytes for
    every file, for kernels that ignore the times of those of 32 bytes.
    Raises Refused (a path or location that cannot be shown, too many packs) and Corrupt (rows out of order, an unknown pack).
    """
    if len(packs) > MOST_DEVICES:
        raise Refused("the view", f"{len(packs)} packs, and an image holds {MOST_DEVICES}", "narrow it")
    meta = -(-((SLOT_OFFSET + len(packs)) * 128) // BLOCK) * BLOCK
    partial = out.with_name(out.name + f".{os.getpid()}.partial")
    try:
        with partial.open("wb") as inodes, tempfile.TemporaryFile(dir=out.parent) as directories:
            build = _Build(
                inodes=inodes,
                directories=directories,
                meta=meta,
                attributes=Attributes(uid, gid, mode, mtime_ns),
                extended=extended,
                packs=pa.array(list(packs), pa.string()),
                ends=np.zeros(len(packs), np.int64),
                next_nid=_ROOT_NID + _DIR_UNITS,
                open=[_Directory(b"", _ROOT_NID, _ROOT_NID)],
            )
            for table in tables:
                columns = [name for name in _COLUMNS if name in table.column_names]
                for batch in table.select(columns).to_batches(BATCH):
                    _add_batch(build, batch)
            info = _finish(build)
            inodes.flush()
            os.fsync(inodes.fileno())
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return info


def device_sizes(image: Path) -> list[int]:
    """How many bytes, in whole blocks, the image uses of each device, in device order."""
    with image.open("rb") as file:
        file.seek(1024)
        superblock = file.read(128)
        table = file.read(128 * int.from_bytes(superblock[86:88], "little"))
    return [int(blocks) * BLOCK for _, blocks in struct.iter_unpack("<64sI60x", table)]


def _pieces(lengths: Ints, data: npt.NDArray[np.uint8]) -> pa.Array:
    """A binary array of consecutive pieces of `data`."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.binary(), len(lengths), buffers)


def _ascending(values: pa.Array) -> bool:
    return len(values) < 2 or bool(pc.all(pc.less(values[:-1], values[1:])).as_py())


def split_paths(paths: pa.Array) -> tuple[pa.Array, pa.Array]:
    """(directories with a slash at the end, names) of legal relative paths, as binary arrays. Raises Refused.

    Legal: no empty component, `.`, `..` or NUL; no component over 255 bytes; at most 4095 bytes in all.
    """
    bad = pc.match_substring_regex(paths.cast(pa.string()), _BAD_PATH)
    if paths.null_count or pc.any(bad).as_py():
        row = pc.index(pc.fill_null(bad, True), True).as_py()
        what = f"the path {paths[row].as_py()!r:.200}"
        raise Refused(what, "it is no plain relative path", "correct the dataset")
    paths = paths.cast(pa.binary())
    _, offsets_buffer, data_buffer = paths.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[paths.offset : paths.offset + len(paths) + 1]
    data = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    starts = (offsets[:-1] - offsets[0]).astype(np.int64)
    ends = (offsets[1:] - offsets[0]).astype(np.int64)
    slashes = np.flatnonzero(data == ord("/"))
    name_starts = starts.copy()
    # several slashes of one row: the last one written is the last one in the row
    name_starts[np.searchsorted(ends, slashes, "right")] = slashes + 1
    part_starts, part_ends = np.concatenate([starts, slashes + 1]), np.concatenate([slashes, ends])
    longest = np.sort(part_ends) - np.sort(part_starts)
    if (len(starts) and (ends - starts).max() > LONGEST_PATH) or (longest > LONGEST_NAME).any():
        why = f"over {LONGEST_PATH} bytes, or a part over {LONGEST_NAME}"
        raise Refused("a path of the dataset", why, "shorten it")
    edges = np.zeros(len(data) + 1, np.int8)
    edges[name_starts] += 1
    edges[ends] -= 1  # where a name follows a name the two cancel out
    in_name = np.cumsum(edges[:-1], dtype=np.int8).view(bool)
    return _pieces(name_starts - starts, data[~in_name]), _pieces(ends - name_starts, data[in_name])


def _add_batch(build: _Build, batch: pa.RecordBatch) -> None:
    """Inodes of one batch, and the directories that end in it."""
    if not batch.num_rows:
        return
    directories, names = split_paths(batch["path"])
    paths = batch["path"].cast(pa.binary())
    if not _ascending(paths) or paths[0].as_py() <= build.last:
        why = "their paths are not in ascending order, each once"
        raise Corrupt("the rows of the view", why, "publish again")
    build.last = paths[-1].as_py()
    sizes, devices, blocks = _locations(build, batch)
    times = _times(build, batch)
    wide = build.extended or build.attributes.uid > 0xFFFF or build.attributes.gid > 0xFFFF
    extended = (sizes >= 1 << 32) | wide
    units = np.where(extended, _EXTENDED_UNITS, _COMPACT_UNITS)
    before = np.concatenate([[0], np.cumsum(units)])
    changes = pc.not_equal(directories[1:], directories[:-1]).to_numpy(zero_copy_only=False)
    starts = [0, *(np.flatnonzero(changes) + 1).tolist()]
    first, nids = build.next_nid, np.empty(batch.num_rows, np.int64)
    for start, end in zip(starts, [*starts[1:], batch.num_rows], strict=True):
        directory = _enter(build, directories[start].as_py())
        nids[start:end] = build.next_nid + before[start:end] - before[start]
        build.next_nid += int(before[end] - before[start])
        directory.names.append(names[start:end])
        directory.nids.append(nids[start:end])
    area = np.zeros((build.next_nid - first, _UNIT // 8), np.uint64)
    for form, kind, count in ((_COMPACT, ~extended, _COMPACT_UNITS), (_EXTENDED, extended, _EXTENDED_UNITS)):
        if kind.any():
            inodes = _inodes(build, form, nids[kind], sizes[kind], devices[kind], blocks[kind], times[kind])
            halves = inodes.view(np.uint8).reshape(len(inodes), -1)[:, : count * _UNIT]
            place = (nids[kind] - first)[:, None] + np.arange(count)
            area[place] = np.ascontiguousarray(halves).view(np.uint64).reshape(len(inodes), count, -1)
    os.pwrite(build.inodes.fileno(), area.tobytes(), build.meta + first * _UNIT)
    build.files += batch.num_rows
    build.size += int(sizes.sum())


def _locations(build: _Build, batch: pa.RecordBatch) -> tuple[Ints, Ints, Ints]:
    """(sizes, device ids, first blocks) of the rows; remembers how far each pack is used. Raises Corrupt, Refused."""
    if batch["size"].null_count or batch["offset"].null_count:
        raise Corrupt("the rows of the view", "a size or an offset is missing", "publish again")
    devices = pc.index_in(batch["pack"].cast(pa.string()), build.packs)
    if devices.null_count:
        raise Corrupt("the rows of the view", "a file lies in a pack that was not named", "publish again")
    sizes = batch["size"].to_numpy().astype(np.int64)
    offsets = batch["offset"].to_numpy().astype(np.int64)
    if (sizes < 0).any() or (offsets < 0).any() or (offsets % BLOCK).any():
        why = "a file has no legal size, or is off a 4 KiB boundary"
        raise Corrupt("the rows of the view", why, "publish again")
    if (offsets >= 1 << 43).any() or (sizes > 1 << 43).any():
        raise Refused("the view", "a file or its place in the pack is over 8 TiB", "split it")
    places = devices.to_numpy().astype(np.int64)
    np.maximum.at(build.ends, places, (offsets + sizes + BLOCK - 1) // BLOCK)
    return sizes, places + 1, offsets // BLOCK


def _inodes(
    build: _Build,
    form: np.dtype[Any],
    nids: Ints,
    sizes: Ints,
    devices: Ints,
    blocks: Ints,
    times: npt.NDArray[np.uint32],
) -> npt.NDArray[Any]:
    """Inodes of files in one of the two forms.

    The time of a compact inode is an offset from that of the superblock (Linux 6.15 and newer; older kernels show that of the
    superblock), and its nanoseconds are those of the superblock.
    """
    is_extended, same = form == _EXTENDED, build.attributes
    inodes = np.zeros(len(nids), form)
    inodes["format"] = EXTENDED_CHUNKED if is_extended else COMPACT_CHUNKED
    inodes["chunk"] = CHUNK_EXTENDED if is_extended else CHUNK_COMPACT
    inodes["mode"] = stat.S_IFREG | same.mode
    inodes["nlink"], inodes["uid"], inodes["gid"] = 1, same.uid, same.gid
    inodes["ino"] = nids & 0xFFFFFFFF
    inodes["size"], inodes["device"], inodes["block"] = sizes, devices, blocks
    seconds, nanoseconds = divmod(same.mtime_ns, 10**9)
    if is_extended:
        inodes["mtime"], inodes["mtime_ns"] = times, nanoseconds
    else:
        inodes["mtime"] = times - np.uint32(seconds)
    return inodes


def _times(build: _Build, batch: pa.RecordBatch) -> npt.NDArray[np.uint32]:
    """Seconds since 1970 of each row. Raises Corrupt for a time before that of the superblock."""
    seconds = build.attributes.mtime_ns // 10**9
    if "mtime_s" not in batch.schema.names:
        return np.full(batch.num_rows, seconds, np.uint32)
    if batch["mtime_s"].null_count or pc.any(pc.less(batch["mtime_s"], seconds)).as_py():
        raise Corrupt("the rows of the view", "a file has no legal time", "publish again")
    return np.asarray(batch["mtime_s"].to_numpy(), np.uint32)


def _enter(build: _Build, path: bytes) -> _Directory:
    """The open directory of that path; those that the rows have left are written, new ones get their inode number."""
    while not path.startswith(build.open[-1].path):
        _leave(build, build.open.pop())
    top = build.open[-1]
    while len(top.path) < len(path):
        name = path[len(top.path) : path.index(b"/", len(top.path))]
        top.subdirs.append(name)
        top.subdir_nids.append(build.next_nid)
        top = _Directory(top.path + name + b"/", build.next_nid, top.nid)
        build.next_nid += _DIR_UNITS
        build.open.append(top)
    return top


def _leave(build: _Build, directory: _Directory) -> None:
    """Write the blocks of a directory. Raises Corrupt when a name is a file and a directory at once."""
    special = pa.array([b".", b"..", *directory.subdirs], pa.binary())
    names = pa.concat_arrays([special, *directory.names])
    nids = np.concatenate([[directory.nid, directory.parent, *directory.subdir_nids], *directory.nids])
    types = np.full(len(names), TYPE_FILE, np.uint8)
    types[: len(special)] = TYPE_DIR
    if not _ascending(names):
        order = pc.array_sort_indices(names)
        names, nids, types = names.take(order), nids[order.to_numpy()], types[order.to_numpy()]
        if not _ascending(names):
            raise Corrupt(
                f"the directory {directory.path.decode(errors='replace')!r:.200}",
                "a name in it is a file and a directory at once",
                "correct the dataset",
            )
    lengths = pc.binary_length(names).to_numpy().astype(np.int64)
    text = memoryview(names.buffers()[2])
    base = int(np.frombuffer(names.buffers()[1], np.int32)[names.offset])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    filled = bounds + np.arange(len(names) + 1) * _ENTRY.itemsize
    entries = np.zeros(len(names), _ENTRY)
    entries["nid"], entries["type"] = nids, types
    start, size, first = 0, 0, build.blocks
    while start < len(names):
        end = int(np.searchsorted(filled, filled[start] + BLOCK, "right")) - 1
        part = entries[start:end]
        part["name"] = (end - start) * _ENTRY.itemsize + bounds[start:end] - bounds[start]
        block = part.tobytes() + bytes(text[base + int(bounds[start]) : base + int(bounds[end])])
        build.directories.write(block.ljust(BLOCK, b"\0"))
        size = (build.blocks - first) * BLOCK + len(block)  # the last block ends with its last name
        build.blocks += 1
        start = end
    build.written.append((directory.nid, size, first, 2 + len(directory.subdirs)))


def _finish(build: _Build) -> ImageInfo:
    """The last directories, their inodes, the device table and the superblock."""
    while build.open:
        _leave(build, build.open.pop())
    same, file = build.attributes, build.inodes
    area_end = -(-(build.meta + build.next_nid * _UNIT) // BLOCK) * BLOCK
    seconds, nanoseconds = divmod(same.mtime_ns, 10**9)
    for nid, size, block, nlink in build.written:
        head = (
            EXTENDED_FLAT,
            0,
            stat.S_IFDIR | same.folder_mode,
            0,
            size,
            area_end // BLOCK + block,
            nid & 0xFFFFFFFF,
        )
        inode = struct.pack("<HHHHQIIIIQII16x", *head, same.uid, same.gid, seconds, nanoseconds, nlink)
        os.pwrite(file.fileno(), inode, build.meta + nid * _UNIT)
    build.directories.seek(0)
    file.seek(area_end)
    shutil.copyfileobj(build.directories, file, 1 << 20)
    blocks = area_end // BLOCK + build.blocks
    if blocks >= 1 << 32:
        raise Refused("the view", "its image would be over 16 TiB", "narrow it")
    inodes = build.files + len(build.written)
    table = b"".join(
        struct.pack("<64sII56x", pack.encode(), end, 0)
        for pack, end in zip(build.packs.to_pylist(), build.ends.tolist(), strict=True)
    )
    superblock = struct.pack(
        "<IIIBBHQQIIII32xIHHH38x",
        MAGIC,
        0,
        0,
        12,
        0,
        _ROOT_NID,
        inodes,
        seconds,
        nanoseconds,
        blocks,
        build.meta // BLOCK,
        0,
        FEATURE_CHUNKED | (FEATURE_DEVICES if table else 0),
        0,
        len(build.packs),
        SLOT_OFFSET if table else 0,
    )
    os.pwrite(file.fileno(), superblock + table, 1024)
    return ImageInfo(build.files, build.size, inodes)
