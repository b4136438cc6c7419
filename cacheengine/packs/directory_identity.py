"""Which file system a cache directory belongs to: a marker file in it, and what the node remembers of it.

    <cache dir>/.outlap-cache.json    {"id": …}, written when the directory is taken into use
    <state dir>/cache_dirs.json       path → id, mount point and file system at that time

A directory whose file system is unmounted shows the folder below, on another disk. So nothing is created in a cache directory
by its path: `open_directory` opens it, checks the marker, and everything is created relative to that descriptor, which stays on
the file system that has the marker.

A directory is taken into use when

- the node does not remember it: a new node, or a new entry of `cache_dirs`;
- it has another marker, or none and no files, and no mount is missing: the mount point that it lies on is the remembered one or a
  deeper one, and it is not on the file system of the node's state where it was on one of its own. That is a replaced disk, or a
  directory that a person emptied.

In every other case it stays down until the file system with the remembered marker is back. A marker that was copied to the disk below
does not count: where a mount is missing, the file system must be the remembered one, too.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from cacheengine.packs.have import write_durably
from cacheengine.views import mountapi

MARKER = ".outlap-cache.json"
MEMORY = "cache_dirs.json"
MAX_MARKER = 4096
_NO_CONTENT = ("lost+found", ".agent.lock", ".reserve", ".snapshot")

log = structlog.get_logger()


class WrongFileSystem(OSError):
    """The directory is not on the file system that it belongs to; `strerror` says why."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.ENODEV, why)


@dataclass(frozen=True)
class Identity:
    """id: of the marker. mount_point: what the directory lay on. file_system: f_fsid. with_state: it lay on the file system of the
    node's state."""

    id: str
    mount_point: str
    file_system: int
    with_state: bool


@dataclass(frozen=True)
class _Place:
    """Where a directory lies just now. is_empty: it is not there, or nobody's files are in it."""

    mount_point: str
    file_system: int
    with_state: bool
    is_empty: bool


_lock = threading.Lock()
_expected: dict[Path, Identity | None] = {}
_states: dict[Path, Path | None] = {}


