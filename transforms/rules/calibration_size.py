"""calibration-size: the calibration of a camera is for pictures of another size."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    found, stream = seen.calibration, seen.stream
    if found is None or stream is None or (found.width, found.height) == (stream.width, stream.height):
        return None
    return f"its calibration is for {found.width}x{found.height}, its pictures are {stream.width}x{stream.height}"


RULE = FileRule("calibration-size", "warning", check)
