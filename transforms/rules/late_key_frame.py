"""late-key-frame: a video begins with frames that cannot be decoded; they are left out."""

from __future__ import annotations

import numpy as np

from transforms.plan import decodable
from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.index is None:
        return None
    lost = int(np.count_nonzero(seen.index.shown & ~decodable(seen.index)))
    return f"{lost} frames come before the first key frame" if lost else None


RULE = FileRule("late-key-frame", "warning", check)
