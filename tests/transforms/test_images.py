"""JPEGs made of JPEGs: their size, sharpness, colours and EXIF."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms, ImageOps

from tests.transforms.conftest import new_place
from transforms.errors import Unreadable
from transforms.images import resize_jpeg, resize_jpegs
from transforms.recipe import Output, Recipe

LANCZOS = Image.Resampling.LANCZOS
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "DSC00001.JPG"
SMALL = (Output(name="720p"),)
BOTH = (Output(name="4k"), Output(name="720p"))


def scene(width: int, height: int) -> np.ndarray:
    """Smooth colours with a red top left corner, a green top right and a blue bottom left one."""
    x, y = np.linspace(0, 1, width)[None, :], np.linspace(0, 1, height)[:, None]
    pixels = np.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y], axis=-1)
    pixels += 0.15 * np.sin(40 * x + 30 * y)[:, :, None]
    return (np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def saved(pixels: np.ndarray, **more: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **{"quality": 95, **more})
    return out.getvalue()


def opened(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg))


def rgb(jpeg: bytes) -> np.ndarray:
    return np.asarray(opened(jpeg).convert("RGB")).astype(float)


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((one - two) ** 2).mean()))


@pytest.mark.parametrize("chroma", [0, 1, 2], ids=["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(960, 540), (720, 405), (480, 270), (2880, 540), (1440, 810)])
def test_every_way_of_decoding_gives_the_same_picture(chroma: int, size: tuple[int, int]) -> None:
    """1/1, 1/2 … are chosen by size: whichever was, the picture is that of Lanczos over all pixels."""
    pixels = scene(*size)
    (small,) = resize_jpeg(saved(pixels, subsampling=chroma), (Output(name="x", lines=180),))
    expected = Image.fromarray(pixels).resize((small.width, small.height), LANCZOS)
    assert psnr(rgb(small.jpeg), np.asarray(expected).astype(float)) > 38


def test_one_picture_gives_all_outputs() -> None:
    large, small = resize_jpeg(saved(scene(3840, 2160)), BOTH)
    assert [(p.output, *opened(p.jpeg).size) for p in (large, small)] == [
        ("4k", 3840, 2160),
        ("720p", 1280, 720),
    ]
    assert psnr(rgb(large.jpeg), scene(3840, 2160)) > 38


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "CAR"
    exif.get_ifd(0x8769)[0x927C] = b"m" * 2000
    exif.get_ifd(0x8825)[1] = "N"
    data = saved(scene(960, 540), exif=exif)
    (made,) = resize_jpeg(data, (Output(name="x", lines=270),))
    expected = ImageOps.exif_transpose(opened(data)).resize((made.width, made.height), LANCZOS)
    assert psnr(rgb(made.jpeg), np.asarray(expected).astype(float)) > 36
    kept = opened(made.jpeg).getexif()
    assert (kept[0x0112], kept[0x010F], kept.get_ifd(0x8825)[1]) == (1, "CAR", "N")
    assert 0x927C not in kept.get_ifd(0x8769)


def test_colours_of_another_profile_become_srgb() -> None:
    """The same numbers with the red and blue primaries of the profile exchanged come out exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = {
        bytes(profile[k : k + 4]): int.from_bytes(profile[k + 4 : k + 8], "big") for k in range(132, 400, 12)
    }
    red, blue = at[b"rXYZ"], at[b"bXYZ"]
    profile[red : red + 20], profile[blue : blue + 20] = profile[blue : blue + 20], profile[red : red + 20]
    name = profile.index("sRGB".encode("utf-16-be"))
    profile[name : name + 8] = "mine".encode("utf-16-be")
    pixels = np.full((360, 640, 3), (200, 60, 90), np.uint8)
    plain, other = (
        rgb(resize_jpeg(saved(pixels, **more), SMALL)[0].jpeg)[100, 100]
        for more in ({}, {"icc_profile": bytes(profile)})
    )
    assert np.abs(plain - (200, 60, 90)).max() <= 4
    assert np.abs(other - (90, 60, 200)).max() <= 6


