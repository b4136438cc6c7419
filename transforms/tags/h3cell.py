"""h3: the hexagon of Uber's H3 grid that the vehicle is in. resolution: 0 to 15, default 9 (about 0.1 km²)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import h3  # type: ignore[import-untyped]
import numpy as np

from transforms.errors import TransformError
from transforms.tags.tagger import Frames, Kind, Options, Tagger

RESOLUTION = 9


def _resolution(options: Options) -> int:
    asked = options.get("resolution", RESOLUTION)
    if not isinstance(asked, int) or not 0 <= asked <= 15:
        raise TransformError("the tagger h3", f"its resolution is {asked!r}", "give an integer from 0 to 15")
    return asked


def _column(options: Options) -> Mapping[str, Kind]:
    return {f"h3_{_resolution(options)}": "string"}


def make(frames: Frames, options: Options) -> Mapping[str, Sequence[object]]:
    resolution = _resolution(options)
    where = zip(frames.positions.latitude.tolist(), frames.positions.longitude.tolist(), strict=True)
    cells = [None if np.isnan(lat) else h3.latlng_to_cell(lat, lon, resolution) for lat, lon in where]
    return {f"h3_{resolution}": cells}


TAGGER = Tagger("h3", 1, _column, make)
