"""How fast bytes of stores come to this process, and whether a peer that fetches for us is far slower.

Both count alike: a peer says how many bytes it has taken so far. Bytes of requests that have not ended are in no count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

FAR = 8.0  # so many times slower than we are is too slow
LOOK_S = 3.0  # no judgement before that
OUT_S = 60.0  # who is too slow is left out for so long
KEPT_S = 60.0  # busy seconds after which what was before counts half


@dataclass
class Meter:
    """Bytes, and the seconds in which at least one request was under way. May be used from many threads."""

    running: int = 0
    since: float = 0.0
    busy_s: float = 0.0
    bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


STORES = Meter()


@contextmanager
def request(meter: Meter) -> Iterator[None]:
    """A request that is under way."""
    with meter.lock:
        _pass(meter, time.monotonic())
        meter.running += 1
    try:
        yield
    finally:
        with meter.lock:
            _pass(meter, time.monotonic())
            meter.running -= 1


def add(meter: Meter, count: int) -> None:
    with meter.lock:
        meter.bytes += count


def rate(meter: Meter) -> float | None:
    """Bytes a second while it was busy; None before anything came."""
    with meter.lock:
        _pass(meter, time.monotonic())
        return meter.bytes / meter.busy_s if meter.bytes and meter.busy_s > 0 else None


def _pass(meter: Meter, now: float) -> None:
    if meter.running:
        meter.busy_s += now - meter.since
    meter.since = now
    if meter.busy_s > KEPT_S:
        meter.busy_s, meter.bytes = meter.busy_s / 2, meter.bytes // 2


def is_far_slower(gained: int, seconds: float, uncounted: int, ours: float | None) -> bool:
    """Whether a peer that took so many bytes in so many seconds is no help to us. uncounted: bytes that it may have under way on top;
    ours: bytes a second, None when we have no measure, and nobody is too slow."""
    return ours is not None and seconds >= LOOK_S and gained + uncounted < ours * seconds / FAR
