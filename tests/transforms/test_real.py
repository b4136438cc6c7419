"""Real recordings, kept beside the project (their README says what they are)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from tests.transforms.conftest import Place
from transforms.recipe import Rate, Recipe

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def real(name: str) -> bytes:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"the real recording {path} is not beside the project")
    return path.read_bytes()


def test_motorway_h264(place: Place) -> None:
    place.upload({"CAM_FRONT.mp4": real("solidWhiteRight.mp4")})
    report = place.ingest()
    # 221 frames at 25 Hz with a key frame each 30, in 960x540: no 4k of it
    assert (report.outcome, report.frames, report.frames_4k, report.frames_720p) == ("ingested", 8, 0, 8)
    assert report.seconds_of_video == pytest.approx(8.84)
    rows = place.rows().to_pylist()
    assert [row["frame_index"] for row in rows] == list(range(0, 221, 30))
    assert {(row["width"], row["height"]) for row in rows} == {(960, 540)}
    pictures = [simplejpeg.decode_jpeg(place.jpeg(row)) for row in rows]
    for picture in pictures:
        sky, road = picture[:100].mean(), picture[-100:, 300:600].mean()
        assert sky > road > 20
    assert np.abs(pictures[0].astype(int) - pictures[-1]).mean() > 3


def test_motorway_at_two_hertz(place: Place) -> None:
    place.upload({"CAM_FRONT.mp4": real("solidWhiteRight.mp4")})
    report = place.ingest(recipe=Recipe(cut=Rate(rate_mhz=2000)))
    rows = place.rows().to_pylist()
    assert report.frames == len(rows) == 19
    # the recording begins at a whole second, so ticks are each 500 ms of it: frames 0, 12 (480 ms), 25, …
    numbers = [row["frame_index"] for row in rows]
    assert (numbers[:5], numbers[-1]) == ([0, 12, 25, 37, 50], 220)


def test_4k_portrait_is_turned_upright(place: Place) -> None:
    place.upload({"PHONE.mp4": real("portrait_4k60.mp4")})
    report = place.ingest()
    assert (report.outcome, report.frames_4k, report.frames_720p) == ("ingested", 1, 1)
    sizes = {row["output"]: (row["width"], row["height"]) for row in place.rows().to_pylist()}
    assert sizes == {"4k": (2160, 3840), "720p": (720, 1280)}
    large, small = (
        simplejpeg.decode_jpeg(place.jpeg(row), colorspace="GRAY")[:, :, 0].astype(float)
        for row in place.rows().to_pylist()
    )
    shrunk = large.reshape(1280, 3, 720, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small).mean() < 4
