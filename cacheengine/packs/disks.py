"""The disk under each cache directory: normal → unstable → down, and back. All of the state machine is on this page.

    normal    packs are read and placed here
    unstable  after 3 errors within a minute, or at once when the disk is read-only or gone: packs here are read, nothing new is placed
    down      after 3 failed probes in a row, or at once when the directory is not on its own file system (see directory_identity.py):
              nothing here is looked at; its packs are made again elsewhere, and new mounts use those
    back      after 5 probes in a row that worked: normal (from down, too)

A probe writes 4 KiB, syncs them, reads them and compares; one that takes longer than PROBE_S has failed. A full disk is no broken one.
The states are facts of a process: agent and fetchfs each probe by themselves, so neither waits for the other. What is mounted stays
mounted: the kernel reads what the disk still gives.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from cacheengine import intime
from cacheengine.errors import FetchFailed
from cacheengine.packs import directory_identity
from cacheengine.packs.directory_identity import WrongFileSystem

State = Literal["normal", "unstable", "down"]
ERRORS, WINDOW_S = 3, 60.0
DOWN_AFTER, NORMAL_AFTER = 3, 5
PROBE_EVERY_S, PROBE_S = 2.0, 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_GONE = (errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.ESHUTDOWN, errno.ENOTDIR)
RANK = {"normal": 0, "unstable": 1, "down": 2}

log = structlog.get_logger()


@dataclass(frozen=True)
class Disk:
    """errors: times of the last ones (s, monotonic); good, bad: probes in a row. cause: the newest error in words."""

    state: State = "normal"
    errors: tuple[float, ...] = ()
    good: int = 0
    bad: int = 0
    cause: str = ""


def failed(
    disk: Disk,
    now: float,
    cause: str,
    is_gone: bool = False,
    is_probe: bool = False,
    is_other: bool = False,
) -> Disk:
    """The disk after an error. is_other: what lies there is another file system."""
    errors = (*(at for at in disk.errors if now - at < WINDOW_S), now)[-ERRORS:]
    bad = disk.bad + 1 if is_probe else disk.bad
    state = disk.state
    if is_other:
        state = "down"
    elif state == "normal" and (is_gone or len(errors) >= ERRORS):
        state, bad = "unstable", 0
    elif state == "unstable" and bad >= DOWN_AFTER:
        state = "down"
    return Disk(state, errors, 0, bad, cause)


def worked(disk: Disk) -> Disk:
    """The disk after a probe that worked."""
    good = disk.good + 1
    if disk.state == "normal":
        return Disk("normal", disk.errors)
    return Disk() if good >= NORMAL_AFTER else Disk(disk.state, disk.errors, good, 0, disk.cause)


_disks: dict[Path, Disk] = {}
_lock = threading.Lock()
_slots = threading.Semaphore(16)


def disk_of(path: Path) -> Disk:
    with _lock:
        return _disks.get(path, Disk())


def is_up(path: Path) -> bool:
    """Whether packs of this directory may be read."""
    return disk_of(path).state != "down"


def rank(path: Path) -> int:
    """0 for a normal disk; larger is worse."""
    return RANK[disk_of(path).state]


def forget(path: Path) -> None:
    with _lock:
        _disks.pop(path, None)
    directory_identity.forget(path)


def note(path: Path, error: OSError) -> None:
    """An error of work in this directory. Those that say nothing of the disk (it is full) are left out."""
    _change(path, error, is_probe=False)


def _change(path: Path, error: OSError | None, is_probe: bool) -> None:
    if error is not None and error.errno in _FULL:
        error = None
        if not is_probe:
            return
    with _lock:
        before = _disks.get(path, Disk())
        if isinstance(error, WrongFileSystem) and before.state == "down" and not is_probe:
            return  # the probe says better why
        if error is None:
            after = worked(before)
        else:
            gone = error.errno in _GONE and is_probe
            cause = error.strerror or str(error)
            after = failed(
                before,
                time.monotonic(),
                cause,
                is_gone=gone or error.errno == errno.EROFS,
                is_probe=is_probe,
                is_other=isinstance(error, WrongFileSystem),
            )
        _disks[path] = after
    if after.state != before.state:
        say = log.info if after.state == "normal" else log.error
        say("disk_state", dir=str(path), before=before.state, now=after.state, cause=after.cause)


def probe(path: Path) -> State:
    """Try the disk of a cache directory; its state after that."""
    try:
        intime.within(_slots, time.monotonic() + PROBE_S, _hangs, partial(_try, path))
    except OSError as error:
        _change(path, error, is_probe=True)
    except FetchFailed as error:
        _change(path, OSError(errno.EIO, error.why), is_probe=True)
    else:
        _change(path, None, is_probe=True)
    return disk_of(path).state


def _hangs() -> FetchFailed:
    return FetchFailed("a probe of the disk", f"it took longer than {PROBE_S:g} s", "look at the disk")


def _try(path: Path) -> None:
    """Raises OSError when the directory is not on its own file system, or what was written does not come back."""
    directory_identity.check(path)
    directory = directory_identity.open_directory(path)
    try:
        _write_and_read(directory)
    finally:
        os.close(directory)


def _write_and_read(directory: int) -> None:
    name = f".probe-{os.getpid()}"
    data = os.urandom(4096)
    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            os.pwrite(fd, data, 0)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if os.pread(fd, 4096, 0) != data:
                raise OSError(errno.EIO, "other bytes came back than were written")
        finally:
            os.close(fd)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
