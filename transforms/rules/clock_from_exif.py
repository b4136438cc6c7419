"""clock-from-exif: the only clock is the camera's own, in EXIF, which may name no time zone and have whole seconds."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.start_from != "exif":
        return None
    return f"its start, {seen.start_ns} ns, is taken from EXIF"


RULE = FileRule("clock-from-exif", "warning", check, inferred=True)
