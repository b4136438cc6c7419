"""Which frames are chosen, and what is decoded for them."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import TransformError
from transforms.plan import (
    choose_all,
    choose_keyframes,
    choose_nearest,
    choose_rate,
    choose_windows,
    decodable,
    nearest_ticks,
    plan_runs,
)
from transforms.recordings import FrameIndex
from transforms.times import SECOND, ticks_to_ns

NOW = 1_780_300_800 * SECOND


def index_of(pts: list[int], key: list[bool], shown: list[bool] | None = None) -> FrameIndex:
    count = len(pts)
    return FrameIndex(
        Fraction(1, 1000),
        np.array(pts, np.int64),
        np.array(key, np.bool_),
        np.array(shown or [True] * count, np.bool_),
        np.zeros(count, np.int64),
        np.ones(count, np.int64),
    )


@st.composite
def videos(draw: st.DrawFn) -> FrameIndex:
    """Groups of frames as encoders make them: shuffled inside a group, leading pictures shown before their key frame."""
    pts: list[int] = []
    key: list[bool] = []
    clock = 0
    for _ in range(draw(st.integers(1, 5))):
        leading = draw(st.integers(0, 2)) if pts else 0
        trailing = draw(st.integers(0, 5))
        times = np.cumsum(
            draw(
                st.lists(st.integers(1, 90), min_size=leading + 1 + trailing, max_size=leading + 1 + trailing)
            )
        )
        shown = [clock + int(t) for t in times]
        clock = shown[-1]
        pts += [
            shown[leading],
            *draw(st.permutations(shown[:leading])),
            *draw(st.permutations(shown[leading + 1 :])),
        ]
        key += [True] + [False] * (leading + trailing)
    hidden = draw(st.lists(st.booleans(), min_size=len(pts), max_size=len(pts)))
    return index_of(pts, key, [not h for h in hidden])


def needed_from(index: FrameIndex, place: int) -> int:
    """The key frame at which a decoder must begin for this frame, said slowly."""
    keys = [k for k in range(place + 1) if index.key[k]]
    if index.pts[place] < index.pts[keys[-1]] and len(keys) > 1:
        return keys[-2]
    return keys[-1]


@given(videos(), st.data())
def test_runs_deliver_each_wanted_frame_once_from_where_it_can_be_decoded(
    index: FrameIndex, data: st.DataObject
) -> None:
    possible = np.flatnonzero(decodable(index)).tolist()
    wanted = data.draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    wanted.sort(key=lambda place: int(index.pts[place]))
    runs = plan_runs(index, np.array(wanted, np.int64))
    assert sorted(place for run in runs for place in run.wanted) == sorted(wanted)
    for run in runs:
        assert index.key[run.start]
        assert max(run.wanted) == run.stop - 1
        assert list(run.wanted) == sorted(run.wanted, key=lambda place: int(index.pts[place]))
        for place in run.wanted:
            assert run.start <= needed_from(index, place) <= place
    # nothing is decoded twice, but a group that leading pictures of the next need; nothing is decoded for nothing
    for before, after in pairwise(runs):
        assert before.stop <= after.start
    for run in runs:
        assert run.start == min(needed_from(index, place) for place in run.wanted)


def test_a_leading_picture_is_decoded_from_the_group_before_even_when_its_key_frame_is_wanted_too() -> None:
    #        key  p  key(40) leading(30)  p
    index = index_of([10, 20, 40, 30, 50], [True, False, True, False, False])
    (run,) = plan_runs(index, np.array([3, 2], np.int64))
    assert (run.start, run.stop, run.wanted) == (0, 4, (3, 2))


def test_key_frames_alone_are_runs_of_one_frame() -> None:
    index = index_of([0, 10, 20, 30], [True, False, True, False])
    runs = plan_runs(index, choose_keyframes(index))
    assert [(run.start, run.stop) for run in runs] == [(0, 1), (2, 3)]


def test_nothing_before_the_first_key_frame_can_be_planned() -> None:
    index = index_of([0, 10, 20], [False, True, False])
    assert decodable(index).tolist() == [False, True, True]
    with pytest.raises(TransformError):
        plan_runs(index, np.array([0], np.int64))


@given(videos(), st.integers(1, 1_000_000), st.integers(-SECOND, SECOND))
def test_a_cut_by_rate_takes_the_nearest_frame_of_each_tick(
    index: FrameIndex, rate_mhz: int, shift: int
) -> None:
    times = NOW + shift + index.pts * 7_000_001
    period = Fraction(1000 * SECOND, rate_mhz)
    best: dict[int, tuple[Fraction, int, int]] = {}
    for place in np.flatnonzero(index.shown & decodable(index)).tolist():
        at = int(times[place])
        tick = (Fraction(at) / period + Fraction(1, 2)).__floor__()
        offer = (abs(at - tick * period), at, place)
        best[tick] = min(best.get(tick, offer), offer)
    expected = [place for _, (_, _, place) in sorted(best.items())]
    assert choose_rate(index, times, rate_mhz).tolist() == expected


@given(
    st.lists(st.integers(0, 2**61), min_size=1, max_size=20),
    st.integers(1, 1_000_000),
)
def test_ticks_are_exact_over_any_span(times: list[int], rate_mhz: int) -> None:
    ticks, distances = nearest_ticks(np.array(times, np.int64), rate_mhz)
    for at, tick, distance in zip(times, ticks.tolist(), distances.tolist(), strict=True):
        assert abs(at * rate_mhz - tick * 1000 * SECOND) == distance
        assert 2 * distance <= 1000 * SECOND


@given(st.integers(-(2**40), 2**40), st.integers(1, 2**31 - 1))
def test_ticks_become_nanoseconds_without_floats(ticks: int, denominator: int) -> None:
    ticks = max(-denominator * 10**9, min(ticks, denominator * 10**9))
    (found,) = ticks_to_ns(np.array([ticks], np.int64), Fraction(1, denominator)).tolist()
    assert found == (Fraction(ticks * SECOND, denominator) + Fraction(1, 2)).__floor__()


@given(videos(), st.lists(st.integers(-50, 600), max_size=12), st.integers(0, 60), st.integers(0, 60))
def test_moments_take_the_nearest_frame_or_all_of_their_window(
    index: FrameIndex, offsets: list[int], before: int, after: int
) -> None:
    moments = np.unique(np.array(offsets, np.int64) + NOW)
    times = NOW + index.pts
    possible = choose_all(index).tolist()
    assert possible == sorted(
        np.flatnonzero(decodable(index) & index.shown).tolist(), key=lambda place: int(index.pts[place])
    )
    nearest, inside = set(), set()
    for moment in moments.tolist():
        for place in possible:
            if moment - before <= times[place] <= moment + after:
                inside.add(place)
        offers = [(abs(int(times[place]) - moment), int(times[place]), place) for place in possible]
        if offers and min(offers)[0] <= before:
            nearest.add(min(offers)[2])
    by_time = [place for place in possible if place in nearest]
    assert choose_nearest(index, times, moments, before).tolist() == by_time
    assert choose_windows(index, times, moments, before, after).tolist() == [
        place for place in possible if place in inside
    ]
