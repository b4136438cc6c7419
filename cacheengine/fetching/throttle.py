"""A cap on the bytes that a node fetches a second: whoever is about to ask for some waits for its turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_S = 0.5  # what was not used of the last moment may be used now


def paced(rate: Callable[[], float | None], stop: threading.Event) -> Callable[[int], None]:
    """wait(count), called before `count` bytes are asked for, by any thread. rate(): bytes a second just now, None: no cap.

    A waiting that is no longer wanted ends with `stop`.
    """
    lock = threading.Lock()
    turn = time.monotonic()

    def wait(count: int) -> None:
        nonlocal turn
        bps = rate()
        if not bps:
            return
        with lock:
            now = time.monotonic()
            turn = max(turn, now - BURST_S)
            delay = turn - now
            turn += count / bps
        if delay > 0:
            stop.wait(delay)

    return wait
