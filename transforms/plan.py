"""Which frames to cut, and what must be decoded for them. Pure functions over an index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transforms.errors import TransformError
from transforms.recordings import FrameIndex
from transforms.times import SECOND, Int64


@dataclass(frozen=True)
class Run:
    """Decode frames [start, stop) of the index in one go, for the frames `wanted` (places in the index, ascending pts).

    start is a key frame. A run of one frame needs nothing before or after it.
    """

    start: int
    stop: int
    wanted: tuple[int, ...]


def choose_keyframes(index: FrameIndex) -> Int64:
    """Places of the shown key frames, ascending in time."""
    places = np.flatnonzero(index.key & index.shown)
    return places[np.argsort(index.pts[places], kind="stable")].astype(np.int64)


def choose_rate(index: FrameIndex, times_ns: Int64, rate_mhz: int) -> Int64:
    """Places of at most one frame per tick of a clock of rate_mhz millihertz, ascending in time.

    The clock's ticks are at multiples of its period since the epoch, so all channels of a drive (and all drives) share
    them. Tick k owns the half-open window [tick - period/2, tick + period/2) and takes the frame nearest to the tick in it, the
    earlier of two equally near; a window without frames gives none.
    times_ns: time of each frame of the index, in the index's order.
    """
    if rate_mhz <= 0:
        raise TransformError("a cut by rate", f"the rate is {rate_mhz} mHz", "give a rate above zero")
    shown = np.flatnonzero(index.shown)
    places = shown[np.argsort(times_ns[shown], kind="stable")]
    if not len(places):
        return places.astype(np.int64)
    times = times_ns[places]
    # Period in ns is 1e12 / rate_mhz; tick k is at k * 1e12 / rate_mhz: integers up to the rounding of a tick to ns.
    # Python's integers for the ends (the product leaves int64), then relative to the first tick in int64.
    first = int(times[0]) * rate_mhz // (1000 * SECOND)
    last = int(times[-1]) * rate_mhz // (1000 * SECOND) + 1
    origin = -(-first * 1000 * SECOND // rate_mhz)
    # origin's own rounding is carried so that ticks do not drift: offset of tick j is (j * 1e12 - carry) / rate
    carry = origin * rate_mhz - first * 1000 * SECOND
    relative = times - origin
    count = last - first + 1
    whole, part = divmod(1000 * SECOND, rate_mhz)
    steps = np.arange(count, dtype=np.int64)
    ticks = steps * whole + (steps * part - carry) // rate_mhz
    halves = (ticks[1:] + ticks[:-1] + 1) // 2
    edges = np.searchsorted(relative, halves, side="left")
    starts = np.concatenate([[0], edges])
    stops = np.concatenate([edges, [len(relative)]])
    at = np.searchsorted(relative, ticks, side="left")
    after = np.minimum(at, stops - 1)
    before = np.maximum(np.minimum(at - 1, stops - 1), starts)
    after = np.maximum(after, starts)
    filled = stops > starts
    safe_after = np.minimum(after, len(relative) - 1)
    safe_before = np.minimum(before, len(relative) - 1)
    nearer_before = np.abs(relative[safe_before] - ticks) <= np.abs(relative[safe_after] - ticks)
    chosen = np.where(nearer_before, safe_before, safe_after)[filled]
    return places[chosen].astype(np.int64)


def plan_runs(index: FrameIndex, wanted: Int64) -> list[Run]:
    """The runs that deliver the frames at `wanted` (places, ascending pts), in decoding order.

    A frame is decoded from the key frame that governs it: the last one before it in decoding order. A frame shown before
    that key frame (a leading picture of an open group) refers to the group before, so it starts one key frame earlier.
    """
    keys = np.flatnonzero(index.key)
    if not len(wanted):
        return []
    if not len(keys) or int(wanted.min()) < int(keys[0]):
        raise TransformError(
            "a plan",
            f"frame {int(wanted.min())} comes before the first key frame",
            "check the recording first",
        )
    order = np.sort(wanted)
    governing = np.searchsorted(keys, order, side="right") - 1
    leading = index.pts[order] < index.pts[keys[governing]]
    governing = np.where(leading, np.maximum(governing - 1, 0), governing)
    runs: list[Run] = []
    for place, key in zip(order.tolist(), keys[governing].tolist(), strict=True):
        if runs and key < runs[-1].stop and not (key == place):
            previous = runs[-1]
            runs[-1] = Run(previous.start, place + 1, (*previous.wanted, place))
        else:
            runs.append(Run(key, place + 1, (place,)))
    return [
        Run(run.start, run.stop, tuple(sorted(run.wanted, key=lambda place: int(index.pts[place]))))
        for run in runs
    ]
