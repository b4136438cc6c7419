"""The queue for room: who waits for space in the cache directories takes turns, over all processes of a node, first come first served.

    <folder>/<monotonic ns>-<pid>-<number>    a ticket; its owner holds a lock on it, so one whose owner was killed is known

Without it, readers that do not all fit evict each other's bytes for ever.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_numbers = itertools.count()


@dataclass(frozen=True)
class Ticket:
    """A place in the queue."""

    folder: Path
    name: str


@contextmanager
def waiting(folder: Path) -> Iterator[Ticket]:
    """Stand in the queue until the end of the block.

    Args:
        folder: The queue; made when it is not there, its parent is.

    Yields:
        The ticket, last in the queue.
    """
    folder.mkdir(exist_ok=True)
    name = f"{time.monotonic_ns():020}-{os.getpid()}-{next(_numbers)}"
    made = folder / f".{name}"  # it has no place before it is locked
    fd = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        made.rename(folder / name)
        yield Ticket(folder, name)
    finally:
        for path in (made, folder / name):
            path.unlink(missing_ok=True)
        os.close(fd)


def is_first(ticket: Ticket) -> bool:
    """Whether nobody who is alive stands before it."""
    return not any(_is_alive(ticket.folder / name) for name in _names(ticket.folder) if name < ticket.name)


def is_empty(folder: Path) -> bool:
    """Whether nobody waits."""
    return not any(_is_alive(folder / name) for name in _names(folder))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []


def _is_alive(path: Path) -> bool:
    """Whether the owner of a ticket lives; the ticket of one that does not goes."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(fd)
