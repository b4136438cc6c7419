"""wrong-unit: the times of a recording are seconds, milli- or microseconds where nanoseconds should stand."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen, is_set

UNITS = {1000: "microseconds", 1_000_000: "milliseconds", 1_000_000_000: "seconds"}


def check(seen: Seen) -> str | None:
    if seen.start_ns is None or is_set(seen.start_ns):
        return None
    for factor, unit in UNITS.items():
        if is_set(seen.start_ns * factor):
            return f"the {seen.start_from} says that it began at {seen.start_ns} ns: in {unit} this would be a time"
    return None


RULE = FileRule("wrong-unit", "error", check, inferred=True)
