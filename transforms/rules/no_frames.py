"""no-frames: a video of which no frame is shown."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.index is None or seen.index.shown.any():
        return None
    return f"it has {len(seen.index)} frames, of which none is shown"


RULE = FileRule("no-frames", "error", check)
