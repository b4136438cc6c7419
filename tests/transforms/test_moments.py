"""Where on its way a drive is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import TransformError
from transforms.moments import moments_by_distance, moments_of, travelled_mm
from transforms.recipe import Distance, Events, Recipe
from transforms.telemetry import Track
from transforms.times import SECOND

NOW = 1_780_300_800 * SECOND
METRES = 111_194.93  # of a degree of latitude on the mean sphere


def track(metres: list[float], speed: list[float] | None = None, hz: int = 1, start: int = 0) -> Track:
    """Fixes northwards, one each 1/hz s."""
    way = np.array(metres, np.float64)
    times = NOW + (start + np.arange(len(way), dtype=np.int64)) * SECOND // hz
    speeds = np.full(len(way), np.nan) if speed is None else np.array(speed, np.float64)
    return Track(times, 48 + way / METRES, np.full(len(way), 11.5), speeds)


def seconds(moments: np.ndarray) -> list[float]:
    return [round(float(at - NOW) / SECOND, 3) for at in moments]


def test_each_five_metres_at_changing_speed() -> None:
    moments = moments_by_distance([track([0, 10, 30, 30, 34, 36])], 5000)
    assert seconds(moments) == [0, 0.5, 1, 1.25, 1.5, 1.75, 2, 4.5]


def test_a_car_that_stands_goes_nowhere() -> None:
    jitter = [0.0, 3, -2, 4, 0, 3]
    assert len(moments_by_distance([track(jitter, [0.1] * 6)], 1000)) == 1
    assert len(moments_by_distance([track(jitter)], 1000)) == 22  # nothing says that it stands


def test_what_is_not_known_is_not_travelled() -> None:
    first, second = track([0, 10]), track([110, 120], start=20)
    times, way = travelled_mm([second, first])
    assert seconds(times) == [0, 1, 20, 21]
    assert np.allclose(way, [0, 10_000, 10_000, 20_000], atol=5)


def test_overlapping_tracks_count_once() -> None:
    times, way = travelled_mm([track([0, 10, 20, 30]), track([0.5, 10.5, 20.5, 30.5, 40.5])])
    assert seconds(times) == [0, 1, 2, 3, 4]
    assert abs(way[-1] - 40_500) < 10


@given(st.lists(st.floats(0, 80), min_size=1, max_size=30), st.integers(100, 100_000))
def test_moments_are_as_far_apart_on_the_way_as_was_asked(steps: list[float], every_mm: int) -> None:
    one = track(np.cumsum([0.0, *steps]).tolist())
    moments = moments_by_distance([one], every_mm)
    times, way = travelled_mm([one])
    assert len(moments) == way[-1] // every_mm + 1
    at = np.interp((moments - NOW).astype(float), (times - NOW).astype(float), way)
    moving = way[-1] > 1  # a way of less than a millimetre has moments where rounding puts them
    assert not moving or np.abs(at - np.arange(len(moments)) * every_mm).max() < 1
    assert (np.diff(moments) >= 0).all()


def test_recipes_without_moments_and_without_positions() -> None:
    assert moments_of(Recipe(), []) is None
    assert moments_of(Recipe(cut=Events(at_ns=(9, 5, 9))), []).tolist() == [5, 9]  # type: ignore[union-attr]
    with pytest.raises(TransformError, match="positions"):
        moments_of(Recipe(cut=Distance(every_mm=1000)), [])
    assert len(moments_of(Recipe(cut=Distance(every_mm=1000)), [track([0, 3.5])])) == 4  # type: ignore[arg-type]
