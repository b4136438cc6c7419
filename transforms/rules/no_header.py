"""no-header: an MP4 without a moov box, as a recorder leaves it that was switched off."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.boxes is None or seen.boxes.has_header:
        return None
    return f"it has no moov box in {seen.boxes.size} bytes; its last box is '{seen.boxes.last}'"


RULE = FileRule("no-header", "error", check)
