"""no-video: a recording without pictures that can be cut: no H.264 or H.265, or a log without topics of images."""

from __future__ import annotations

from transforms.recordings.formats import LOGS
from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.recording is None or seen.recording.channels:
        return None
    found = ", ".join(seen.recording.codecs)[:400]
    if seen.format in LOGS:
        return f"none of its topics has pictures: {found}" if found else "it has no messages"
    return f"its video is {found}, not H.264 or H.265" if found else "it has no video stream"


RULE = FileRule("no-video", "error", check)
