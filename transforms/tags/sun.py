"""sun: elevation of the sun over the horizon (astral's formulas, without refraction), and the light that it gives.

day: the sun is up; dusk: at most 6 degrees below the horizon (civil twilight, of the morning too); night: lower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from astral import Observer
from astral.sun import elevation

from transforms.tags.tagger import Frames, Options, Tagger

TWILIGHT_DEG = -6.0
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def light_of(degrees: float) -> str | None:
    """day, dusk or night; None for NaN."""
    if np.isnan(degrees):
        return None
    return "day" if degrees >= 0 else "dusk" if degrees >= TWILIGHT_DEG else "night"


def elevation_deg(at_ns: int, latitude: float, longitude: float) -> float:
    """To hundredths of a degree, which is better than the formulas are."""
    at = EPOCH + timedelta(microseconds=at_ns // 1000)
    return round(float(elevation(Observer(latitude, longitude, 0.0), at, with_refraction=False)), 2)


def make(frames: Frames, options: Options) -> Mapping[str, Sequence[object]]:
    where = zip(
        frames.times_ns.tolist(),
        frames.positions.latitude.tolist(),
        frames.positions.longitude.tolist(),
        strict=True,
    )
    degrees = [np.nan if np.isnan(lat) else elevation_deg(at, lat, lon) for at, lat, lon in where]
    return {"sun_elevation_deg": degrees, "light": [light_of(value) for value in degrees]}


TAGGER = Tagger("sun", 1, lambda options: {"sun_elevation_deg": "double", "light": "string"}, make)
