"""Room for what readers ask for: taken at once where there is enough, else in turns (`packs/room_queue.py`).

Room is made by the agent alone, which knows what is desired and mounted: `<counts>.room` asks it, and it is waited for. Only who
stands first in the queue asks. Small needs pass the queue: they fit into what stays free below the watermarks.
"""

from __future__ import annotations

import time
from pathlib import Path

from cacheengine.errors import NoSpace
from cacheengine.packs import reserving, room_queue
from cacheengine.packs.packcache import Cache, CacheDir
from cacheengine.packs.reserving import Need

FIRST_SHARE = 0.5  # who stands first for so much of the longest wait and gets no room lets the next one try
MAX_SMALL = 1 << 20  # bytes
BESIDES = 64 << 10  # a new pack has a folder and a record
POLL_S = 0.05
_FIX = "free a version (`outlap free`), or give the node's cache_dirs a larger quota"


class ReaderRoom:
    """Takes space for readers of this process.

    Args:
        cache: The node's directories.
        counts: The process's file of counts, beside which the agent is asked; None: there is no agent.
        wait_s: The longest wait of a reader.
    """

    def __init__(self, cache: Cache, counts: Path | None, wait_s: float) -> None:
        self._cache, self._max_first_s = cache, wait_s * FIRST_SHARE
        self._request = counts.with_suffix(".room") if counts is not None else None
        self._queue = counts.parent / "waiting" if counts is not None else None

    def take(self, need: Need, end: float) -> CacheDir:
        """Take the space of a need; where it is.

        Args:
            need: What is missing of a pack.
            end: Until when to wait, time.monotonic.

        Raises:
            NoSpace: There is none, or it never fits.
        """
        size = reserving.blocks_of(need)
        largest = reserving.capacity(self._cache)
        if largest is not None and size > largest:
            raise NoSpace(
                _what(need), f"it needs {size} bytes, the largest cache directory takes {largest}", _FIX
            )
        if size <= MAX_SMALL or self._queue is None or room_queue.is_empty(self._queue):
            try:
                return self._reserve(need)
            except NoSpace:
                if time.monotonic() >= end:
                    raise
        elif time.monotonic() >= end:
            raise NoSpace(_what(need), "others wait for room", _FIX)
        if self._queue is None:
            return self._wait(need, end, None)
        with room_queue.waiting(self._queue) as ticket:
            return self._wait(need, end, ticket)

    def is_waited_for(self) -> bool:
        """Whether a reader of any process waits for room."""
        return self._queue is not None and not room_queue.is_empty(self._queue)

    def _wait(self, need: Need, end: float, ticket: room_queue.Ticket | None) -> CacheDir:
        first_since: float | None = None
        while True:
            now = time.monotonic()
            if first_since is None and (ticket is None or room_queue.is_first(ticket)):
                first_since = now
            if first_since is not None:
                try:
                    return self._reserve(need)
                except NoSpace:
                    if now > min(end, first_since + self._max_first_s):
                        raise
                self._ask(reserving.blocks_of(need) + BESIDES)
            elif now > end:
                raise NoSpace(_what(need), "others waited for room before it, all of the time", _FIX)
            time.sleep(POLL_S)

    def _reserve(self, need: Need) -> CacheDir:
        placed = reserving.reserve(self._cache, [need], _what(need), lambda _: False, lambda: _FIX)
        return placed[need.pack]

    def _ask(self, size: int) -> None:
        if self._request is not None:
            self._request.write_text(str(size))


def _what(need: Need) -> str:
    return f"read of {need.pack[:12]}"
