"""no-time: nobody says when a recording began, or a clock says it that was not set."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen
from transforms.times import EARLIEST_NS, LATEST_NS


def check(seen: Seen) -> str | None:
    if seen.stream is None or seen.sidecar_problem is not None:
        return None
    if seen.start_ns is None:
        made = seen.recording.creation_time if seen.recording else None
        says = "it has no creation_time" if made is None else f"its creation_time is {made[:40]!r}"
        return f"COMPLETE.json gives no start_ns, and {says}"
    if not EARLIEST_NS <= seen.start_ns < LATEST_NS:
        return f"the {seen.start_from} says that it began at {seen.start_ns} ns: not between 2000 and 2100"
    return None


RULE = FileRule("no-time", "error", check)
