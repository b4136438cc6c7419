"""Raw pixels of messages come out in their colours, whatever their encoding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg

from tests.transforms import made
from tests.transforms.conftest import Place
from transforms.recipe import Rate, Recipe

COLOURS = {(0, 0): (200, 40, 40), (0, 1): (40, 200, 40), (1, 0): (40, 40, 200), (1, 1): (180, 180, 180)}


def rgb() -> np.ndarray:
    picture = np.empty((made.HEIGHT, made.WIDTH, 3), np.uint8)
    for (row, column), colour in COLOURS.items():
        high, wide = made.HEIGHT // 2, made.WIDTH // 2
        picture[row * high : (row + 1) * high, column * wide : (column + 1) * wide] = colour
    return picture


def alpha(picture: np.ndarray) -> np.ndarray:
    return np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])


def bayer(order: str) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        picture, out = rgb(), np.empty((made.HEIGHT, made.WIDTH), np.uint8)
        for place, letter in enumerate(order):
            row, column = divmod(place, 2)
            out[row::2, column::2] = picture[row::2, column::2, "rgb".index(letter)]
        return out

    return make


def yuv(order: str) -> Callable[[], np.ndarray]:
    """4:2:2, limited range BT.601, as cameras give it."""

    def make() -> np.ndarray:
        r, g, b = (rgb()[:, :, n].astype(float) / 255 for n in range(3))
        luma = 0.299 * r + 0.587 * g + 0.114 * b
        planes = {
            "y": 16 + 219 * luma,
            "u": 128 + 224 * (b - luma) / 1.772,
            "v": 128 + 224 * (r - luma) / 1.402,
        }
        out = np.empty((made.HEIGHT, made.WIDTH * 2), np.uint8)
        seen = 0
        for place, letter in enumerate(order):
            if letter == "y":
                out[:, place::4] = np.round(planes["y"][:, seen::2])
                seen += 1
            else:
                out[:, place::4] = np.round(planes[letter][:, ::2])
        return out

    return make


ENCODINGS: dict[str, tuple[Callable[[], np.ndarray], int]] = {
    "rgb8": (rgb, 3),
    "bgr8": (lambda: rgb()[:, :, ::-1], 3),
    "8UC3": (lambda: rgb()[:, :, ::-1], 3),
    "rgba8": (lambda: alpha(rgb()), 4),
    "bgra8": (lambda: alpha(rgb()[:, :, ::-1]), 4),
    "bayer_rggb8": (bayer("rggb"), 1),
    "bayer_bggr8": (bayer("bggr"), 1),
    "bayer_gbrg8": (bayer("gbrg"), 1),
    "bayer_grbg8": (bayer("grbg"), 1),
    "yuv422": (yuv("uyvy"), 2),
    "yuv422_yuy2": (yuv("yuyv"), 2),
    "mono8": (lambda: rgb()[:, :, 1], 1),
    "mono16": (lambda: rgb()[:, :, 1].astype("<u2") * 257, 2),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_colours_of_raw_pixels(place: Place, encoding: str) -> None:
    pixels, width = ENCODINGS[encoding]
    data = made.cdr_image(
        made.times(1)[0], np.ascontiguousarray(pixels()).tobytes(), encoding, made.WIDTH * width
    )
    place.upload({"x.mcap": made.mcap([("/cam", "sensor_msgs/msg/Image", "cdr", [data])])})
    report = place.ingest(recipe=Recipe(cut=Rate(rate_mhz=10_000)))
    assert (report.outcome, report.frames) == ("ingested", 1), report.findings
    shown = simplejpeg.decode_jpeg(place.jpeg(place.rows().to_pylist()[0]))
    for (row, column), colour in COLOURS.items():
        found = shown[made.HEIGHT * (1 + 2 * row) // 4, made.WIDTH * (1 + 2 * column) // 4].astype(int)
        wanted = (colour[1],) * 3 if encoding.startswith("mono") else colour
        assert np.abs(found - wanted).max() <= 6, (encoding, found, wanted)
