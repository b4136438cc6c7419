"""Packs that readers are just reading stay open, so that nobody makes room in them (`packs/lifetimes.py`).

What was fetched for a reader is held until it was read to its end, MAX_IDLE_S after the last read, or MAX_HELD_S after it came: then
others have their turn. There are MAX_HOLDS at most, and the oldest goes first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cacheengine.packs.have import Ints, Mask

MAX_HOLDS = 256
MAX_IDLE_S = 2.0
MAX_HELD_S = 10.0
AFTER_END_S = 0.2  # the requests of one reader do not come quite in order
EVERY_S = 0.1


@dataclass(eq=False)
class _Hold:
    """file: closed with its last user. ends: of the pack's members, ascending. unread: came, and was not read to its end yet."""

    file: object
    ends: Ints
    unread: Mask
    began: float
    last: float


class ReadingHolds:
    """The holds of one process; all methods may be called from many threads.

    ended: called in a thread of its own after a hold ended.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._lock = threading.Lock()
        self._holds: dict[str, _Hold] = {}
        self._changed, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="reading-holds", daemon=True)
        self._thread.start()

    def hold(self, pack: str, file: object, ends: Ints, rows: Ints) -> None:
        """Hold a pack until these members were read.

        Args:
            pack: Its id.
            file: What keeps the pack's file open while it is referred to.
            ends: Where each member of the pack ends, bytes, ascending.
            rows: Members that came just now.
        """
        now = time.monotonic()
        with self._lock:
            known = self._holds.pop(pack, None)  # the newest last
            unread, began = np.zeros(len(ends), np.bool_), now
            if known is not None:
                began = known.began
                unread |= np.isin(ends, known.ends[known.unread])
            unread[rows] = True
            self._holds[pack] = _Hold(file, ends, unread, began, now)
            while len(self._holds) > MAX_HOLDS:
                del self._holds[next(iter(self._holds))]
        self._changed.set()

    def note_read(self, pack: str, offset: int, length: int) -> None:
        """Note that a reader got these bytes."""
        if pack not in self._holds:
            return
        with self._lock:
            hold = self._holds.get(pack)
            if hold is not None:
                first, last = np.searchsorted(hold.ends, [offset, offset + length], "right")
                hold.unread[first:last] = False
                hold.last = time.monotonic()

    def close(self) -> None:
        """End all holds."""
        self._closed.set()
        self._changed.set()
        self._thread.join()
        with self._lock:
            self._holds.clear()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._changed.wait()
            self._closed.wait(EVERY_S)
            with self._lock:
                now = time.monotonic()
                over = [pack for pack, hold in self._holds.items() if _is_over(hold, now)]
                for pack in over:
                    del self._holds[pack]
                if not self._holds:
                    self._changed.clear()
            if over and not self._closed.is_set():
                self._ended()


def _is_over(hold: _Hold, now: float) -> bool:
    idle = now - hold.last
    was_read = idle > AFTER_END_S and not hold.unread.any()
    return was_read or idle > MAX_IDLE_S or now - hold.began > MAX_HELD_S
