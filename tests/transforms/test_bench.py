"""What `outlap bench transforms` compares does the same work, and its yardsticks measure."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageFilter

from benchmarks import footage, logs
from benchmarks.transforms import CUTS, _rounds, by_lanczos, by_pillow, cut_by_ffmpeg, cut_by_us


@pytest.mark.parametrize("name", CUTS)
def test_ffmpeg_and_we_cut_the_same_number_of_frames(
    clip_bytes: Callable[..., bytes], tmp_path: Path, name: str
) -> None:
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("the ffmpeg command is not installed (`make bench` installs it)")
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip_bytes(frames=40, gop=10, width=1280, height=720))
    ours, size = cut_by_us(path, CUTS[name], tmp_path)
    theirs, _ = cut_by_ffmpeg(program, path, CUTS[name], tmp_path)
    assert (ours, theirs) == ((4, 4) if name == "key frames" else (9, 8))  # ffmpeg's ticks end with the video
    assert size > 10_000


def test_likeness_is_one_for_the_same_and_less_for_blur() -> None:
    pixels = footage.texture(240, 320, 5, detail=0.3)
    image = Image.fromarray(np.stack([pixels] * 3, axis=-1))

    def saved(one: Image.Image) -> bytes:
        out = io.BytesIO()
        one.save(out, "JPEG", quality=100, subsampling=0)
        return out.getvalue()

    exact, blurred = saved(image), saved(image.filter(ImageFilter.GaussianBlur(1)))
    luma = pixels.astype(float)
    assert footage.ssim(exact, luma) > 0.998 > 0.9 > footage.ssim(blurred, luma)
    assert footage.psnr(exact, luma) > 45 > 35 > footage.psnr(blurred, luma)


def test_rivals_make_720p_and_take_turns() -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((1080, 1920, 3), np.uint8)).save(out, "JPEG")
    assert simplejpeg.decode_jpeg_header(by_pillow(out.getvalue()))[:2] == (720, 1280)
    assert by_lanczos(out.getvalue()).size == (1280, 720)
    order: list[str] = []

    def working(name: str) -> Callable[[], tuple[int, int]]:
        def work() -> tuple[int, int]:
            order.append(name)
            return 2, 10

        return work

    spent = _rounds({"a": working("a"), "b": working("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert (spent["a"].done, spent["a"].bytes) == (2, 10)


def test_logs_are_read_whole_by_all(tmp_path: Path) -> None:
    pixels = np.ascontiguousarray(np.stack([footage.texture(360, 640, 5)] * 3, axis=-1))
    path = tmp_path / "drive.mcap"
    logs.write_mcap(path, [simplejpeg.encode_jpeg(pixels)], 2)
    found = {name: work() for name, work in logs.systems(path, tmp_path).items()}
    size = path.stat().st_size
    pictures, messages = 2 * logs.CAMERA_HZ, 2 * (logs.CAMERA_HZ + logs.IMU_HZ + logs.FIX_HZ)
    assert found[logs.OPENED] == (pictures, size) and found[logs.INGESTED] == (
        5,
        size,
    )  # the last tick takes the frame before it
    assert found[logs.PLAIN] == found[logs.CHECKED] == (messages, size)
    assert [row.against for row in logs.rows(dict.fromkeys(found, 1.0), size)].count(logs.PLAIN) == 2
