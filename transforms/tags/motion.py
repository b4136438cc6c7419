"""motion: heading, how fast it turns, and whether the vehicle stands, from the positions a second before and after.

The speed is the receiver's own (speed_mps of the track) where it gives one, else the distance over those two seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from transforms.tags.tagger import Float64, Frames, Options, Tagger
from transforms.telemetry import EARTH_M, Positions
from transforms.times import SECOND, Int64

# slower, positions say nothing of the heading, and the vehicle is said to stand
STANDING_MPS = 0.5
LEAST_METRES = 2.0


def _steps(before: Positions, after: Positions) -> tuple[Float64, Float64]:
    """Metres east and north; over two seconds the Earth is flat."""
    middle = np.radians((before.latitude + after.latitude) / 2)
    turned = (after.longitude - before.longitude + 180.0) % 360.0 - 180.0
    east = np.radians(turned) * np.cos(middle) * EARTH_M
    north = np.radians(after.latitude - before.latitude) * EARTH_M
    return east, north


def _heading(frames: Frames, times_ns: Int64) -> tuple[Float64, Float64]:
    """Degrees clockwise from north, NaN where it stands or nothing is known; and m/s."""
    before, after = frames.positions_at(times_ns - SECOND), frames.positions_at(times_ns + SECOND)
    east, north = _steps(before, after)
    metres = np.hypot(east, north)
    heading = np.degrees(np.arctan2(east, north)) % 360.0
    return np.where(metres >= LEAST_METRES, heading, np.nan), metres / 2


def make(frames: Frames, options: Options) -> Mapping[str, object]:
    heading, derived = _heading(frames, frames.times_ns)
    earlier, _ = _heading(frames, frames.times_ns - SECOND)
    later, _ = _heading(frames, frames.times_ns + SECOND)
    turn = ((later - earlier + 180.0) % 360.0 - 180.0) / 2
    own = frames.positions.speed_mps
    speed = np.where(np.isnan(own), derived, own)
    standing = [None if np.isnan(value) else bool(value < STANDING_MPS) for value in speed.tolist()]
    return {
        "motion_mps": np.round(speed, 2),
        "heading_deg": np.round(heading, 1) % 360.0,
        "turn_deg_s": np.round(turn, 1),
        "is_stopped": standing,
    }


TAGGER = Tagger(
    "motion",
    1,
    lambda options: {
        "motion_mps": "double",
        "heading_deg": "double",
        "turn_deg_s": "double",
        "is_stopped": "bool",
    },
    make,  # type: ignore[arg-type]
)
