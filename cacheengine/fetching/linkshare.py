"""A sync keeps to its share of the link between two IDCs, as the control service of its source hands it out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from cacheengine.client import control_for
from cacheengine.fetching import throttle
from cacheengine.wire import LinkBudget
from lake.config import Config
from lake.errors import Explained

AGAIN_S = 30.0
LOOK_S = 1.0

log = structlog.get_logger()


def paced(ask: Callable[[], LinkBudget], stop: threading.Event) -> Callable[[int], None]:
    """wait(count), called before `count` bytes cross the link, by any thread; a waiting ends with `stop`.

    ask: what the control service says now; asked again before its answer is too old, so that a link is shared anew as syncs begin
    and end and as hours change. A share of 0 waits for another. While control is away, what it said last holds.
    """
    lock = threading.Lock()
    known: LinkBudget | None = None
    due = time.monotonic()

    def share() -> int | None:
        nonlocal known, due
        with lock:
            if time.monotonic() >= due:
                due = time.monotonic() + AGAIN_S
                try:
                    known = ask()
                    due = time.monotonic() + known.valid_s / 2
                except (Explained, OSError) as error:
                    log.warning("link_budget_not_heard", error=str(error))
            if known is not None and known.share_bps == 0:
                due = min(due, time.monotonic() + LOOK_S)
            return known.share_bps if known is not None else None

    in_turn = throttle.paced(share, stop)

    def wait(count: int) -> None:
        while share() == 0:
            if stop.wait(LOOK_S):
                return
        in_turn(count)

    return wait


def of_sync(config: Config, source: str, target: str, sync: str) -> Callable[[int], None]:
    """The pace of a sync of this name from one IDC to another; none where the settings name no control service."""
    if config.idc_named(source).control is None:
        return lambda _: None

    def ask() -> LinkBudget:
        with control_for(config, source) as control:
            return control.link_budget(source, target, sync)

    return paced(ask, threading.Event())
