"""imu: acceleration (m/s², gravity in it) and rotation (rad/s) about the sensor's own axes, means over the tenth of a second around."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from transforms.signals import IMU, find, means_at
from transforms.tags.tagger import Frames, Options, Tagger

HALF_NS = 50_000_000


def make(frames: Frames, options: Options) -> Mapping[str, object]:
    found = {name: find(frames.signals, (name,)) for name in IMU}
    nothing = np.full(len(frames), np.nan)
    return {
        name: nothing
        if signal is None or signal.is_text
        else np.round(means_at(signal, frames.times_ns, HALF_NS), 4)
        for name, signal in found.items()
    }


TAGGER = Tagger("imu", 1, lambda options: dict.fromkeys(IMU, "double"), make)  # type: ignore[arg-type]
