"""fewer-frames: an MP4 declares more frames than can be read of it; an edit list may be meant so, a damaged table not."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.recording is None or seen.index is None:
        return None
    declared = seen.recording.channels[0].declared_frames
    # a fragmented file declares none
    return (
        f"it declares {declared} frames, {len(seen.index)} can be read"
        if declared > len(seen.index)
        else None
    )


RULE = FileRule("fewer-frames", "warning", check, inferred=True)
