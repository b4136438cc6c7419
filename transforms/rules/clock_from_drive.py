"""clock-from-drive: a clock that was never set is taken to have begun with the drive."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    own = seen.stream.start_ns if seen.stream else None
    if own is None or seen.start_from not in ("file", "drive", "sidecar"):
        return None
    return f"its own clock says that it began at {own} ns; the {seen.start_from} says {seen.start_ns} ns"


RULE = FileRule("clock-from-drive", "warning", check, inferred=True)
