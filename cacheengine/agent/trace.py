"""One read of one file of a view, and where its bytes came from: page cache, disk, fetchfs, a peer, a store."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import time
from pathlib import Path

import pyarrow.compute as pc

from cacheengine import tracing
from cacheengine import wanted as wants
from cacheengine.agent.state import MountRecord, Node
from cacheengine.wire import Trace, TracePart
from lake.errors import NotFound, Refused

CHUNK = 1 << 20
PAGE = 4096
_CACHESTAT = 451  # Linux 6.5
_LIBC = ctypes.CDLL(None, use_errno=True)
_one_at_a_time = threading.Lock()


def trace(node: Node, path: str) -> Trace:
    """Read the file and say what it cost. Raises NotFound, Refused, OSError."""
    record, inside = _of_view(node, path)
    pack, offset, size = _location(node, record, inside)
    counts = node.config.state_dir / "counts"
    with _one_at_a_time:
        tracing.begin(counts)
        try:
            fd = os.open(Path(record.report.target) / inside, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                cached = min(size, _cached(fd))
                started = time.monotonic()
                while os.read(fd, CHUNK):
                    pass
                seconds = time.monotonic() - started
            finally:
                os.close(fd)
        finally:
            fetched = tracing.end(counts)
    parts = [TracePart(source="page cache", bytes=cached)] if cached else []
    mine = [
        one for one in fetched if one.pack == pack and one.at < offset + size and one.at + one.bytes > offset
    ]
    found = cached
    for one in mine:
        taken = min(size - found, min(offset + size, one.at + one.bytes) - max(offset, one.at))
        parts.append(TracePart(source=one.source, bytes=taken, seconds=one.seconds))
        found += taken
    if found < size:
        parts.append(TracePart(source="fetchfs" if pack in record.remote else "disk", bytes=size - found))
    return Trace(
        path=inside,
        dataset=record.report.dataset,
        tag=record.report.tag,
        backend=record.report.backend,
        pack=pack,
        offset=offset,
        size=size,
        seconds=seconds,
        parts=tuple(parts),
    )


def _of_view(node: Node, path: str) -> tuple[MountRecord, str]:
    """(the view, the path in it)."""
    asked = Path(path)
    if not asked.is_absolute() or ".." in asked.parts or "\0" in path:
        raise Refused(f"the path {path[:200]!r}", "it is no plain absolute path", "name a file of a view")
    with node.lock:
        records = list(node.mounts.values())
    for record in records:
        if asked.is_relative_to(record.report.target):
            return record, str(asked.relative_to(record.report.target))
    raise NotFound(
        f"a view at {path[:200]}",
        f"the node {node.config.name} has none there",
        "`outlap residency` lists them",
    )


def _location(node: Node, record: MountRecord, inside: str) -> tuple[str, int, int]:
    """(pack, offset, size), from the rows of the version."""
    version = record.report.version
    want = wants.load_want(node.config.views, version)
    if want is None:
        raise NotFound(f"the rows of version {version[:12]}", "they are not on this node", "mount it again")
    for table in wants.read_rows(want.index, ["path", "pack", "offset", "size"]):
        found = table.filter(pc.equal(table["path"], inside))
        if found.num_rows:
            row = found.to_pylist()[0]
            return str(row["pack"]), int(row["offset"]), int(row["size"])
    raise NotFound(f"{inside[:200]} in version {version[:12]}", "it has no such file", "name one that it has")


def _cached(fd: int) -> int:
    """Bytes of the file that are in the page cache (cachestat(2)); 0 where the kernel does not say."""
    asked, answer = ctypes.create_string_buffer(struct.pack("QQ", 0, 0)), ctypes.create_string_buffer(40)
    if _LIBC.syscall(_CACHESTAT, fd, asked, answer, 0) != 0:
        return 0
    pages: int = struct.unpack_from("Q", answer)[0]
    return pages * PAGE
