"""Samples: the frames of all channels aligned to one time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transforms.times import Int64


def _nearest(references: Int64, times: Int64, tolerance_ns: int) -> tuple[Int64, Int64]:
    """(which of times, which of references): pairs that are nearest to each other, within the tolerance, each once.

    references, times: ascending. Of two that are equally near the earlier counts.
    """
    after = np.clip(np.searchsorted(references, times, side="left"), 0, len(references) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(times - references[before]) <= np.abs(references[after] - times), before, after)
    distance = np.abs(references[nearest] - times)
    order = np.lexsort((times, distance, nearest))
    _, starts = np.unique(nearest[order], return_index=True)
    best = order[starts]
    best = best[distance[best] <= tolerance_ns]
    return best.astype(np.int64), nearest[best].astype(np.int64)


def align(times_ns: Int64, channels: Int64, tolerance_ns: int) -> Int64:
    """The time of the sample that each frame is in.

    The channel with the most frames (of equals the first) leads: each of its frames is a sample, and takes from each other
    channel the frame that is nearest to it, if it is nearest to that one too and within tolerance_ns. What is left over
    is aligned in the same way, under the next channel. times_ns, channels (any numbers): one per frame, in any order; a channel
    has each time once. No two samples have the same time.
    """
    found = np.empty_like(times_ns)
    numbers, counts = np.unique(channels, return_counts=True)
    left = {
        int(number): places[np.argsort(times_ns[places], kind="stable")]
        for number in numbers
        for places in [np.flatnonzero(channels == number)]
    }
    leaders = numbers[np.lexsort((numbers, -counts))].tolist()
    for place, leader in enumerate(leaders):
        references = left[leader]
        if not len(references):
            continue
        found[references] = times_ns[references]
        for other in leaders[place + 1 :]:
            if not len(left[other]):
                continue
            mine, theirs = _nearest(times_ns[references], times_ns[left[other]], tolerance_ns)
            found[left[other][mine]] = times_ns[references[theirs]]
            left[other] = np.delete(left[other], mine)
    return found


def missing_partners(samples_ns: Int64, channels: Int64, names: Sequence[str]) -> list[str]:
    """For each frame the channels that have no frame in its sample: "CAM_LEFT,CAM_REAR", "" where none is missing.

    names: of all channels that could be there, by their number in `channels`, in the order in which they are listed.
    """
    _, sample = np.unique(samples_ns, return_inverse=True)
    there = np.zeros((int(sample.max()) + 1 if len(sample) else 0, len(names)), np.bool_)
    there[sample, channels] = True
    kinds, kind = np.unique(there, axis=0, return_inverse=True)
    told = [
        ",".join(name for name, is_there in zip(names, row, strict=True) if not is_there) for row in kinds
    ]
    return [told[number] for number in kind.reshape(-1)[sample].tolist()]


def sample_ids(vehicle: str, drive: str, samples_ns: Int64) -> list[str]:
    """`<vehicle>/<drive>/<time, 19 digits>` for each frame: the same for the frames of one sample, and only for them."""
    return [f"{vehicle}/{drive}/{at:019d}" for at in samples_ns.tolist()]
