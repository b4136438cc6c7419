"""Which frames to cut, and what must be decoded for them. Pure functions over an index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from transforms.errors import TransformError
from transforms.recordings import FrameIndex
from transforms.times import SECOND, Int64

PERIOD = 1000 * SECOND  # a tick of 1 mHz, in ns


@dataclass(frozen=True)
class Run:
    """Decode frames [start, stop) of the index in one go, for the frames `wanted` (places in the index, ascending pts).

    start is a key frame. A run of one frame needs nothing before or after it.
    """

    start: int
    stop: int
    wanted: tuple[int, ...]


def decodable(index: FrameIndex) -> npt.NDArray[np.bool_]:
    """Which frames can be decoded: not those before the first key frame, in decoding order or in time.

    A frame after the first key frame but shown before it (a leading picture of an open group) refers to frames that the
    recording does not have.
    """
    keys = np.flatnonzero(index.key)
    if not len(keys):
        return np.zeros(len(index), np.bool_)
    first = int(keys[0])
    return np.asarray((np.arange(len(index)) >= first) & (index.pts >= index.pts[first]), np.bool_)


def choose_keyframes(index: FrameIndex) -> Int64:
    """Places of the shown key frames, ascending in time."""
    places = np.flatnonzero(index.key & index.shown)
    return places[np.argsort(index.pts[places], kind="stable")].astype(np.int64)


def choose_all(index: FrameIndex) -> Int64:
    """Places of all frames that are shown and can be decoded, ascending in time."""
    places = np.flatnonzero(index.shown & decodable(index))
    return places[np.argsort(index.pts[places], kind="stable")].astype(np.int64)


def choose_nearest(index: FrameIndex, times_ns: Int64, moments_ns: Int64, tolerance_ns: int) -> Int64:
    """Places of the frame nearest to each moment, ascending in time, each once; the earlier of two equally near.

    A moment with no frame within tolerance_ns gives none. times_ns: of each frame of the index, in the index's order.
    """
    places = choose_all(index)
    if not len(places) or not len(moments_ns):
        return np.array([], np.int64)
    order = places[np.argsort(times_ns[places], kind="stable")]
    times = times_ns[order]
    after = np.clip(np.searchsorted(times, moments_ns, side="left"), 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(moments_ns - times[before]) <= np.abs(times[after] - moments_ns), before, after)
    near = np.abs(times[nearest] - moments_ns) <= tolerance_ns
    return np.asarray(order[np.unique(nearest[near])], np.int64)


def choose_windows(
    index: FrameIndex, times_ns: Int64, moments_ns: Int64, before_ns: int, after_ns: int
) -> Int64:
    """Places of all frames from before_ns before to after_ns after a moment, both included, ascending in time."""
    places = choose_all(index)
    times, moments = times_ns[places], np.sort(moments_ns)
    first = np.searchsorted(moments, times - after_ns, side="left")
    stop = np.searchsorted(moments, times + before_ns, side="right")
    return np.asarray(places[stop > first], np.int64)


def nearest_ticks(times_ns: Int64, rate_mhz: int) -> tuple[Int64, Int64]:
    """The tick of a clock of rate_mhz millihertz that each time is nearest to, and how far it is from it.

    Tick k is at k * 1e12 / rate_mhz ns since the epoch and owns [tick - period/2, tick + period/2). Distances are in
    units of 1/rate_mhz ns, so that nothing is rounded.
    """
    if rate_mhz <= 0:
        raise TransformError("a cut by rate", f"the rate is {rate_mhz} mHz", "give a rate above zero")
    if not len(times_ns):
        return times_ns, times_ns
    # Python's integers for the first time (the product leaves int64), then relative to it in int64.
    origin = int(times_ns.min())
    first, phase = divmod(origin * rate_mhz, PERIOD)
    seconds, rest = np.divmod(times_ns - origin, SECOND)
    whole, part = np.divmod(seconds * rate_mhz, PERIOD // SECOND)
    ticks, phases = np.divmod(part * SECOND + rest * rate_mhz + phase, PERIOD)
    later = 2 * phases >= PERIOD
    nearest = first + whole + ticks + later
    return nearest.astype(np.int64), np.where(later, PERIOD - phases, phases).astype(np.int64)


def choose_rate(index: FrameIndex, times_ns: Int64, rate_mhz: int) -> Int64:
    """Places of at most one frame per tick of a clock of rate_mhz millihertz, ascending in time.

    The clock's ticks are at multiples of its period since the epoch, so all channels of a drive (and all drives) share
    them. Each tick takes the frame nearest to it of those in its window (nearest_ticks), the earlier of two equally
    near; a window without frames gives none. Frames that cannot be decoded or are not shown do not count.
    times_ns: time of each frame of the index, in the index's order.
    """
    places = np.flatnonzero(index.shown & decodable(index))
    times = times_ns[places]
    ticks, distances = nearest_ticks(times, rate_mhz)
    order = np.lexsort((times, distances, ticks))
    _, starts = np.unique(ticks[order], return_index=True)
    return np.asarray(places[order[starts]], np.int64)


def plan_runs(index: FrameIndex, wanted: Int64) -> list[Run]:
    """The runs that deliver the frames at `wanted` (places, ascending pts), in decoding order.

    A frame is decoded from the key frame that governs it: the last one before it in decoding order. A frame shown
    before that key frame (a leading picture of an open group) refers to the group before, so it starts one key frame
    earlier.
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
        start, frames = key, (place,)
        # a key frame itself never needs the run before it; a leading picture may need several of them joined
        while runs and start < runs[-1].stop and key != place:
            previous = runs.pop()
            start, frames = min(start, previous.start), previous.wanted + frames
        runs.append(Run(start, place + 1, frames))
    return [
        Run(run.start, run.stop, tuple(sorted(run.wanted, key=lambda place: int(index.pts[place]))))
        for run in runs
    ]
