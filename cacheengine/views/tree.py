"""The tree of a version over pyfuse3, for nodes whose kernel cannot mount packs: the kernel view, in user space.

It takes what the kernel takes: rows, and one device per pack (the pack in the cache, or the file of that name in fetchfs).
Local devices stay open and are read with `pread`, at once where the page cache has the bytes; devices in fetchfs are opened
for each read, so that a restarted fetchfs is found. Inodes are places in arrays: there is no Python object for each file.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyfuse3

from cacheengine import descriptors
from cacheengine.errors import FetchFailed
from cacheengine.views import fuseserve
from cacheengine.views.fuseserve import Work
from cacheengine.views.image import Attributes, split_paths
from cacheengine.wanted import read_rows
from lake.errors import Corrupt, Refused

Ints = npt.NDArray[np.int64]
EXPECTED = 1 << 20  # what the kernel will read ahead (fuseserve.READ_AHEAD_KB)
_ROWS = "the rows of the view"


@dataclass(frozen=True)
class Tree:
    """Directories 0…D-1 (0 is the root, sorted by path), files 0…F-1 in the order of the rows. Inode: place + 1, files after.

    Paths of directories end with a slash; dir_parent and file_parent are places of directories; `pack` is a place in the list of packs.
    """

    dir_paths: tuple[bytes, ...]
    dir_places: dict[bytes, int]
    dir_parent: Ints
    paths: pa.Array
    file_parent: npt.NDArray[np.int32]
    size: Ints
    offset: Ints
    pack: npt.NDArray[np.int32]
    mtime_s: npt.NDArray[np.uint32] | None


def read_tree(rows: Path, packs: Sequence[str]) -> Tree:
    """The tree of rows (wanted.read_rows) with path, size, pack, offset, mtime_s, sorted by path. Raises Refused, Corrupt."""
    known = pa.array(list(packs), pa.string())
    codes, place = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    size, offset = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    paths = [pa.array([], pa.large_binary())]
    found: dict[bytes, int] = {}
    times: list[npt.NDArray[np.uint32]] = []
    for table in read_rows(rows, ["path", "size", "pack", "offset", "mtime_s"]):
        for batch in table.to_batches(1 << 16):
            devices = pc.index_in(batch["pack"].cast(pa.string()), known)
            if devices.null_count or batch["size"].null_count or batch["offset"].null_count:
                raise Corrupt(_ROWS, "a file has no size, or lies in no pack that was named", "publish again")
            directories = pc.dictionary_encode(split_paths(batch["path"].cast(pa.string()))[0])
            places = [found.setdefault(name, len(found)) for name in directories.dictionary.to_pylist()]
            codes.append(np.array(places, np.int32)[directories.indices.to_numpy()])
            paths.append(batch["path"].cast(pa.large_string()).cast(pa.large_binary()))
            place.append(devices.to_numpy().astype(np.int32))
            size.append(batch["size"].to_numpy().astype(np.int64))
            offset.append(batch["offset"].to_numpy().astype(np.int64))
            if "mtime_s" in batch.schema.names:
                times.append(batch["mtime_s"].to_numpy().astype(np.uint32))
    every = {b""}
    for name in found:
        while name not in every:
            every.add(name)
            name = _parent(name)
    dir_paths = tuple(sorted(every))
    dir_places = {name: index for index, name in enumerate(dir_paths)}
    renumber = np.array([dir_places[name] for name in found], np.int32)
    tree = Tree(
        dir_paths=dir_paths,
        dir_places=dir_places,
        dir_parent=np.array([dir_places[_parent(name)] for name in dir_paths], np.int64),
        paths=pa.concat_arrays(paths),
        file_parent=renumber[np.concatenate(codes)],
        size=np.concatenate(size),
        offset=np.concatenate(offset),
        pack=np.concatenate(place),
        mtime_s=np.concatenate(times) if times else None,
    )
    if tree.mtime_s is not None and len(tree.mtime_s) != len(tree.paths):
        raise Corrupt(_ROWS, "some of them have no time", "warm the version again")
    if len(tree.paths) > 1 and not pc.all(pc.less(tree.paths[:-1], tree.paths[1:])).as_py():
        raise Corrupt(_ROWS, "their paths are not in ascending order, each once", "publish again")
    for name in dir_paths[1:]:
        if find_file(tree, name[:-1]) is not None:
            raise Corrupt(
                f"the path {name[:200]!r}", "it is a file and a directory at once", "correct the dataset"
            )
    return tree


def _parent(directory: bytes) -> bytes:
    return directory[: directory.rfind(b"/", 0, -1) + 1]


def first_not_before(paths: pa.Array, key: bytes) -> int:
    """Place of the first path that is not below `key` in byte order."""
    low, high = 0, len(paths)
    while low < high:
        middle = (low + high) // 2
        if paths[middle].as_py() < key:
            low = middle + 1
        else:
            high = middle
    return low


def find_file(tree: Tree, path: bytes) -> int | None:
    """The place of a file, or None."""
    place = first_not_before(tree.paths, path)
    return place if place < len(tree.paths) and tree.paths[place].as_py() == path else None


def children(tree: Tree, directory: int) -> tuple[list[bytes], list[int]]:
    """(names, inodes) of a directory, sorted by the bytes of the names."""
    prefix = tree.dir_paths[directory]
    first = first_not_before(tree.paths, prefix)
    last = (
        first_not_before(tree.paths, prefix[:-1] + b"0") if prefix else len(tree.paths)
    )  # 0 follows / in ASCII
    files = first + np.flatnonzero(tree.file_parent[first:last] == directory)
    names = [path[len(prefix) :] for path in tree.paths.take(pa.array(files)).to_pylist()]
    dirs = [int(place) for place in np.flatnonzero(tree.dir_parent == directory) if place]
    pairs = sorted(
        [*zip(names, (files + len(tree.dir_paths) + 1).tolist(), strict=True)]
        + [(tree.dir_paths[place][len(prefix) : -1], place + 1) for place in dirs]
    )
    return [name for name, _ in pairs], [inode for _, inode in pairs]


def read_exactly(descriptor: int, offset: int, length: int) -> bytes:
    """`length` bytes; fewer only at the end of the file."""
    data = os.pread(descriptor, length, offset)
    parts, have = [data], len(data)
    while data and have < length:
        data = os.pread(descriptor, length - have, offset + have)
        parts.append(data)
        have += len(data)
    return b"".join(parts)


def read_if_in_memory(descriptor: int, offset: int, into: memoryview) -> bool:
    """Fill it when all of the bytes are in the page cache; False when reading them would wait for a disk."""
    with suppress(OSError):
        return os.preadv(descriptor, [into], offset, os.RWF_NOWAIT) == len(into)
    return False


def read_into(descriptor: int, offset: int, into: memoryview) -> int:
    """How many bytes there are: fewer than asked for only at the end of the file. Blocks."""
    have = 0
    while have < len(into) and (got := os.preadv(descriptor, [into[have:]], offset + have)):
        have += got
    return have


class Devices:
    """Packs as they are read: local ones open, those in fetchfs by path.

    A local one stays open as long as the view is mounted: that keeps others from taking bytes out of it. Raises Refused when the
    process may not open so many files.
    """

    def __init__(self, paths: Sequence[Path], fetchfs: Path | None) -> None:
        self._paths = paths
        local = [fetchfs is None or not path.is_relative_to(fetchfs) for path in paths]
        self._open: list[int] = []
        try:
            for path, is_local in zip(paths, local, strict=True):
                self._open.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC) if is_local else -1)
        except OSError as error:
            for descriptor in self._open:
                if descriptor >= 0:
                    os.close(descriptor)
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise Refused(
                "the view",
                f"it has {sum(local)} packs on this node, and a process may not open so many files",
                "raise the limit of open files of the agent (ulimit -Hn, LimitNOFILE)",
            ) from error

    def check(self, tree: Tree) -> None:
        """Raises Corrupt for a local pack that ends before the rows do."""
        ends = np.zeros(len(self._paths), np.int64)
        np.maximum.at(ends, tree.pack, tree.offset + tree.size)
        for descriptor, end, path in zip(self._open, ends.tolist(), self._paths, strict=True):
            if descriptor >= 0 and os.fstat(descriptor).st_size < end:
                raise Corrupt(
                    f"the pack {path}", "it is shorter than the view needs", "warm the version again"
                )

    def expect(self, device: int, offset: int, length: int) -> None:
        """Have the disk start on bytes that will be asked for."""
        descriptor = self._open[device]
        if descriptor >= 0 and length:
            os.posix_fadvise(descriptor, offset, min(length, EXPECTED), os.POSIX_FADV_WILLNEED)

    def is_local(self, device: int) -> bool:
        return self._open[device] >= 0

    def at_once(self, device: int, offset: int, into: memoryview) -> bool:
        """Fill it when no disk and no other process has to be waited for."""
        return read_if_in_memory(self._open[device], offset, into)

    def read_here(self, device: int, offset: int, into: memoryview) -> None:
        """Fill it from a local pack. Blocks. Raises FetchFailed when the pack is too short, OSError."""
        if read_into(self._open[device], offset, into) != len(into):
            raise FetchFailed(f"the pack {self._paths[device]}", f"it ends before byte {offset + len(into)}")

    def read(self, device: int, offset: int, length: int) -> bytes:
        """Blocks. Raises FetchFailed when the pack is too short, OSError (EIO from fetchfs)."""
        descriptor = self._open[device]
        if descriptor >= 0:
            data = read_exactly(descriptor, offset, length)
        else:
            opened = os.open(self._paths[device], os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = read_exactly(opened, offset, length)
            finally:
                os.close(opened)
        if len(data) != length:
            raise FetchFailed(f"the pack {self._paths[device]}", f"it ends before byte {offset + length}")
        return data


class TreeFiles(pyfuse3.Operations):
    """The tree of one version, read-only."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    listxattr = fuseserve.list_no_attributes

    def __init__(self, tree: Tree, devices: Devices, work: Work, same: Attributes) -> None:
        super().__init__()
        self._tree, self._devices, self._work, self._same = tree, devices, work, same
        self._first_file = len(tree.dir_paths) + 1
        self._subdirs = np.bincount(tree.dir_parent[1:], minlength=len(tree.dir_paths))
        self._listings: dict[int, tuple[list[bytes], list[int]]] = {}
        self._next_listing = 0
        self._total = int(tree.size.sum())
        self._buffer = memoryview(bytearray(fuseserve.LARGEST_READ))

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        if inode < self._first_file:
            nlink = 2 + int(self._subdirs[inode - 1])
            return fuseserve.attributes(inode, 0, is_dir=True, nlink=nlink, same=self._same)
        place, times = inode - self._first_file, self._tree.mtime_s
        size = int(self._tree.size[place])
        mtime_ns = None if times is None else int(times[place]) * 10**9
        return fuseserve.attributes(inode, size, is_dir=False, same=self._same, mtime_ns=mtime_ns)

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        fuseserve.check_name(name)
        path = self._tree.dir_paths[parent_inode - 1] + name
        place = self._tree.dir_places.get(path + b"/")
        if place is not None:
            return self._attributes(place + 1)
        file = find_file(self._tree, path)
        if file is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(file + self._first_file)

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise pyfuse3.FUSEError(errno.EROFS)
        file = inode - self._first_file
        self._devices.expect(
            int(self._tree.pack[file]), int(self._tree.offset[file]), int(self._tree.size[file])
        )
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=True)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        file = fh - self._first_file
        tree = self._tree
        length = min(size, int(tree.size[file]) - off)
        if length <= 0:
            return b""
        device, offset = int(tree.pack[file]), int(tree.offset[file]) + off
        what = f"the file {tree.paths[file].as_py()!r}"
        here: bytes | None = None
        if self._devices.is_local(device) and length <= fuseserve.LARGEST_READ:
            # sent before the next request is read, for no await lies between: one buffer will do. pyfuse3 takes any.
            buffer = self._buffer[:length]
            if self._devices.at_once(device, offset, buffer):
                here = cast("bytes", buffer)
            elif self._work.is_alone():
                self._work.run_here(what, self._devices.read_here, device, offset, buffer)
                here = cast("bytes", buffer)
        data = (
            await self._work.run(what, self._devices.read, device, offset, length) if here is None else here
        )
        self._work.sent(length)
        return data

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        """There is nothing to flush; said once, the kernel does not ask again: a round trip less for each file."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        self._next_listing += 1
        self._listings[self._next_listing] = children(self._tree, inode - 1)
        return pyfuse3.FileHandleT(self._next_listing)

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        names, inodes = self._listings[fh]
        for place in range(start_id, len(names)):
            name = pyfuse3.FileNameT(names[place])
            if not pyfuse3.readdir_reply(token, name, self._attributes(inodes[place]), place + 1):
                return

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        del self._listings[fh]

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return fuseserve.file_system_size(self._total, len(self._tree.paths))


def serve(
    rows: Path,
    devices: Sequence[tuple[str, Path]],
    fetchfs: Path | None,
    same: Attributes,
    mountpoint: Path,
    counters: Path | None = None,
    ready: int | None = None,
) -> None:
    """Show the tree at a folder until SIGTERM or unmount. devices: (pack id, path); those below `fetchfs` are not local.

    Raises Refused, Corrupt, MountFailed, OSError.
    """
    descriptors.raise_limit()
    work = Work(counters, ready)
    tree = read_tree(rows, [pack for pack, _ in devices])
    opened = Devices([path for _, path in devices], fetchfs)
    opened.check(tree)
    fuseserve.serve(TreeFiles(tree, opened, work, same), mountpoint, "outlap-tree", work)


def main(arguments: Sequence[str] | None = None) -> int:
    """python -m cacheengine.views.tree: the options of fuseserve, the rows and the devices."""
    parser = fuseserve.options("cacheengine.views.tree", __doc__ or "")
    parser.add_argument(
        "--rows", type=Path, required=True, help="path, size, pack, offset: Parquet, or an index of a version"
    )
    parser.add_argument("--devices", type=Path, required=True, help="JSON list of [pack id, path]")
    parser.add_argument("--fetchfs", type=Path, help="folder of the packs that are not local")
    parser.add_argument("--uid", type=int, default=0)
    parser.add_argument("--gid", type=int, default=0)
    parser.add_argument("--mode", type=lambda text: int(text, 8), default=0o444, help="of files, octal")
    chosen = parser.parse_args(arguments)
    same = Attributes(chosen.uid, chosen.gid, chosen.mode)

    def run() -> None:
        named = json.loads(chosen.devices.read_text(encoding="utf-8"))
        devices = [(pack, Path(path)) for pack, path in named]
        serve(chosen.rows, devices, chosen.fetchfs, same, chosen.mountpoint, chosen.counters, chosen.ready_fd)

    return fuseserve.run(run)


if __name__ == "__main__":
    sys.exit(main())
