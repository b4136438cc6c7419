"""The only place where bytes are written into packs. They are checked before the first of them is written.

So a pack holds, at each place of a member, its right bytes or what was allocated, at every moment and whoever fetches: a warm, a
reader, a peer's answer, a single object, a repair, in any number of processes. Who writes a member that another process has checked
meanwhile writes the same bytes again.

A member that comes in one piece is hashed where it lies. A long one is gathered outside of the pack: in memory while there is some
left for it (MAX_MEMBER_MEMORY, and MAX_MEMORY for all of a process), else in a staged file beside the packs (staging.py), else, where
the disk has no room for that, it is received twice: once for the hashes of its blocks, and once to write each block that has its hash.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from blake3 import blake3

from cacheengine.packs import staging
from cacheengine.packs.packcache import BLOCK, CacheDir
from cacheengine.wanted import PackWant

MAX_MEMBER_MEMORY = 64 << 20
MAX_MEMORY = 256 << 20
CHECKED_BLOCK = 8 << 20

Sink = Callable[[memoryview], None]
# sends a member's bytes, from its first on, to a sink that keeps what it gets; whether all of it came. May be called again.
Pour = Callable[[Sink], bool]


@dataclass(frozen=True)
class PackFile:
    """A pack that is open for writing. directory: where its file lies. came: hears of bytes for it as they come, before they are
    checked (below 0: that so many came in vain)."""

    fd: int
    directory: CacheDir
    came: Callable[[int], None] = lambda count: None


@dataclass
class Memory:
    """Bytes of long members that this process may hold at once. May be used from many threads."""

    limit: int = MAX_MEMORY
    held: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def hold(self, size: int) -> Iterator[bool]:
        """Take `size` bytes while they are to be had; whether they were."""
        with self.lock:
            taken = size <= min(MAX_MEMBER_MEMORY, self.limit - self.held)
            self.held += size if taken else 0
        try:
            yield taken
        finally:
            with self.lock:
                self.held -= size if taken else 0


MEMORY = Memory()


def write_members(
    want: PackWant, rows: Sequence[int], data: memoryview, *, base: int, pack: PackFile
) -> list[int]:
    """Write those members that have their content id.

    Args:
        want: Members of the pack, whose content ids are hashes.
        rows: Which of them lie in `data`.
        data: The pack's bytes from `base` on.
        base: Offset in the pack, in bytes.
        pack: Where they are written.

    Returns:
        The rows whose bytes are wrong: nothing of them was written.

    Raises:
        OSError: The disk fails.
    """
    bad = []
    for row in rows:
        start = int(want.offset[row]) - base
        part = data[start : start + int(want.length[row])]
        if _is_right(want, row, len(part), blake3(part).digest()):
            _write(pack.fd, part, base + start)
        else:
            bad.append(row)
    return bad


def write_long(want: PackWant, row: int, pour: Pour, pack: PackFile) -> bool:
    """Gather a member outside of its pack, and write it when it is whole and right.

    Args:
        want: Members of the pack. Where they have no hash, `pour` gives the bytes of one object under one etag.
        row: The member.
        pour: Sends its bytes; asked twice where there is no room to gather them.
        pack: Where it is written.

    Returns:
        Whether it was right, and is written.

    Raises:
        OSError: The disk fails. What `pour` raises.
    """
    size, digest, came = int(want.length[row]), blake3(), 0
    gathered: _Gathered | None = None
    with ExitStack() as stack:

        def sink(data: memoryview) -> None:
            nonlocal gathered, came
            if gathered is None:  # only now: who is asked first may have nothing yet
                gathered = _room_for(want, row, pour, pack, stack)
            digest.update(data)
            if came + len(data) <= size:
                gathered.add(data, came)
            came += len(data)

        if not pour(sink) or not _is_right(want, row, came, digest.digest()):
            return False
        return gathered is None or gathered.put(pack.fd, int(want.offset[row]), size)


def _room_for(want: PackWant, row: int, pour: Pour, pack: PackFile, stack: ExitStack) -> _Gathered:
    size = int(want.length[row])
    if stack.enter_context(MEMORY.hold(size)):
        return _InMemory()
    fd = staging.open_staged(pack.directory, size)
    if fd is None:
        return _Twice(pour)
    stack.callback(staging.close_staged, fd)
    # as far from a block's start as in the pack, so that the kernel may share the blocks
    return _InFile(fd, int(want.offset[row]) % BLOCK)


class _Gathered(Protocol):
    """The bytes of a member so far, outside of its pack."""

    def add(self, data: memoryview, at: int) -> None: ...

    def put(self, fd: int, offset: int, size: int) -> bool: ...


def _is_right(want: PackWant, row: int, size: int, digest: bytes) -> bool:
    is_whole = size == int(want.length[row])
    return is_whole and (not want.hashed or digest == want.content_id[row].tobytes())


class _InMemory:
    def __init__(self) -> None:
        self._parts: list[tuple[int, memoryview]] = []

    def add(self, data: memoryview, at: int) -> None:
        self._parts.append((at, data))

    def put(self, fd: int, offset: int, size: int) -> bool:
        for at, data in self._parts:
            _write(fd, data, offset + at)
        return True


class _InFile:
    def __init__(self, fd: int, start: int) -> None:
        self._fd, self._start = fd, start

    def add(self, data: memoryview, at: int) -> None:
        _write(self._fd, data, self._start + at)

    def put(self, fd: int, offset: int, size: int) -> bool:
        staging.copy(self._fd, self._start, fd, offset, size)
        return True


class _Twice:
    """Hashes of the blocks of what came first; what comes again is written block by block where it has them."""

    def __init__(self, pour: Pour) -> None:
        self._pour, self._digest = pour, blake3()
        self._hashes: list[bytes] = []
        self._filled = 0

    def add(self, data: memoryview, at: int) -> None:
        while data:
            part = data[: CHECKED_BLOCK - self._filled]
            self._digest.update(part)
            self._filled += len(part)
            if self._filled == CHECKED_BLOCK:
                self._hashes.append(self._digest.digest())
                self._digest, self._filled = blake3(), 0
            data = data[len(part) :]

    def put(self, fd: int, offset: int, size: int) -> bool:
        hashes, block, done = [*self._hashes, self._digest.digest()], bytearray(), 0

        def sink(data: memoryview) -> None:
            nonlocal block, done
            while data and done < size:
                end = min(CHECKED_BLOCK, size - done)
                part = data[: end - len(block)]
                block += part
                data = data[len(part) :]
                if len(block) < end:
                    continue
                if blake3(block).digest() != hashes[done // CHECKED_BLOCK]:
                    raise _Changed
                _write(fd, memoryview(block), offset + done)
                block, done = bytearray(), done + end

        try:
            return self._pour(sink) and done == size
        except _Changed:
            return False


class _Changed(Exception):
    """What came again is not what came first."""


def _write(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
