"""uncalibrated: the calibration of a camera was never made: K[0] is 0."""

from __future__ import annotations

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    return (
        "K[0] of its calibration is 0"
        if seen.calibration is not None and not seen.calibration.focal
        else None
    )


RULE = FileRule("uncalibrated", "warning", check)
