"""Readers before warms: a process that fetches for a reader says so, and the agent's warm gives way to it for a moment.

The mark is the time of a file, `<state>/counts/<process>.busy`: one system call for each side, and the mark of a
killed reader grows old by itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cacheengine import metrics

SUFFIX = ".busy"
FRESH_S = 0.2
MOST_S = 1.0  # a warm goes on, slowly, under readers that never stop
LOOK_EVERY_S = 0.02


def say(mark: Path) -> None:
    """A reader waits for bytes just now."""
    try:
        os.utime(mark)
    except FileNotFoundError:
        mark.touch()


def waiting(folder: Path) -> bool:
    """Whether a reader waited within the last moment. A clock that was set back counts as none."""
    now = time.time()
    for mark in folder.glob(f"*{SUFFIX}"):
        try:
            age = now - mark.stat().st_mtime
        except FileNotFoundError:
            continue
        if 0 <= age < FRESH_S:
            return True
    return False


def to_readers(folder: Path, stop: threading.Event) -> Callable[[], None]:
    """What a warm calls before each request: returns once no reader waits, or after MOST_S."""

    def give_way() -> None:
        end = time.monotonic() + MOST_S
        if waiting(folder):
            metrics.gave_way.inc()
            while waiting(folder) and time.monotonic() < end and not stop.wait(LOOK_EVERY_S):
                pass

    return give_way
