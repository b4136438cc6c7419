"""not-an-mp4: a file is named .mp4 or .mov and does not begin as one."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.boxes is None or seen.boxes.is_mp4 or seen.source is None:
        return None
    beginning = seen.source.read(0, 16)
    return f"it begins with {beginning!r}, where a box of an MP4 should stand"


RULE = FileRule("not-an-mp4", "error", check)
