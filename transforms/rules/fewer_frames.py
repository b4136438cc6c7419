"""fewer-frames: an MP4 declares more frames than can be read of it; an edit list may be meant so, a damaged table not."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.stream is None or seen.index is None or any(p.kind == "partial" for p in seen.problems):
        return None
    declared = seen.stream.declared_frames
    # a fragmented file declares none
    return (
        f"it declares {declared} frames, {len(seen.index)} can be read"
        if declared > len(seen.index)
        else None
    )


RULE = FileRule("fewer-frames", "warning", check, inferred=True)
