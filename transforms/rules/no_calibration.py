"""no-calibration: a recording has calibrations of other cameras, and none of this one."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.stream is None or seen.recording is None or not seen.recording.calibrations:
        return None
    if seen.calibration is not None:
        return None
    return f"{len(seen.recording.calibrations)} other cameras of the recording have a calibration"


RULE = FileRule("no-calibration", "warning", check)
