"""Telemetry: tracks of positions beside a recording (CSV, GPX, JSON), and a position at each frame.

CSV has a header; columns `timestamp_ns` (ns since the Unix epoch), `latitude`, `longitude` (degrees, WGS 84) and optionally
`speed_mps` (metres a second); other columns are left alone. GPX is 1.0 or 1.1 (topografix.com/gpx.asp): track points with a
time. JSON is a list of objects with the CSV's columns, or an object that has one as `fixes`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from transforms.errors import Unreadable
from transforms.times import EARLIEST_NS, LATEST_NS, SECOND, Int64, parse_moment

Float64 = npt.NDArray[np.float64]

LARGEST_BYTES = 1 << 30
LARGEST_TEXT = 64 << 20  # of JSON and GPX, which are read at once
# Between two fixes that are further apart nothing is known.
LONGEST_GAP_NS = 3 * SECOND
EARTH_M = 6_371_008.8


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


def read_track(path: Path, kind: str = ".csv", name: str | None = None) -> Track:
    """Read and check a track. kind: .csv, .gpx or .json; name: for evidence. Raises Unreadable."""
    name = name or path.name
    size = path.stat().st_size
    if size > (LARGEST_BYTES if kind == ".csv" else LARGEST_TEXT):
        raise Unreadable(name, f"it has {size} bytes, more than a track can have")
    if kind == ".gpx":
        return _of_rows(name, _gpx_rows(path, name))
    if kind == ".json":
        return _of_rows(name, _json_rows(read_json_file(path, name), name))
    return _read_csv(path, name)


def read_json_file(path: Path, name: str) -> object:
    """A JSON value. Raises Unreadable."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Unreadable(name, f"it is no JSON: {str(error)[:200]}") from error


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


def _json_rows(value: object, name: str) -> Iterable[tuple[int, float, float, float]]:
    rows = value.get("fixes") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise Unreadable(name, "it is no list of fixes, and has none as `fixes`")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("timestamp_ns"), int):
            raise Unreadable(name, f"fix {number} has no timestamp_ns, as an integer")
        if row.get("latitude") is not None and row.get("longitude") is not None:
            columns = (_number(row.get(column)) for column in ("latitude", "longitude", "speed_mps"))
            latitude, longitude, speed = columns
            yield row["timestamp_ns"], latitude, longitude, speed


def track_of_json(value: object, name: str) -> Track:
    """The fixes of a JSON value. Raises Unreadable."""
    return _of_rows(name, _json_rows(value, name))


def _gpx_rows(path: Path, name: str) -> list[tuple[int, float, float, float]]:
    rows: list[tuple[int, float, float, float]] = []
    point: dict[str, str] = {}
    text: list[str] = []
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True

    def no_doctype(*_: object) -> None:
        raise Unreadable(name, "it has a DTD, as no GPX has")

    def begin(tag: str, attributes: dict[str, str]) -> None:
        text.clear()
        if tag.rpartition(" ")[2] == "trkpt":
            point.clear()
            point.update({key: attributes.get(key, "") for key in ("lat", "lon")})

    def end(tag: str) -> None:
        plain = tag.rpartition(" ")[2]
        if plain in ("time", "speed") and point:
            point[plain] = "".join(text).strip()
        elif plain == "trkpt":
            at_ns = _moment_ns(point.get("time", ""))
            if at_ns is not None:
                rows.append((at_ns, *(_parsed(point.get(key, "")) for key in ("lat", "lon", "speed"))))  # type: ignore[arg-type]
            point.clear()

    parser.StartDoctypeDeclHandler = no_doctype
    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise Unreadable(name, f"it is no XML: {error}") from error
    return rows


def _parsed(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _moment_ns(text: str) -> int | None:
    """An ISO 8601 moment with any number of digits of a second, which Python's parser would cut at six."""
    match = re.fullmatch(r"(.{19})(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?", text)
    whole = parse_moment(match[1] + (match[3] or "Z")) if match else None
    return None if whole is None or match is None else whole + int((match[2] or "0").ljust(9, "0"))


def _of_rows(name: str, rows: Iterable[tuple[int, float, float, float]]) -> Track:
    found = list(rows)
    if not found:
        raise Unreadable(name, "it has no fix")
    try:
        times = np.array([row[0] for row in found], np.int64)
    except OverflowError as error:
        raise Unreadable(name, "one of its times is no time in ns") from error
    latitude, longitude, speed = np.array([row[1:] for row in found], np.float64).T
    _check(name, times, latitude, longitude)
    return Track(times, latitude, longitude, np.where(np.isfinite(speed), speed, np.nan))


def _read_csv(path: Path, name: str) -> Track:
    types = {
        "timestamp_ns": pa.int64(),
        "latitude": pa.float64(),
        "longitude": pa.float64(),
        "speed_mps": pa.float64(),
    }
    try:
        table = pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(column_types=types))
        names = table.column_names  # decoded only now
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise Unreadable(name, f"it is no CSV of fixes: {' '.join(str(error).split())[:300]}") from error
    missing = [name for name in ("timestamp_ns", "latitude", "longitude") if name not in names]
    if missing:
        raise Unreadable(name, f"the column {missing[0]} is missing")
    if len(set(table.column_names)) != len(table.column_names):
        raise Unreadable(name, "a column stands twice")
    # a row without a fix (no satellites) has empty fields: it is left out
    known = pc.and_(pc.is_valid(table["latitude"]), pc.is_valid(table["longitude"]))
    table = table.filter(pc.and_(known, pc.is_valid(table["timestamp_ns"])))
    if not len(table):
        raise Unreadable(name, "it has no fix")
    times = table["timestamp_ns"].to_numpy().astype(np.int64)
    latitude = table["latitude"].to_numpy().astype(np.float64)
    longitude = table["longitude"].to_numpy().astype(np.float64)
    if "speed_mps" in table.column_names:
        speed = table["speed_mps"].to_numpy().astype(np.float64)
        speed = np.where(np.isfinite(speed), speed, np.nan)
    else:
        speed = np.full(len(table), np.nan)
    _check(name, times, latitude, longitude)
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


def distances_m(latitude: Float64, longitude: Float64) -> Float64:
    """Metres between each place and the one after it, on a sphere of the Earth's mean radius (haversine)."""
    high, wide = np.radians(latitude), np.radians(longitude)
    half = np.sin(np.diff(high) / 2) ** 2
    half = half + np.cos(high[:-1]) * np.cos(high[1:]) * np.sin(np.diff(wide) / 2) ** 2
    return np.asarray(2 * EARTH_M * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0))), np.float64)
