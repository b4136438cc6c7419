"""truncated: the last box of an MP4 says that it ends after the file does."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    boxes = seen.boxes
    if boxes is None or boxes.end <= boxes.size:
        return None
    return f"its last box '{boxes.last}' ends at byte {boxes.end}, the file at byte {boxes.size}"


RULE = FileRule("truncated", "error", check)
