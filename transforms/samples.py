"""Samples: the frames of all channels aligned to one time."""

from __future__ import annotations

import numpy as np

from transforms.plan import nearest_ticks
from transforms.recipe import Rate, Recipe
from transforms.times import Int64


def align(times_ns: Int64, channels: Int64, tolerance_ns: int) -> Int64:
    """The time of the sample that each frame is in: the earliest time in it.

    In order of time, a frame begins a new sample when its channel is in the current one already, or when it is more than
    tolerance_ns after its beginning. times_ns, channels (any numbers): one per frame, in any order.
    """
    beginnings = np.empty_like(times_ns)
    start, members = 0, set[int]()
    for place in np.lexsort((channels, times_ns)).tolist():
        at, channel = int(times_ns[place]), int(channels[place])
        if not members or channel in members or at - start > tolerance_ns:
            start, members = at, set()
        members.add(channel)
        beginnings[place] = start
    return beginnings


def align_ticks(times_ns: Int64, rate_mhz: int) -> Int64:
    """The same for a cut by rate: frames of one tick are one sample, named by the earliest of them."""
    ticks, _ = nearest_ticks(times_ns, rate_mhz)
    order = np.lexsort((times_ns, ticks))
    _, starts, inverse = np.unique(ticks[order], return_index=True, return_inverse=True)
    beginnings = np.empty_like(times_ns)
    beginnings[order] = times_ns[order][starts][inverse]
    return beginnings


def sample_ids(vehicle: str, drive: str, times_ns: Int64, channels: Int64, recipe: Recipe) -> list[str]:
    """`<vehicle>/<drive>/<time, 19 digits>` for each frame; the same for the frames of one sample, and only for them."""
    if isinstance(recipe.cut, Rate):
        beginnings = align_ticks(times_ns, recipe.cut.rate_mhz)
    else:
        beginnings = align(times_ns, channels, recipe.sample_tolerance_ns)
    return [f"{vehicle}/{drive}/{at:019d}" for at in beginnings.tolist()]
