"""Work that may hang, waited for until a time and no longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cacheengine.errors import FetchFailed


def within(
    slots: threading.Semaphore,
    end: float,
    too_slow: Callable[[], Exception],
    work: Callable[[], object],
    never_begun: Callable[[], None] = lambda: None,
) -> None:
    """Run `work` in a thread, and wait for it until `end` (time.monotonic); raises what it raises, else `too_slow()`.

    It goes on after that, so a later caller may find it done. slots: how many such threads there may be; when none comes free in time
    `never_begun` is called.
    """
    if not slots.acquire(timeout=max(0.0, end - time.monotonic())):
        never_begun()
        raise too_slow()
    raised: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)
        finally:
            slots.release()
            done.set()

    # a daemon: a store that never answers must not keep the process from ending
    threading.Thread(target=run, name="in-time", daemon=True).start()
    if not done.wait(max(0.0, end - time.monotonic())):
        raise too_slow()
    if raised:
        raise raised[0]


def too_slow(pack_id: str, wait_s: float) -> FetchFailed:
    return FetchFailed(
        f"the pack {pack_id[:12]}",
        f"its bytes did not come within {wait_s:g} s",
        "look at the store; the fetch goes on, so read it again",
    )
