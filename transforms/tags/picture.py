"""picture: brightness and sharpness of each frame, whether it is black, and whether the camera hangs.

Measured on the luma of the smallest output, at half its size (the scaling is part of JPEG decoding and nearly free).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import simplejpeg

from transforms.tags.tagger import Float64, Frames, Luma, Options, Tagger

BLACK_MEAN, BLACK_SPREAD = 20.0, 4.0
# mean difference of two frames of a camera that hangs: what JPEG itself makes of two equal pictures is below
FROZEN_DIFFERENCE = 0.05
BLOCK = 8
MEASURES = ("brightness", "sharpness", "black", "change")


def luma_of(jpeg: bytes) -> Luma:
    """(height, width) at about half the size of the picture."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
    picture = simplejpeg.decode_jpeg(
        jpeg, colorspace="GRAY", min_height=(height + 1) // 2, min_width=(width + 1) // 2, min_factor=1
    )
    return np.asarray(picture[:, :, 0], np.uint8)


def _small(luma: Luma) -> Float64:
    """Means of blocks of BLOCK by BLOCK pixels."""
    high, wide = (side // BLOCK * BLOCK for side in luma.shape)
    blocks = luma[:high, :wide].reshape(high // BLOCK, BLOCK, wide // BLOCK, BLOCK)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float64)


def _measure(luma: Luma) -> tuple[float, float, float, Float64]:
    """Mean, spread, variance of the Laplacian, and a small picture."""
    wide = luma.astype(np.int16)
    middle = wide[1:-1, 1:-1]
    around = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
    return float(luma.mean()), float(luma.std()), float((around - 4 * middle).var()), _small(luma)


def measure(jpegs: Sequence[Callable[[], bytes]], order: Sequence[int]) -> dict[str, Float64]:
    """brightness, sharpness, black (1 or 0), change (mean difference to the frame before; NaN for the first).

    jpegs: of the frames of one channel; order: their places in order of time.
    """
    found = {name: np.full(len(jpegs), np.nan) for name in MEASURES}

    def one(row: int) -> tuple[float, float, float, Float64]:
        return _measure(luma_of(jpegs[row]()))

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        before: Float64 | None = None
        for row, (mean, spread, sharp, small) in zip(order, pool.map(one, order), strict=True):
            found["brightness"][row], found["sharpness"][row] = round(mean, 1), round(sharp, 1)
            found["black"][row] = mean < BLACK_MEAN and spread < BLACK_SPREAD
            if before is not None and before.shape == small.shape:
                found["change"][row] = float(np.abs(small - before).mean())
            before = small
    return found


def make(frames: Frames, options: Options) -> Mapping[str, object]:
    looks = frames.looks
    black = [None if np.isnan(value) else bool(value) for value in looks["black"].tolist()]
    frozen = [
        None if np.isnan(value) else bool(value < FROZEN_DIFFERENCE) for value in looks["change"].tolist()
    ]
    return {
        "brightness": looks["brightness"],
        "sharpness": looks["sharpness"],
        "is_black": black,
        "is_repeated": frozen,
    }


TAGGER = Tagger(
    "picture",
    1,
    lambda options: {
        "brightness": "double",
        "sharpness": "double",
        "is_black": "bool",
        "is_repeated": "bool",
    },
    make,  # type: ignore[arg-type]
)