def open_directory(path: Path) -> int:
    """Open a cache directory on the file system that it belongs to; the caller creates relative to the descriptor, and closes it.

    Raises:
        WrongFileSystem: Its marker is not there, or is another one.
        OSError: It cannot be opened.
    """
    with _lock:
        is_known, expected = path in _expected, _expected.get(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise WrongFileSystem("the directory is gone") from error
    try:
        if is_known and (expected is None or _marker(fd) != expected.id):
            raise WrongFileSystem("its marker is not there: its disk is not mounted, or another one is")
    except BaseException:
        os.close(fd)
        raise
    return fd


def take_into_use(path: Path, state_dir: Path | None) -> None:
    """Make a cache directory, or find it as it was, and expect its marker from now on.

    Args:
        path: The cache directory, absolute.
        state_dir: The node's state, which remembers the directory; None remembers it in this process only.

    Raises:
        WrongFileSystem: Its own file system is not there.
        OSError: It cannot be made.
    """
    with _lock:
        _expected.setdefault(path, None)
        _states[path] = state_dir
    check(path)


def check(path: Path) -> None:
    """Check that the directory is on its file system, or take what replaces it into use. Raises as take_into_use."""
    with _lock:
        if path not in _expected:
            return
        state_dir, expected = _states[path], _expected[path]
    if expected is not None and _is_as_known(path, state_dir, expected):
        return
    with _remembering(state_dir):
        found = _settle(path, state_dir, expected)
    with _lock:
        _expected[path] = found


def forget(path: Path) -> None:
    """Expect no marker any more."""
    with _lock:
        _expected.pop(path, None)
        _states.pop(path, None)


def _is_as_known(path: Path, state_dir: Path | None, known: Identity) -> bool:
    if _marker_at(path) != known.id:
        return False
    place = _place(path, state_dir)
    return not _is_missing(known, place) or place.file_system == known.file_system


def _settle(path: Path, state_dir: Path | None, known: Identity | None) -> Identity:
    """What counts from now on; a marker is written where the directory is taken into use."""
    memory = _recall(state_dir) if state_dir is not None else {}
    if state_dir is not None:
        known = memory.get(str(path))  # another process may have taken what replaces it
    place, marker = _place(path, state_dir), _marker_at(path)
    if known is not None:
        _refuse_wrong(known, place, marker)
    if marker is None:
        marker = _write_marker(path)
        place = _place(path, state_dir)
        log.info("cache_directory_taken", dir=str(path), id=marker, replaces=known.id if known else None)
    elif known is not None and marker != known.id:
        log.warning("cache_directory_replaced", dir=str(path), id=marker, replaces=known.id)
    now = Identity(marker, place.mount_point, place.file_system, place.with_state)
    if state_dir is not None and now != known:
        memory[str(path)] = now
        _remember(state_dir, memory)
    return now


def _refuse_wrong(known: Identity, place: _Place, marker: str | None) -> None:
    """Raises WrongFileSystem when what is at the path is neither what is known nor may replace it."""
    is_below = _is_missing(known, place)
    if marker == known.id:
        if is_below and place.file_system != known.file_system:
            raise WrongFileSystem(
                f"{known.mount_point} is not mounted, and what lies there is a copy on another file system"
            )
        return
    if is_below:
        raise WrongFileSystem(f"{known.mount_point} is not mounted")
    if place.with_state and not known.with_state:
        raise WrongFileSystem(
            "its disk is not there: it lies on the file system of the node's state, where it had one of its own"
        )
    if marker is None and not place.is_empty and place.file_system != known.file_system:
        raise WrongFileSystem("other files lie there and its marker does not: empty it to take it into use")


def _is_missing(known: Identity, place: _Place) -> bool:
    """Whether the mount that the directory lay on is gone."""
    return place.mount_point != known.mount_point and Path(known.mount_point).is_relative_to(
        place.mount_point
    )


def _place(path: Path, state_dir: Path | None) -> _Place:
    there = path
    while not there.exists():
        there = there.parent
    real = Path(os.path.realpath(there))
    targets = [mount.target for mount in mountapi.mounts() if real.is_relative_to(mount.target)]
    mount_point = max(targets, key=lambda target: len(target.parts), default=Path("/"))
    with_state = state_dir is not None and there.stat().st_dev == state_dir.stat().st_dev
    entries = () if there != path else tuple(os.scandir(path))
    is_empty = not any(entry.name not in _NO_CONTENT for entry in entries)
    return _Place(str(mount_point), os.statvfs(there).f_fsid, with_state, is_empty)


def _marker_at(path: Path) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _marker(fd)
    finally:
        os.close(fd)


def _marker(directory: int) -> str | None:
    """The id in the marker; None when there is none, or nothing that is one."""
    try:
        fd = os.open(MARKER, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    try:
        value = json.loads(os.read(fd, MAX_MARKER))
    except ValueError:
        return None
    finally:
        os.close(fd)
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _write_marker(path: Path) -> str:
    """Make the directory and its marker; the id. Another process may have been faster: then its id."""
    (path / "packs").mkdir(parents=True, exist_ok=True)
    (path / "views").mkdir(exist_ok=True)
    there = _marker_at(path)
    if there is not None:
        return there
    fresh = uuid.uuid4().hex
    write_durably(path / MARKER, json.dumps({"id": fresh}).encode())
    return _marker_at(path) or fresh


def _recall(state_dir: Path) -> dict[str, Identity]:
    """What the node remembers: path → identity. Raises WrongFileSystem when that cannot be read."""
    file = state_dir / MEMORY
    try:
        value: Any = json.loads(file.read_bytes())
        return {path: _identity(one) for path, one in value["dirs"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WrongFileSystem(
            f"{file} cannot be read, so it is not known which disk belongs here: "
            "see that all disks are mounted, and remove that file"
        ) from error


def _identity(value: dict[str, Any]) -> Identity:
    """Fields that a later release adds are left out."""
    return Identity(
        str(value["id"]), str(value["mount_point"]), int(value["file_system"]), bool(value["with_state"])
    )


def _remember(state_dir: Path, memory: dict[str, Identity]) -> None:
    value = {"dirs": {path: asdict(one) for path, one in sorted(memory.items())}}
    write_durably(state_dir / MEMORY, json.dumps(value, indent=1).encode())


@contextmanager
def _remembering(state_dir: Path | None) -> Iterator[None]:
    """One process of the node at a time changes what is remembered."""
    if state_dir is None:
        yield
        return
    fd = os.open(state_dir / ".cache_dirs.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            os.close(fd)
