"""times: frames of one video that are shown at the same time, or at times that no recording has."""

from __future__ import annotations

import numpy as np

from transforms.rules.rule import FileRule
from transforms.seen import LONGEST_SECONDS, Seen, within_reach


def check(seen: Seen) -> str | None:
    index = seen.index
    if index is None:
        return None
    if not within_reach(index):
        return (
            f"its times run from {int(index.pts.min())} to {int(index.pts.max())} ticks of {index.time_base} s, "
            f"more than {LONGEST_SECONDS} s from its beginning"
        )
    places = np.flatnonzero(index.shown)
    order = places[np.argsort(index.pts[places], kind="stable")]
    same = np.flatnonzero(np.diff(index.pts[order]) == 0)
    if not len(same):
        return None
    first, second = int(order[same[0]]), int(order[same[0] + 1])
    at = int(index.pts[first])
    return f"frames {first} and {second} are both shown at {at} ticks of {index.time_base} s ({len(same)} such pairs)"


RULE = FileRule("times", "error", check)
