"""times-backwards: frames of a log were not written in the order of their stamps."""

from __future__ import annotations

import numpy as np

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.stream is None or seen.times_ns is None or seen.stream.log_times_ns is None:
        return None
    steps = np.diff(seen.times_ns)
    back = np.flatnonzero(steps < 0)
    if not len(back):
        return None
    first = int(back[0])
    return f"{len(back)} of {len(steps)} stamps go back, the first by {-int(steps[first])} ns at frame {first + 1}"


RULE = FileRule("times-backwards", "warning", check)
