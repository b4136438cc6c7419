"""GPMF: the positions and motion that action cameras put into a data track of their MP4s (github.com/gopro/gpmf-parser).

Key, type, size of an item, number of items, then the items, padded to four bytes; big-endian. DEVC holds STRM, and a STRM of
positions holds SCAL (divisors), GPSF (0: no fix) and GPS5 (latitude, longitude, altitude, speed over ground, speed in space), or
GPS9 (the same, then days since 2000, seconds of the day, DOP, fix). One of motion holds ACCL (m/s²) or GYRO (rad/s) of three axes,
in the order of ORIN: `ZXY`, small letters for the opposite direction.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from transforms.signals import IMU, Samples
from transforms.telemetry import Float64, Track
from transforms.times import LATEST_NS, Int64

HEAD = struct.Struct(">4scBH")
NESTED = b"\0"
DEEPEST = 8
# degrees times 1e7, m/s times 1000, where a stream does not say its divisors
SCALES = (10_000_000, 10_000_000, 1000, 1000, 100)
NINE = struct.Struct(">7i2H")
MOTION = {b"ACCL": IMU[:3], b"GYRO": IMU[3:]}
# HERO5, which says no ORIN (gpmf-parser, README)
AXES = b"ZXY"


def items(data: bytes, depth: int = 0) -> Iterator[tuple[int, bytes, int, bytes]]:
    """(depth, key, size of an item, items) of everything in a payload, as far as it is whole."""
    at = 0
    while at + HEAD.size <= len(data) and depth < DEEPEST:
        key, kind, size, count = HEAD.unpack_from(data, at)
        at += HEAD.size
        body = data[at : at + size * count]
        if len(body) < size * count:
            return
        yield depth, key, size, body
        if kind == NESTED:
            yield from items(body, depth + 1)
        at += size * count + -(size * count) % 4


def fixes(data: bytes) -> list[tuple[float, float, float]]:
    """(latitude, longitude, m/s) of a payload, in order; none where it says that there was no fix."""
    found: list[tuple[float, float, float]] = []
    scales, locked = SCALES, True
    for _, key, size, body in items(data):
        if key == b"STRM":
            scales, locked = SCALES, True
        elif key == b"SCAL" and size == 4 and len(body) == 20:
            told = struct.unpack(">5i", body)
            scales = told if all(told) else SCALES
        elif key == b"SCAL" and size == 4 and len(body) == 36:
            nine = struct.unpack(">9i", body)
            scales = nine[:5] if all(nine[:5]) else SCALES
        elif key == b"GPS9" and size == NINE.size:
            for values in NINE.iter_unpack(body):
                if values[8] >= 2:
                    found.append((values[0] / scales[0], values[1] / scales[1], values[3] / scales[3]))
        elif key == b"GPSF" and len(body) == 4:
            locked = struct.unpack(">I", body)[0] >= 2
        elif key == b"GPS5" and size == 20 and locked:
            for values in struct.iter_unpack(">5i", body):
                found.append((values[0] / scales[0], values[1] / scales[1], values[3] / scales[3]))
    return found


def track_of(payloads: Sequence[tuple[int, int, bytes]]) -> Track | None:
    """payloads: (begin, length, data), ns from the recording's zero; its fixes are spread evenly over that. None without any.

    The track's times are relative to that zero. What is no place on Earth, or not after the fix before, is left out.
    """
    times: list[int] = []
    rows: list[tuple[float, float, float]] = []
    for begin, length, data in payloads:
        found = fixes(data)
        for number, (latitude, longitude, speed) in enumerate(found):
            at = begin + length * number // len(found)
            later = not times or at > times[-1]
            if later and abs(at) < LATEST_NS and abs(latitude) <= 90 and abs(longitude) <= 180:
                times.append(at)
                rows.append((latitude, longitude, speed))
    if not rows:
        return None
    columns = np.array(rows, np.float64)
    moments: Int64 = np.array(times, np.int64)
    return Track(moments, columns[:, 0], columns[:, 1], columns[:, 2])


def motion(data: bytes) -> dict[bytes, Float64]:
    """ACCL and GYRO of a payload: rows of x, y and z in SI units."""
    found: dict[bytes, list[Float64]] = {}
    scale, axes = 1.0, AXES
    for _, key, size, body in items(data):
        if key == b"STRM":
            scale, axes = 1.0, AXES
        elif key == b"SCAL" and size in (2, 4) and len(body) == size:
            scale = float(int.from_bytes(body, "big", signed=True)) or 1.0
        elif key == b"ORIN" and sorted(body.upper()) == sorted(AXES):
            axes = body
        elif key in MOTION and size == 6 and len(body):
            rows = np.frombuffer(body, ">i2").reshape(-1, 3).astype(np.float64) / scale
            turned = np.empty_like(rows)
            for place, axis in enumerate(axes.decode()):
                turned[:, "XYZ".index(axis.upper())] = rows[:, place] * (1 if axis.isupper() else -1)
            found.setdefault(key, []).append(turned)
    return {key: np.concatenate(parts) for key, parts in found.items()}


def signals_of(payloads: Sequence[tuple[int, int, bytes]]) -> dict[str, Samples]:
    """payloads as for track_of; IMU by name, spread evenly over each payload, at times from the recording's zero."""
    made: dict[str, Samples] = {}
    for begin, length, data in payloads:
        for key, rows in motion(data).items():
            for number, row in enumerate(rows.tolist()):
                for name, value in zip(MOTION[key], row, strict=True):
                    made.setdefault(name, Samples()).add(begin + length * number // len(rows), value)
    return made
