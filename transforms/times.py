"""Exact times: stream ticks to nanoseconds since the Unix epoch, without floats."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

SECOND = 1_000_000_000
# What a car's clock can say: outside, it is not set, or seconds were taken for nanoseconds.
EARLIEST_NS = 946_684_800 * SECOND  # 2000-01-01
LATEST_NS = 4_102_444_800 * SECOND  # 2100-01-01


def ticks_to_ns(ticks: Int64, time_base: Fraction) -> Int64:
    """Ticks of `time_base` seconds in ns, rounded to the nearest (halves up). Exact over all that int64 ns can hold."""
    numerator, denominator = time_base.numerator, time_base.denominator
    scaled = ticks.astype(np.int64) * numerator
    seconds, rest = np.divmod(scaled, denominator)
    # rest < denominator <= 2**31, so rest * 1e9 fits
    return np.asarray(
        seconds * SECOND + (2 * rest * SECOND + denominator) // (2 * denominator), dtype=np.int64
    )


def parse_moment(text: str) -> int | None:
    """ns of an ISO 8601 moment as MP4's creation_time has it; None when it is none, or no set clock wrote it."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    at_ns = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    return at_ns if EARLIEST_NS <= at_ns < LATEST_NS else None


def date_of(at_ns: int) -> str:
    """UTC date "YYYY-MM-DD" of a time in ns."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at_ns // SECOND)).strftime("%Y-%m-%d")
