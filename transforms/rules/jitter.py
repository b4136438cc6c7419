"""jitter: of the intervals between frames one in ten is off by more than half."""

from __future__ import annotations

import numpy as np

from transforms.rules.rule import FileRule
from transforms.seen import Seen, shown_times


def check(seen: Seen) -> str | None:
    times = shown_times(seen)
    if len(times) < 20:
        return None
    steps = np.diff(times)
    usual = float(np.median(steps))
    off = float(np.percentile(np.abs(steps - usual), 90))
    if off <= usual / 2:
        return None
    return f"its frames are {usual:.0f} ns apart, one in ten is off by {off:.0f} ns or more"


RULE = FileRule("jitter", "warning", check, inferred=True)
