"""fetchfs: packs that are not resident, as files `<pack id>.tar`, the devices of views that are not wholly warm.

What is read is made resident first, whole members, checked, so that a reader never gets wrong bytes: right ones, or EIO with
a line in the log and in the counter file. It keeps no state: after `kill -9` start it again over the same folder and mount the
views anew. Resident packs are not read through here and do not notice. A node has several such processes, each with packs and a mount
of its own (`cacheengine/agent/fetchfs.py`): one is limited by a core.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import pyfuse3

from cacheengine import descriptors
from cacheengine.errors import FetchFailed
from cacheengine.ondemand.readthrough import open_readthrough
from cacheengine.views import fuseserve
from cacheengine.views.fuseserve import Work
from lake.canonical import is_hash

SUFFIX = ".tar"


class PackSource(Protocol):
    """Where packs come from; called in threads, several at once. `cacheengine.ondemand.readthrough.ReadThrough` is the real one."""

    def size_of(self, pack_id: str) -> int:
        """Bytes of the whole pack. Raises NotFound for a pack that is in no store.

        A mount asks this of each of its packs that is not resident, so it has to be fast.
        """

    def read(self, pack_id: str, offset: int, length: int) -> bytes:
        """These bytes, cut at the end of the pack, once every member they touch is resident and checked. Raises Explained."""

    def read_now(self, pack_id: str, offset: int, into: memoryview, may_wait: bool) -> bool:
        """Fill it with the same, where they are resident and in memory, or (may_wait) on a disk; else False. Raises OSError.

        Called in the event loop: it asks no other process, and takes no time.
        """


class PackFiles(pyfuse3.Operations):
    """One flat folder of packs. A pack exists when the source knows it; the listing shows those that were opened."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    listxattr = fuseserve.list_no_attributes

    def __init__(self, source: PackSource, work: Work) -> None:
        super().__init__()
        self._source, self._work = source, work
        # inode = place in these + 2; a pack keeps its inode, so that kept pages stay right
        self._ids: list[str] = []
        self._sizes: list[int] = []
        self._places: dict[str, int] = {}
        self._buffer = memoryview(bytearray(fuseserve.LARGEST_READ))

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        if inode == pyfuse3.ROOT_INODE:
            return fuseserve.attributes(inode, 0, is_dir=True, nlink=2)
        return fuseserve.attributes(inode, self._sizes[inode - 2], is_dir=False)

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """ENOENT for what is no pack id or is in no store, EIO when nobody can be asked."""
        fuseserve.check_name(name)
        pack_id = os.fsdecode(name).removesuffix(SUFFIX)
        if parent_inode != pyfuse3.ROOT_INODE or not name.endswith(SUFFIX.encode()) or not is_hash(pack_id):
            raise pyfuse3.FUSEError(errno.ENOENT)
        if pack_id not in self._places:
            size = await self._work.run(f"the pack {pack_id}", self._source.size_of, pack_id)
            if pack_id not in self._places:  # another lookup of it may have been faster
                self._places[pack_id] = len(self._ids)
                self._ids.append(pack_id)
                self._sizes.append(size)
        return self._attributes(self._places[pack_id] + 2)

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise pyfuse3.FUSEError(errno.EROFS)
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=True)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        pack_id = self._ids[fh - 2]
        length = max(0, min(size, self._sizes[fh - 2] - off))
        if length <= len(self._buffer):
            # sent before the next request is read, for no await lies between: one buffer will do. pyfuse3 takes any.
            buffer = self._buffer[:length]
            alone = self._work.is_alone()
            if self._work.run_here(
                _what(pack_id, off, size), self._source.read_now, pack_id, off, buffer, alone
            ):
                self._work.sent(length)
                return cast("bytes", buffer)
        data = await self._work.run(_what(pack_id, off, size), self._source.read, pack_id, off, length)
        if len(data) != length:  # FUSE would fill it up with zeros
            short = FetchFailed(
                f"the pack {pack_id[:12]}", f"it gave {len(data)} bytes of {length}", "warm it again"
            )
            raise self._work.failed(_what(pack_id, off, size), short)
        self._work.sent(length)
        return data

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        """There is nothing to flush; said once, the kernel does not ask again: a round trip less for each file."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        return pyfuse3.FileHandleT(inode)

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for place in range(start_id, len(self._ids)):
            name = pyfuse3.FileNameT(f"{self._ids[place]}{SUFFIX}".encode())
            if not pyfuse3.readdir_reply(token, name, self._attributes(place + 2), place + 1):
                return

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return fuseserve.file_system_size(sum(self._sizes), len(self._ids))


def _what(pack_id: str, offset: int, size: int) -> str:
    return f"bytes {offset}+{size} of the pack {pack_id}"


def serve(
    source: PackSource, mountpoint: Path, counters: Path | None = None, ready: int | None = None
) -> None:
    """Show the packs of `source` at a folder until SIGTERM or unmount. Raises MountFailed."""
    work = Work(counters, ready)
    fuseserve.serve(PackFiles(source, work), mountpoint, "outlap-fetchfs", work)


def main(arguments: Sequence[str] | None = None) -> int:
    """python -m cacheengine.ondemand.fetchfs: the options of fuseserve, and the node's settings."""
    parser = fuseserve.options("cacheengine.ondemand.fetchfs", __doc__ or "")
    parser.add_argument(
        "--node-config", type=Path, required=True, help="what the agent wrote for its processes"
    )
    parser.add_argument("--name", default="fetchfs", help="under which its counts are kept")
    chosen = parser.parse_args(arguments)

    def run() -> None:
        descriptors.raise_limit()
        source = open_readthrough(chosen.node_config, chosen.name)
        try:
            serve(source, chosen.mountpoint, chosen.counters, chosen.ready_fd)
        finally:
            source.close()

    return fuseserve.run(run)


if __name__ == "__main__":
    sys.exit(main())
