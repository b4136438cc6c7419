"""skew: the stamps of a log are far from the times at which it was written."""

from __future__ import annotations

import numpy as np

from transforms.rules.rule import FileRule
from transforms.seen import Seen, is_set
from transforms.times import SECOND

LIMIT_NS = SECOND


def check(seen: Seen) -> str | None:
    logged = seen.stream.log_times_ns if seen.stream else None
    if logged is None or seen.times_ns is None or seen.start_from != "recording" or not len(logged):
        return None
    if not is_set(int(logged.min())) or not is_set(int(logged.max())):
        return None
    late = int(np.median(logged - seen.times_ns))
    return None if abs(late) <= LIMIT_NS else f"its frames were written {late} ns after their stamps"


RULE = FileRule("skew", "warning", check)
