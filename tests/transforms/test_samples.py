"""Frames of all channels, aligned."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transforms.recipe import Output, Rate, Recipe, recipe_id
from transforms.samples import align, sample_ids

frames = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3)), unique=True, max_size=40)


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([t for t, _ in pairs], np.int64), np.array([c for _, c in pairs], np.int64)


@given(frames, st.integers(0, 50))
def test_a_sample_has_each_channel_once_within_the_tolerance(
    pairs: list[tuple[int, int]], tolerance: int
) -> None:
    times, channels = arrays(pairs)
    begin = align(times, channels, tolerance)
    for start in set(begin.tolist()):
        inside = np.flatnonzero(begin == start)
        assert len(set(channels[inside].tolist())) == len(inside)
        assert times[inside].min() == start
        assert times[inside].max() - start <= tolerance


@given(frames, st.integers(0, 50), st.randoms(use_true_random=False))
def test_the_order_in_which_frames_come_does_not_matter(
    pairs: list[tuple[int, int]], tolerance: int, random: object
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one = dict(zip(pairs, align(*arrays(pairs), tolerance).tolist(), strict=True))
    two = dict(zip(shuffled, align(*arrays(shuffled), tolerance).tolist(), strict=True))
    assert one == two


def test_cameras_that_lag_share_samples() -> None:
    times, channels = arrays([(100 * k + lag, lag // 3) for k in range(4) for lag in (0, 3, 6)])
    assert align(times, channels, 50).tolist() == [100 * k for k in range(4) for _ in range(3)]


def test_a_cut_by_rate_makes_a_sample_of_each_tick() -> None:
    ms = 1_000_000
    # 2 Hz: ticks at 500 ms; a frame 240 ms late belongs to its tick, whatever the tolerance
    times, channels = arrays([(1000 * ms, 0), (1240 * ms, 1), (1260 * ms, 2), (1490 * ms, 0)])
    ids = sample_ids("car", "d", times, channels, Recipe(cut=Rate(rate_mhz=2000)))
    assert ids == [f"car/d/{at * ms:019d}" for at in (1000, 1000, 1260, 1260)]


def test_recipes_have_names_of_their_own() -> None:
    recipes = [
        Recipe(),
        Recipe(cut=Rate(rate_mhz=2000)),
        Recipe(cut=Rate(rate_mhz=2001)),
        Recipe(outputs=(Output(name="720p"),)),
        Recipe(outputs=(Output(name="720p", quality=80),)),
    ]
    assert len({recipe_id(recipe) for recipe in recipes}) == len(recipes)
    turned = Recipe(outputs=tuple(reversed(Recipe().outputs)))
    assert recipe_id(turned) == recipe_id(Recipe())
    assert Recipe.model_validate_json(Recipe(cut=Rate(rate_mhz=5)).model_dump_json()).cut == Rate(rate_mhz=5)
