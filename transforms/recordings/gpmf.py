"""GPMF: the positions that action cameras put into a data track of their MP4s (github.com/gopro/gpmf-parser).

Key, type, size of an item, number of items, then the items, padded to four bytes; big-endian. DEVC holds STRM, and a STRM of
positions holds SCAL (divisors), GPSF (0: no fix) and GPS5 (latitude, longitude, altitude, speed over ground, speed in space).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from transforms.telemetry import Track
from transforms.times import LATEST_NS, Int64

HEAD = struct.Struct(">4scBH")
NESTED = b"\0"
DEEPEST = 8
# degrees times 1e7, m/s times 1000, where a stream does not say its divisors
SCALES = (10_000_000, 10_000_000, 1000, 1000, 100)


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
