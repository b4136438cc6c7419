"""position-jump: between two positions the vehicle would have been faster than any."""

from __future__ import annotations

import numpy as np

from transforms.rules.rule import FileRule
from transforms.seen import Seen
from transforms.telemetry import distances_m
from transforms.times import SECOND

FASTEST_MPS = 120.0


def check(seen: Seen) -> str | None:
    track = seen.track
    if track is None or len(track.times_ns) < 2:
        return None
    metres = distances_m(track.latitude, track.longitude)
    speeds = metres / (np.diff(track.times_ns) / SECOND)
    fast = np.flatnonzero(speeds > FASTEST_MPS)
    if not len(fast):
        return None
    first = int(fast[0])
    return (
        f"{len(fast)} of {len(speeds)} steps are faster than {FASTEST_MPS:.0f} m/s; "
        f"the first, of {metres[first]:.0f} m, at {int(track.times_ns[first])} ns"
    )


RULE = FileRule("position-jump", "warning", check, inferred=True)
