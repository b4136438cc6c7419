"""Frames of all channels, aligned."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transforms.recipe import Distance, Events, Output, Rate, Recipe, recipe_id
from transforms.samples import align, missing_partners, sample_ids

frames = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3)), unique=True, max_size=40)


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([t for t, _ in pairs], np.int64), np.array([c for _, c in pairs], np.int64)


@given(frames, st.integers(0, 50))
def test_a_sample_has_each_channel_once_within_the_tolerance_of_one_of_its_frames(
    pairs: list[tuple[int, int]], tolerance: int
) -> None:
    times, channels = arrays(pairs)
    samples = align(times, channels, tolerance)
    for at in set(samples.tolist()):
        inside = np.flatnonzero(samples == at)
        assert len(set(channels[inside].tolist())) == len(inside)
        assert at in times[inside]
        assert np.abs(times[inside] - at).max() <= tolerance


@given(frames, st.integers(0, 50))
def test_nobody_is_left_alone_who_could_have_had_the_leader(
    pairs: list[tuple[int, int]], tolerance: int
) -> None:
    """A frame that is apart from the leading channel has no frame of it that is near and free."""
    times, channels = arrays(pairs)
    samples = align(times, channels, tolerance)
    if not len(times):
        return
    numbers, counts = np.unique(channels, return_counts=True)
    leader = int(numbers[np.argmax(counts)])
    leading = times[channels == leader]
    taken = {(int(at), int(c)) for at, c in zip(samples, channels, strict=True)}
    for time, channel, at in zip(times.tolist(), channels.tolist(), samples.tolist(), strict=True):
        if channel != leader and at not in leading:
            nearest = min(leading.tolist(), key=lambda t: (abs(t - time), t))
            assert abs(nearest - time) > tolerance or (nearest, channel) in taken


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


def test_a_frame_goes_to_the_nearest_sample_and_not_to_the_first_that_would_do() -> None:
    # channel 1 began 40 late: its first frame is nearest to the leader's second, not to its first
    times, channels = arrays([(0, 0), (50, 0), (100, 0), (40, 1), (90, 1)])
    assert align(times, channels, 50).tolist() == [0, 50, 100, 50, 100]


def test_a_missing_partner_is_named() -> None:
    times, channels = arrays([(0, 0), (3, 1), (6, 2), (100, 0), (106, 2), (200, 0), (260, 1)])
    samples = align(times, channels, 50)
    assert samples.tolist() == [0, 0, 0, 100, 100, 200, 260]
    assert missing_partners(samples, channels, ["A", "B", "C"]) == [
        "", "", "", "B", "B", "B,C", "A,C",
    ]  # fmt: skip
    assert missing_partners(samples[:0], channels[:0], ["A"]) == []


def test_ids_of_samples_name_the_drive_and_the_time() -> None:
    times, channels = arrays([(1_000_000_000, 0), (1_020_000_000, 1), (1_200_000_000, 0)])
    ids = sample_ids("car", "d", align(times, channels, 50_000_000))
    assert ids == [f"car/d/{at:019d}" for at in (1_000_000_000, 1_000_000_000, 1_200_000_000)]


def test_recipes_have_names_of_their_own() -> None:
    recipes = [
        Recipe(),
        Recipe(cut=Rate(rate_mhz=2000)),
        Recipe(cut=Rate(rate_mhz=2001)),
        Recipe(outputs=(Output(name="720p"),)),
        Recipe(outputs=(Output(name="720p", quality=80),)),
        Recipe(outputs=(Output(name="720p", chroma="444"),)),
        Recipe(outputs=(Output(name="720p", lines=700),)),
        Recipe(outputs=(Output(name="720p", width=1280, height=720),)),
        Recipe(outputs=(Output(name="720p", width=1280, height=720, aspect="fill"),)),
        Recipe(cut="all"),
        Recipe(cut=Distance(every_mm=5000)),
        Recipe(cut=Events(at_ns=(5, 9))),
        Recipe(cut=Events(at_ns=(5, 9), after_ns=1)),
    ]
    assert len({recipe_id(recipe) for recipe in recipes}) == len(recipes)
    turned = Recipe(outputs=tuple(reversed(Recipe().outputs)))
    assert recipe_id(turned) == recipe_id(Recipe())
    assert Recipe.model_validate_json(Recipe(cut=Rate(rate_mhz=5)).model_dump_json()).cut == Rate(rate_mhz=5)
    assert recipe_id(Recipe(cut=Events(at_ns=(9, 5, 9)))) == recipe_id(Recipe(cut=Events(at_ns=(5, 9))))
    assert recipe_id(Recipe(outputs=(Output(name="720p", lines=720),))) == recipe_id(
        Recipe(outputs=(Output(name="720p"),))
    )
