"""truncated: an MP4 ends before its last box does, and nothing of it can be taken: its tables were to come after."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    boxes = seen.boxes
    if boxes is None or boxes.end <= boxes.size:
        return None
    if seen.index is not None and len(seen.index):
        return None  # `partial` tells it
    return f"its last box '{boxes.last}' ends at byte {boxes.end}, the file at byte {boxes.size}"


RULE = FileRule("truncated", "error", check)
