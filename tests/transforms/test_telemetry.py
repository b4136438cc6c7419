"""Where the vehicle was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import Unreadable
from transforms.telemetry import LONGEST_GAP_NS, Track, positions_at, read_track
from transforms.times import SECOND

NOW = 1_780_300_800 * SECOND


def write(folder: Path, text: str) -> Path:
    path = folder / "GNSS.csv"
    path.write_text(text, encoding="utf-8")
    return path


def at(track: Track, *times: int) -> list[tuple[float, float, float]]:
    found = positions_at([track], np.array(times, np.int64))
    return list(zip(found.latitude.tolist(), found.longitude.tolist(), found.speed_mps.tolist(), strict=True))


def test_positions_lie_on_the_line_between_fixes(tmp_path: Path) -> None:
    head = "timestamp_ns,latitude,longitude,altitude_m,speed_mps"
    rows = [f"{NOW},48.0,11.0,500,10", f"{NOW + SECOND},48.1,11.2,,14"]
    track = read_track(write(tmp_path, "\n".join([head, *rows])))
    assert at(track, NOW, NOW + SECOND // 4, NOW + SECOND) == [
        (48.0, 11.0, 10.0),
        (48.025, 11.05, 11.0),
        (48.1, 11.2, 14.0),
    ]
    assert np.isnan(at(track, NOW - 1, NOW + SECOND + 1)).all()


def test_speed_is_optional_and_rows_without_a_fix_are_left_out(tmp_path: Path) -> None:
    rows = f"timestamp_ns,latitude,longitude\n{NOW},48,11\n{NOW + SECOND},,\n{NOW + 2 * SECOND},50,13\n"
    track = read_track(write(tmp_path, rows))
    ((latitude, longitude, speed),) = at(track, NOW + SECOND)
    assert (latitude, longitude) == (49.0, 12.0)
    assert np.isnan(speed)


def test_nothing_is_invented_over_a_gap() -> None:
    ends = np.array([NOW, NOW + LONGEST_GAP_NS + 1], np.int64)
    track = Track(ends, np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    first, inside, last = at(track, NOW, NOW + SECOND, int(ends[1]))
    assert first[0] == 1.0 and last[0] == 2.0
    assert np.isnan(inside).all()


def test_the_date_line_is_crossed_the_short_way() -> None:
    track = Track(np.array([NOW, NOW + SECOND]), np.zeros(2), np.array([179.9, -179.9]), np.zeros(2))
    assert [round(x[1], 6) for x in at(track, NOW + SECOND // 4, NOW + 3 * SECOND // 4)] == [179.95, -179.95]


def test_of_two_tracks_the_first_that_knows_counts() -> None:
    one = Track(np.array([NOW, NOW + SECOND]), np.full(2, 1.0), np.full(2, 1.0), np.full(2, 1.0))
    two = Track(np.array([NOW, NOW + 2 * SECOND]), np.full(2, 2.0), np.full(2, 2.0), np.full(2, 2.0))
    found = positions_at([one, two], np.array([NOW + 1, NOW + SECOND + 1]))
    assert found.latitude.tolist() == [1.0, 2.0]


@given(
    st.lists(st.integers(0, 20 * SECOND), min_size=1, max_size=30, unique=True),
    st.lists(st.integers(-SECOND, 21 * SECOND), max_size=30),
)
def test_positions_stay_between_their_fixes(fixes: list[int], times: list[int]) -> None:
    fixes.sort()
    values = np.arange(len(fixes), dtype=np.float64)
    track = Track(NOW + np.array(fixes, np.int64), values, values, values)
    for time, (latitude, _, _) in zip(times, at(track, *(NOW + t for t in times)), strict=True):
        before = [k for k, fix in enumerate(fixes) if fix <= time]
        after = [k for k, fix in enumerate(fixes) if fix >= time]
        known = bool(before and after) and fixes[after[0]] - fixes[before[-1]] <= LONGEST_GAP_NS
        assert np.isnan(latitude) != known
        if known:
            assert before[-1] <= latitude <= after[0]


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        ("not a table\nat all\n", "timestamp_ns"),
        ("no line end", "CSV"),
        ("timestamp_ns,latitude\n1,2\n", "longitude"),
        ("timestamp_ns,latitude,longitude\n", "no fix"),
        (f"timestamp_ns,latitude,longitude\n{NOW},north,11\n", "CSV"),
        (f"timestamp_ns,latitude,longitude\n{NOW},91,11\n", "Earth"),
        (f"timestamp_ns,latitude,longitude\n{NOW},nan,11\n", "no fix"),
        (f"timestamp_ns,latitude,longitude\n{NOW},48,11\n{NOW},48,11\n", "rise"),
        ("timestamp_ns,latitude,longitude\n12,48,11\n", "clock"),
        (f"timestamp_ns,latitude,longitude\n{NOW},48,11,7\n", "CSV"),
        ("timestamp_ns,latitude,longitude,latitude\n1,1,1,1\n", "twice"),
    ],
)
def test_bad_tracks_say_why(tmp_path: Path, text: str, evidence: str) -> None:
    with pytest.raises(Unreadable, match=evidence):
        read_track(write(tmp_path, text))
