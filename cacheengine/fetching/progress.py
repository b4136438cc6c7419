"""How far a fetch is, and how long the rest of it takes: from bytes as they come, not as requests end.

Bytes that came count before they are checked: they are on the way. Where they turn out wrong, or a request is begun again, they are
taken back. The rate is that of the last half of the time so far (WINDOW_S at most), so that neither a slow start nor an old hour is in
it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_S = 60.0
MIN_WINDOW_S = 2.0
SAMPLE_EVERY_S = 0.1
MIN_MEASURED_S = 0.25

# hears of (bytes that came, bytes of members among them) as they come; of less than 0, that so many came in vain
Came = Callable[[int, int], None]


def nobody(count: int, members: int) -> None:
    """Hears nothing."""


@dataclass
class Progress:
    """Of one fetch; may be used from many threads.

    total: bytes of all requests, what lies between members too. came: of them so far. received: bytes of
    members among those; marked: of them that are checked, on disk and marked. samples: (monotonic seconds, came), ascending.
    """

    total: int
    came: int = 0
    received: int = 0
    marked: int = 0
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    lock: threading.Lock = field(default_factory=threading.Lock)


def add_came(progress: Progress, count: int, members: int, now: float | None = None) -> None:
    """Count bytes that came, and bytes of members among them (below 0: that came in vain)."""
    now = time.monotonic() if now is None else now
    with progress.lock:
        progress.came += count
        progress.received += members
        samples = progress.samples
        if not samples or now - samples[-1][0] >= SAMPLE_EVERY_S:
            samples.append((now, progress.came))
        while len(samples) > 1 and samples[1][0] <= now - WINDOW_S:
            samples.popleft()


def add_marked(progress: Progress, count: int) -> None:
    """Count bytes that were marked."""
    with progress.lock:
        progress.marked += count


def on_the_way(progress: Progress) -> int:
    """Bytes of members that came and are not marked."""
    with progress.lock:
        return max(0, progress.received - progress.marked)


def rate(progress: Progress, now: float | None = None) -> float | None:
    """Bytes a second of late, from the first ones on; None before that can be said."""
    now = time.monotonic() if now is None else now
    with progress.lock:
        if not progress.samples or now - progress.samples[0][0] < MIN_MEASURED_S:
            return None
        at, before = progress.samples[0]
        start = now - min(WINDOW_S, max(MIN_WINDOW_S, (now - at) / 2))
        for sample in progress.samples:
            if sample[0] > start:
                break
            at, before = sample
        gained = progress.came - before
    return gained / (now - at) if gained > 0 else None


def eta_s(progress: Progress, now: float | None = None) -> float | None:
    """Seconds that the rest takes at the present rate; None while there is none."""
    found = rate(progress, now)
    with progress.lock:
        left = progress.total - progress.came
    if left <= 0:
        return 0.0
    return left / found if found else None


class Piece:
    """The bytes of one request, told to a fetch as they come, and set right at its end. May be used from many threads.

    size: of the request, in bytes. members: of them that are of members.
    """

    def __init__(self, told: Came, size: int, members: int) -> None:
        self._told, self._size, self._members = told, size, members
        self._came = self._received = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes that came (below 0: in vain). What came twice counts once."""
        with self._lock:
            self._came += count
            received = self._members * max(0, min(self._came, self._size)) // max(1, self._size)
            grown, self._received = received - self._received, received
        self._told(count, grown)

    def settle(self, members: int) -> None:
        """It is over, and brought so many bytes of members."""
        with self._lock:
            right = self._size * members // max(1, self._members)
            changes = right - self._came, members - self._received
            self._came, self._received = right, members
        self._told(*changes)
