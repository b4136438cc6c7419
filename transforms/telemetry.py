"""GNSS tracks: GNSS.csv to a position at each frame.

The file is CSV with a header; columns `timestamp_ns` (ns since the Unix epoch), `latitude`, `longitude` (degrees, WGS 84)
and optionally `speed_mps` (metres a second). Other columns are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from transforms.errors import Unreadable
from transforms.times import EARLIEST_NS, LATEST_NS, SECOND, Int64

Float64 = npt.NDArray[np.float64]

LARGEST_BYTES = 1 << 30
# Between two fixes that are further apart nothing is known.
LONGEST_GAP_NS = 3 * SECOND


@dataclass(frozen=True)
class Track:
    """Fixes, ascending in time; latitude and longitude in degrees, speed in m/s or NaN. All of one length, above zero."""

    times_ns: Int64
    latitude: Float64
    longitude: Float64
    speed_mps: Float64


@dataclass(frozen=True)
class Positions:
    """One of each per frame; NaN where the track knows nothing."""

    latitude: Float64
    longitude: Float64
    speed_mps: Float64


def read_track(path: Path) -> Track:
    """Read and check a track. Raises Unreadable."""
    if path.stat().st_size > LARGEST_BYTES:
        raise Unreadable(path.name, f"it has {path.stat().st_size} bytes, more than a track can have")
    types = {
        "timestamp_ns": pa.int64(),
        "latitude": pa.float64(),
        "longitude": pa.float64(),
        "speed_mps": pa.float64(),
    }
    try:
        table = pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(column_types=types))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise Unreadable(path.name, f"it is no CSV of fixes: {' '.join(str(error).split())[:300]}") from error
    missing = [name for name in ("timestamp_ns", "latitude", "longitude") if name not in table.column_names]
    if missing:
        raise Unreadable(path.name, f"the column {missing[0]} is missing")
    if len(set(table.column_names)) != len(table.column_names):
        raise Unreadable(path.name, "a column stands twice")
    # a row without a fix (no satellites) has empty fields: it is left out
    known = pc.and_(pc.is_valid(table["latitude"]), pc.is_valid(table["longitude"]))
    table = table.filter(pc.and_(known, pc.is_valid(table["timestamp_ns"])))
    if not len(table):
        raise Unreadable(path.name, "it has no fix")
    times = table["timestamp_ns"].to_numpy().astype(np.int64)
    latitude = table["latitude"].to_numpy().astype(np.float64)
    longitude = table["longitude"].to_numpy().astype(np.float64)
    if "speed_mps" in table.column_names:
        speed = table["speed_mps"].to_numpy().astype(np.float64)
        speed = np.where(np.isfinite(speed), speed, np.nan)
    else:
        speed = np.full(len(table), np.nan)
    _check(path.name, times, latitude, longitude)
    return Track(times, latitude, longitude, speed)


def _check(name: str, times: Int64, latitude: Float64, longitude: Float64) -> None:
    backwards = np.flatnonzero(np.diff(times) <= 0)
    if len(backwards):
        row = int(backwards[0]) + 1
        raise Unreadable(name, f"its times do not rise: {int(times[row - 1])} ns, then {int(times[row])} ns")
    if times[0] < EARLIEST_NS or times[-1] >= LATEST_NS:
        raise Unreadable(name, f"its clock was not set: it runs from {int(times[0])} to {int(times[-1])} ns")
    # written so that NaN is outside too
    outside = np.flatnonzero(~((np.abs(latitude) <= 90) & (np.abs(longitude) <= 180)))
    if len(outside):
        row = int(outside[0])
        raise Unreadable(name, f"{latitude[row]}, {longitude[row]} is no place on Earth")


def _positions(track: Track, times_ns: Int64) -> Positions:
    fixes = track.times_ns
    after = np.clip(np.searchsorted(fixes, times_ns, side="left"), 0, len(fixes) - 1)
    before = np.maximum(np.where(fixes[after] == times_ns, after, after - 1), 0)
    gap = fixes[after] - fixes[before]
    inside = (times_ns >= fixes[0]) & (times_ns <= fixes[-1]) & (gap <= LONGEST_GAP_NS)
    share = (times_ns - fixes[before]) / np.maximum(gap, 1)

    def between(values: Float64, digits: int) -> Float64:
        at = values[before] + (values[after] - values[before]) * share
        return np.where(inside, np.round(at, digits), np.nan)

    # over the date line the short way, then back into [-180, 180)
    turned = np.unwrap(track.longitude, period=360.0)
    longitude = (between(turned, 7) + 180.0) % 360.0 - 180.0
    return Positions(between(track.latitude, 7), np.round(longitude, 7), between(track.speed_mps, 3))


def positions_at(tracks: Sequence[Track], times_ns: Int64) -> Positions:
    """Where the vehicle was at each time: straight lines between fixes, to 1e-7 degrees and mm/s.

    NaN before the first and after the last fix, and between fixes more than LONGEST_GAP_NS apart. Of several tracks the
    first that knows a time counts.
    """
    nothing = np.full(len(times_ns), np.nan)
    found = Positions(nothing, nothing, nothing)
    for track in tracks:
        more = _positions(track, times_ns)
        known = ~np.isnan(found.latitude)
        found = Positions(
            np.where(known, found.latitude, more.latitude),
            np.where(known, found.longitude, more.longitude),
            np.where(known, found.speed_mps, more.speed_mps),
        )
    return found
