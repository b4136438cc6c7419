"""no-video: a recording without video of H.264 or H.265."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.recording is None or seen.recording.channels:
        return None
    codecs = ", ".join(seen.recording.codecs)
    return f"its video is {codecs}, not H.264 or H.265" if codecs else "it has no video stream"


RULE = FileRule("no-video", "error", check)
