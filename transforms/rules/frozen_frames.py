"""frozen-frames: three or more cut frames in a row are the same picture: the camera hangs, since even a parked one has noise."""

from __future__ import annotations

import numpy as np

from transforms.rules.rule import FileRule
from transforms.seen import Seen
from transforms.tags.picture import FROZEN_DIFFERENCE

LEAST = 3


def check(seen: Seen) -> str | None:
    if seen.looks is None or seen.times_ns is None:
        return None
    places = seen.looks.places
    order = np.argsort(seen.times_ns[places], kind="stable")
    same = seen.looks.measured["change"][order] < FROZEN_DIFFERENCE
    # the lengths of runs of equal pictures
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    begins, lengths = edges[::2], edges[1::2] - edges[::2]
    long = np.flatnonzero(lengths + 1 >= LEAST)
    if not len(long):
        return None
    first = int(places[order[begins[long[0]] - 1]])
    return f"{int((lengths[long] + 1).sum())} of {len(places)} cut frames, from frame {first} on"


RULE = FileRule("frozen-frames", "warning", check, inferred=True)
