"""black-frames: cut frames are black: the lens is covered, or the camera is not connected."""

from __future__ import annotations

import numpy as np

from transforms.rules.rule import FileRule
from transforms.seen import Seen


def check(seen: Seen) -> str | None:
    if seen.looks is None:
        return None
    black = np.flatnonzero(seen.looks.measured["black"] == 1)
    if not len(black):
        return None
    return f"{len(black)} of {len(seen.looks.places)} cut frames, the first is frame {int(seen.looks.places[black[0]])}"


RULE = FileRule("black-frames", "warning", check)
