"""The moments at which a drive is cut by distance or by events: shared by all of its channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from transforms.errors import TransformError
from transforms.recipe import Distance, Events, Recipe
from transforms.telemetry import LONGEST_GAP_NS, Track
from transforms.times import Int64

Float64 = npt.NDArray[np.float64]

EARTH_MM = 6_371_008_800.0  # mean radius, IUGG
# A car that stands: its fixes wander about by metres a minute, which is no way that it went.
STANDING_MPS = 0.3


def _joined(tracks: Sequence[Track]) -> tuple[Int64, Float64, Float64, Float64]:
    """Times, latitudes, longitudes and speeds of all tracks; where two overlap, the one that began first counts."""
    parts: list[tuple[Int64, Float64, Float64, Float64]] = []
    last = -(2**62)
    for track in sorted(tracks, key=lambda track: int(track.times_ns[0])):
        new = track.times_ns > last
        parts.append((track.times_ns[new], track.latitude[new], track.longitude[new], track.speed_mps[new]))
        last = max(last, int(track.times_ns[-1]))
    times, latitudes, longitudes, speeds = (np.concatenate(column) for column in zip(*parts, strict=True))
    return times, latitudes, longitudes, speeds


def travelled_mm(tracks: Sequence[Track]) -> tuple[Int64, Float64]:
    """(time of each fix, millimetres travelled until then along great circles), ascending.

    Nothing is counted while both ends of a step say that the car stands, nor between fixes more than LONGEST_GAP_NS apart.
    """
    times, latitudes, longitudes, speeds = _joined(tracks)
    phi, theta = np.radians(latitudes), np.radians(longitudes)
    half = (
        np.sin(np.diff(phi) / 2) ** 2 + np.cos(phi[:-1]) * np.cos(phi[1:]) * np.sin(np.diff(theta) / 2) ** 2
    )
    steps = 2 * EARTH_MM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
    standing = (speeds[:-1] < STANDING_MPS) & (speeds[1:] < STANDING_MPS)  # no speed (NaN) is no standing
    steps[standing | (np.diff(times) > LONGEST_GAP_NS)] = 0.0
    return times, np.concatenate([[0.0], np.cumsum(steps)])


def moments_by_distance(tracks: Sequence[Track], every_mm: int) -> Int64:
    """Times in ns at which the vehicle had travelled 0, 1, 2 … times every_mm, ascending."""
    times, travelled = travelled_mm(tracks)
    goals = np.arange(int(travelled[-1] // every_mm) + 1) * float(every_mm)
    after = np.searchsorted(travelled, goals, side="left")  # the first fix at which it had
    before = np.maximum(after - 1, 0)
    way = travelled[after] - travelled[before]
    share = np.divide(goals - travelled[before], way, out=np.ones_like(way), where=way > 0)
    return np.asarray(
        times[before] + np.round((times[after] - times[before]) * share).astype(np.int64), np.int64
    )


def moments_of(recipe: Recipe, tracks: Sequence[Track]) -> Int64 | None:
    """Of a cut by distance or events, ascending, each once; None for the others.

    Raises TransformError for a cut by distance where nothing says where the vehicle was.
    """
    if isinstance(recipe.cut, Events):
        return np.unique(np.array(recipe.cut.at_ns, np.int64))
    if not isinstance(recipe.cut, Distance):
        return None
    if not tracks:
        raise TransformError(
            "a cut by distance",
            "the drive has no positions",
            "upload it with GNSS.csv, or cut it by rate",
        )
    return np.unique(moments_by_distance(tracks, recipe.cut.every_mm))
