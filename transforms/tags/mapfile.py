"""map: metres to the nearest junction, school, crossing or whatever a map file has points of.

map: a GeoJSON file (RFC 7946), a FeatureCollection; features of type Point count, by their property `kind` (else `highway`, as
OpenStreetMap's exports have it). Each kind gives a column `<kind>_m`. The recipe holds the file's BLAKE3, not its path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from lake.canonical import blake3_hex
from transforms.errors import TransformError
from transforms.tags.tagger import Float64, Frames, Kind, Options, Tagger
from transforms.telemetry import EARTH_M

LARGEST = 256 << 20
MOST_KINDS = 50
BATCH = 4096


def _path(options: Options) -> Path:
    path = Path(str(options.get("map", "")))
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise TransformError(
            "the tagger map",
            f"{str(path)!r} is no file of at most {LARGEST} bytes",
            "give `map`, a GeoJSON file",
        )
    return path


@lru_cache(maxsize=4)
def _points(path: Path, changed_ns: int) -> Mapping[str, Float64]:
    """Kind → (n, 2) degrees, latitude and longitude. Raises TransformError. changed_ns: so that a new file is read."""
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        value = json.loads(path.read_bytes())
        for feature in value["features"]:
            shape, named = feature.get("geometry") or {}, feature.get("properties") or {}
            if shape.get("type") != "Point":
                continue
            longitude, latitude = (float(part) for part in shape["coordinates"][:2])
            told = str(named.get("kind") or named.get("highway") or "point").lower()
            kind = re.sub(r"[^a-z0-9]+", "_", told).strip("_")[:40]
            if kind and kind[0].isalpha() and abs(latitude) <= 90 and abs(longitude) <= 180:
                found.setdefault(kind, []).append((latitude, longitude))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TransformError(
            f"the map {path.name}", f"it is no GeoJSON of points: {str(error)[:100]}", "correct it"
        ) from error
    if not 0 < len(found) <= MOST_KINDS:
        raise TransformError(f"the map {path.name}", f"it has {len(found)} kinds of points", "give 1 to 50")
    return {kind: np.array(places) for kind, places in sorted(found.items())}


def _read(options: Options) -> Mapping[str, Float64]:
    path = _path(options)
    return _points(path, path.stat().st_mtime_ns)


def _vectors(latitude: Float64, longitude: Float64) -> Float64:
    """(n, 3) unit vectors."""
    high, wide = np.radians(latitude), np.radians(longitude)
    return np.stack([np.cos(high) * np.cos(wide), np.cos(high) * np.sin(wide), np.sin(high)], axis=1)


def nearest_m(latitude: Float64, longitude: Float64, points: Float64) -> Float64:
    """Metres from each place to the nearest of points (n, 2), to decimetres; NaN for NaN."""
    places, marks = _vectors(latitude, longitude), _vectors(points[:, 0], points[:, 1])
    best = np.full(len(places), np.nan)
    for begin in range(0, len(places), BATCH):
        some = places[begin : begin + BATCH]
        place = np.argmax(np.nan_to_num(some @ marks.T, nan=-2.0), axis=1)
        # the chord is exact where the angle is small, unlike the cosine
        chord = np.linalg.norm(some - marks[place], axis=1)
        best[begin : begin + BATCH] = 2 * EARTH_M * np.arcsin(np.clip(chord / 2, 0.0, 1.0))
    return np.round(best, 1)


def _columns(options: Options) -> Mapping[str, Kind]:
    return {f"{kind}_m": "double" for kind in _read(options)}


def make(frames: Frames, options: Options) -> Mapping[str, Float64]:
    where = frames.positions
    return {
        f"{kind}_m": nearest_m(where.latitude, where.longitude, points)
        for kind, points in _read(options).items()
    }


def _identity(options: Options) -> Mapping[str, int | str]:
    others = {name: value for name, value in options.items() if name != "map"}
    return {**others, "map_blake3": blake3_hex(_path(options).read_bytes())}


TAGGER = Tagger("map", 1, _columns, make, _identity)
