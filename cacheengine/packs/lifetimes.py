"""Who still reads a pack: the kernel's own answer, and the only place where bytes of a pack are taken away.

`fcntl(F_SETLEASE, F_WRLCK)` is granted on a file only while nobody else has it open, in any mount namespace: not an EROFS
superblock that has it as a device (also one that lives on in a container after `umount` on the host), not a loop device, not a
mapping, not another process or thread. While it is held, whoever opens the file waits (or gets EWOULDBLOCK), so nothing
comes between the question and the punch. See fcntl(2), "Leases".

A file of a pack's name that is not the pack (it has another size) may be read as well. It is retired: renamed into
`<cache dir>/retired/`, where it counts as used until nobody reads it, and is unlinked then.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cacheengine import crashpoints

RETIRED = "retired"
_PUNCH = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@contextmanager
def exclusive(path: Path) -> Iterator[int | None]:
    """Open a file for writing while nobody else has it open, and keep others waiting until the end of the block.

    Hold it short: who opens the file meanwhile waits.

    Args:
        path: The file of a pack.

    Yields:
        A descriptor, or None while somebody has the file open, in any mount namespace, or when the file system
        cannot tell.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The disk fails.
    """
    try:
        # not blocking: another process of ours may hold the lease just now, and then the file is in use
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except BlockingIOError:
        yield None
        return
    try:
        granted = _take_lease(fd)
        yield fd if granted else None
    finally:
        try:
            if granted:  # by itself: a child between fork and exec may share the descriptor for a moment
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        finally:
            os.close(fd)


def _take_lease(fd: int) -> bool:
    # the holder is told with a signal when someone opens the file: one that is ignored by default, for SIGIO ends a process
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        # EAGAIN: it is open elsewhere. The others: no leases on this file system, or not our file; then nobody can tell
        if error.errno in (errno.EAGAIN, errno.EINVAL, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP):
            return False
        raise
    return True


def is_read(path: Path) -> bool:
    """Whether anybody has the file open, in any mount namespace, as far as the kernel can tell."""
    try:
        with exclusive(path) as fd:
            return fd is None
    except FileNotFoundError:
        return False


def knows_leases(folder: Path) -> bool:
    """Whether the file system of a folder answers the question at all. Raises OSError."""
    probe = folder / f".lease-{os.getpid()}-{time.monotonic_ns()}"
    fd = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        return _take_lease(fd)
    finally:
        os.close(fd)
        probe.unlink(missing_ok=True)


def punch(fd: int, start: int, end: int) -> None:
    """Give the blocks of [start, end) back to the disk; they read as zeros after.

    Only for a descriptor from `exclusive`, or for bytes that were never written.
    """
    if end > start and _LIBC.fallocate(fd, _PUNCH, start, end - start) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def punch_never_written(fd: int, start: int, end: int, block: int) -> None:
    """Give those blocks of [start, end) back that were reserved and never written: nobody sees a difference.

    Args:
        fd: The pack, open for writing; others may read it.
        start: First byte.
        end: Byte after the last one.
        block: Size of a block of the file system in bytes.
    """
    while start < end:
        data = _seek(fd, start, os.SEEK_DATA, end)
        punch(fd, start, min(end, data // block * block))
        start = -(-_seek(fd, data, os.SEEK_HOLE, end) // block) * block if data < end else end


def _seek(fd: int, start: int, what: int, end: int) -> int:
    try:
        return min(end, os.lseek(fd, start, what))
    except OSError as error:
        if error.errno != errno.ENXIO:  # nothing of the kind after `start`
            raise
        return end


def retire(directory: Path, path: Path) -> None:
    """Take a file out of the way that others may still read: it keeps its bytes, and counts as used, until they end.

    Args:
        directory: The cache directory, of the same file system.
        path: The file.
    """
    folder = directory / RETIRED
    folder.mkdir(exist_ok=True)
    path.replace(folder / f"{path.name}.{time.time_ns()}")
    crashpoints.reach("retire.renamed")


def sweep_retired(directory: Path) -> int:
    """Unlink retired files that nobody reads any more.

    Args:
        directory: A cache directory.

    Returns:
        Bytes that went back to the disk.
    """
    freed = 0
    for path in (directory / RETIRED).glob("*"):
        try:
            taken = path.stat().st_blocks * 512
            with exclusive(path) as fd:
                if fd is None:
                    continue
                path.unlink()
                crashpoints.reach("retire.unlinked")
            freed += taken
        except FileNotFoundError:
            continue
    return freed


def retired_bytes(directory: Path) -> int:
    """Bytes of files that were taken out of the way and that somebody still reads."""
    total = 0
    for path in (directory / RETIRED).glob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total
