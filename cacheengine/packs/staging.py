"""Files for members that are gathered outside of their pack: beside the packs, so that the quota counts them.

    <dir>/staging/<pid>-<random>    one member that is too long for memory, or a part of it; its owner holds a lock on it

A file whose owner was killed has no lock, and goes with the next `sweep`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cacheengine.packs import directory_identity
from cacheengine.packs.packcache import BLOCK, CacheDir, allocate, room

FOLDER = "staging"
STEP = 8 << 20
_NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def folder(directory: CacheDir) -> Path:
    """Where staged members of a cache directory lie."""
    return directory.path / FOLDER


def open_staged(directory: CacheDir, size: int) -> int | None:
    """Make a file with room for a member, which `close_staged` removes.

    Args:
        directory: Where the member's pack lies.
        size: Bytes of the member.

    Returns:
        A descriptor, locked; None where neither the quota nor the disk has the room.

    Raises:
        OSError: The disk fails, or is not there.
    """
    root = directory_identity.open_directory(directory.path)  # it may not be on its own disk just now
    lock = -1
    try:
        lock = os.open(".reserve", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=root)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if room(directory) < size + 2 * BLOCK:
            return None
        with suppress(FileExistsError):
            os.mkdir(FOLDER, dir_fd=root)
        name = f"{FOLDER}/{os.getpid()}-{secrets.token_hex(8)}"
        path = directory.path / name
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=root)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            allocate(fd, 0, size + BLOCK)
        except OSError as error:
            _remove(path, fd)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return None
            raise
        os.utime(lock)  # who counted before counts again
        return fd
    finally:
        if lock >= 0:
            os.close(lock)
        os.close(root)


def close_staged(fd: int) -> None:
    """Remove a staged file and close it."""
    with suppress(OSError):
        os.ftruncate(fd, 0)
    _remove(Path(f"/proc/self/fd/{fd}").readlink(), fd)


def _remove(path: Path, fd: int) -> None:
    try:
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def copy(source: int, start: int, target: int, offset: int, size: int) -> None:
    """Copy bytes of one file into another, by the kernel where it can. Raises OSError."""
    done = 0
    while done < size:
        count = min(STEP, size - done)
        try:
            copied = os.copy_file_range(source, target, count, start + done, offset + done)
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
            copied = os.pwrite(target, os.pread(source, count, start + done), offset + done)
        if copied == 0:
            raise OSError(errno.EIO, "a staged file ended early")
        done += copied


def sweep(directory: CacheDir) -> int:
    """Remove what killed processes left; how many files. Raises OSError."""
    removed = 0
    if not folder(directory).is_dir():
        return 0
    for entry in os.scandir(folder(directory)):
        try:
            fd = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Path(entry.path).unlink(missing_ok=True)
            removed += 1
        except BlockingIOError:
            continue
        finally:
            os.close(fd)
    return removed