def test_grey_cmyk_and_progressive_pictures() -> None:
    pixels = scene(1440, 810)
    grey = saved(pixels[:, :, 0])
    out = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(out, "JPEG", quality=95)
    half = np.asarray(Image.fromarray(pixels).resize((320, 180), LANCZOS)).astype(float)
    small = (Output(name="x", lines=180),)
    assert psnr(rgb(resize_jpeg(grey, small)[0].jpeg)[:, :, 1], half[:, :, 0]) > 38
    assert psnr(rgb(resize_jpeg(out.getvalue(), small)[0].jpeg), half) > 30
    assert psnr(rgb(resize_jpeg(saved(pixels, progressive=True), small)[0].jpeg), half) > 38
    (whole,) = resize_jpeg(grey, (Output(name="4k"),))
    assert psnr(rgb(whole.jpeg)[:, :, 2], pixels[:, :, 0].astype(float)) > 38


@pytest.mark.parametrize("chroma", ["420", "422", "444"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_chroma_is_what_was_asked_for(chroma: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(scene(960, 540), subsampling=0, exif=exif)
    (made,) = resize_jpeg(data, (Output(name="x", width=480, height=480, chroma=chroma, quality=95),))
    assert simplejpeg.decode_jpeg_header(made.jpeg)[3] == chroma
    expected = ImageOps.exif_transpose(opened(data)).resize((made.width, made.height), LANCZOS)
    assert psnr(rgb(made.jpeg), np.asarray(expected).astype(float)) > 36


def test_batches_keep_their_order_and_say_what_is_bad() -> None:
    good = [saved(np.full((64, 64, 3), shade, np.uint8)) for shade in range(0, 250, 25)]
    batch = [*good[:5], b"no picture", good[5][:400], *good[5:]]
    found = list(resize_jpegs(iter(batch), (Output(name="x", lines=32),), threads=3))
    assert [isinstance(item, Unreadable) for item in found] == [False] * 5 + [True] * 2 + [False] * 5
    shades = [rgb(item[0].jpeg).mean() for item in found if not isinstance(item, Unreadable)]
    assert np.abs(np.array(shades) - np.arange(0, 250, 25)).max() < 2


def test_a_cut_off_picture_is_refused_and_not_half_grey() -> None:
    data = saved(scene(3840, 2160))
    for outputs in (SMALL, BOTH):
        with pytest.raises(Unreadable, match="decode"):
            resize_jpeg(data[: len(data) // 2], outputs)


def test_a_real_photograph() -> None:
    if not REAL.exists():
        pytest.skip(f"the real picture {REAL} is not beside the project")
    data = REAL.read_bytes()
    (small,) = resize_jpeg(data, SMALL)
    assert (small.width, small.height) == (1280, 720)
    reference = np.asarray(opened(data).convert("RGB").resize((1280, 720), LANCZOS))
    assert psnr(rgb(small.jpeg), reference.astype(float)) > 36.5
    there, here = opened(data).getexif(), opened(small.jpeg).getexif()
    assert here.get_ifd(0x8825) == there.get_ifd(0x8825) != {}


def test_a_folder_of_pictures_is_cut_as_they_are_turned(tmp_path: Path) -> None:
    """Through the whole of ingest, each by its own EXIF."""
    place = new_place(tmp_path)
    files = {}
    for number, orientation in enumerate((1, 6)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"CAM/{1_780_300_800_000_000_000 + number * 10**9}.jpg"] = saved(scene(640, 360), exif=exif)
    place.upload(files)
    report = place.ingest(recipe=Recipe(outputs=(Output(name="x", lines=90),)))
    assert report.outcome == "ingested", report.findings
    rows = place.rows().to_pylist()
    assert [(row["width"], row["height"], row["channel"]) for row in rows] == [
        (160, 90, "CAM"),
        (90, 160, "CAM"),
    ]
    for row, data in zip(rows, files.values(), strict=True):
        upright = ImageOps.exif_transpose(opened(data)).resize((row["width"], row["height"]), LANCZOS)
        assert psnr(rgb(place.jpeg(row)), np.asarray(upright).astype(float)) > 34
