"""gap: frames of a recording are missing for longer than five of its intervals."""

from __future__ import annotations

import numpy as np

from transforms.rules.rule import FileRule
from transforms.seen import Seen, shown_times

TIMES = 5


def check(seen: Seen) -> str | None:
    times = shown_times(seen)
    if len(times) < 4:
        return None
    steps = np.diff(times)
    usual = int(np.median(steps))
    gaps = np.flatnonzero(steps > TIMES * max(usual, 1))
    if not len(gaps):
        return None
    longest = int(gaps[np.argmax(steps[gaps])])
    return (
        f"{len(gaps)} gaps; the longest, {int(steps[longest])} ns, begins at {int(times[longest])} ns; "
        f"its frames are {usual} ns apart"
    )


RULE = FileRule("gap", "warning", check)
