"""Which frame a JPEG shows, how large it is, and whether its colours are right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import simplejpeg
from av.video.reformatter import ColorRange
from hypothesis import given
from hypothesis import strategies as st

from outlap.synthetic import read_frame_number
from transforms.cut import cut_channel, open_workshop
from transforms.decode import decode_run
from transforms.errors import Unreadable
from transforms.pictures import to_jfif, to_pictures
from transforms.plan import plan_runs
from transforms.recipe import Output, Recipe
from transforms.recordings import Orientation
from transforms.recordings.mp4 import Mp4Recording, open_recording
from transforms.sizes import target_sizes

BOTH = Recipe().outputs
X265 = "log-level=none:pools=1:frame-threads=1"


def opened(folder: Path, data: bytes) -> Mp4Recording:
    path = folder / "clip.mp4"
    path.write_bytes(data)
    return open_recording(path)


def numbers_of(recording: Mp4Recording, folder: Path, places: np.ndarray) -> dict[int, int]:
    """Place → the frame number in its 720p JPEG."""
    with open_workshop(folder) as workshop:
        pieces = cut_channel(workshop, recording.channels[0], places, BOTH, lambda more: None)
    return {
        piece.place: read_frame_number(piece.spool.read_bytes()[piece.offset : piece.offset + piece.size])[1]
        for piece in pieces
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"codec": "libx264", "gop": 7, "params": "threads=1:bframes=3:b-adapt=0"},
        {"codec": "libx264", "gop": 7, "params": "threads=1:bframes=3:b-adapt=0:open-gop=1"},
        {"codec": "libx265", "gop": 8, "params": X265 + ":bframes=3:b-adapt=0:open-gop=1:min-keyint=8"},
        {"codec": "libx265", "gop": 8, "params": X265 + ":bframes=0", "pix_fmt": "yuv420p10le"},
        {"codec": "libx264", "gop": 10, "pix_fmt": "yuv422p"},
        {"codec": "libx264", "gop": 10, "times": tuple(k * 9000 + k % 3 * 2000 for k in range(24))},
    ],
    ids=["b-frames", "open-gop-h264", "open-gop-h265", "10-bit", "4:2:2", "variable-rate"],
)
def test_every_frame_is_the_frame_that_it_says(
    clip_bytes: Callable[..., bytes], tmp_path: Path, fields: dict[str, Any]
) -> None:
    recording = opened(tmp_path, clip_bytes(frames=24, **fields))
    index = recording.channels[0].index
    ranks = {int(place): rank for rank, place in enumerate(np.argsort(index.pts))}
    # all of them, then each third: other runs, joined otherwise
    for places in (np.argsort(index.pts), np.argsort(index.pts)[1::3]):
        assert numbers_of(recording, tmp_path, places) == {int(p): ranks[int(p)] for p in places}


def test_leading_pictures_are_there_to_be_tested(clip_bytes: Callable[..., bytes], tmp_path: Path) -> None:
    """The open-gop case above means something only if the encoder made such frames."""
    params = X265 + ":bframes=3:b-adapt=0:open-gop=1:min-keyint=8"
    index = opened(tmp_path, clip_bytes(frames=24, codec="libx265", gop=8, params=params)).channels[0].index
    keys = np.flatnonzero(index.key)
    governing = keys[np.searchsorted(keys, np.arange(len(index)), side="right") - 1]
    assert len(keys) > 1
    assert (index.pts < index.pts[governing]).any()


@given(st.integers(16, 8192), st.integers(16, 8192))
def test_outputs_are_even_never_larger_and_in_proportion(width: int, height: int) -> None:
    sizes = {t.output.name: (t.width, t.height) for t in target_sizes(width, height, BOTH)}
    assert ("4k" in sizes) == (min(width, height) > 720)
    for name, (wide, high) in sizes.items():
        assert wide % 2 == high % 2 == 0
        assert wide <= width and high <= height
        limit = {"4k": 2160, "720p": 720}[name]
        assert min(wide, high) == min(limit, min(width, height)) // 2 * 2
        shrunk = min(wide, high) / min(width, height)
        assert (
            abs(max(wide, high) - max(width, height) * shrunk) <= max(width, height) / min(width, height) + 2
        )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((3840, 2160), {"4k": (3840, 2160), "720p": (1280, 720)}),
        ((1920, 1080), {"4k": (1920, 1080), "720p": (1280, 720)}),
        ((2160, 3840), {"4k": (2160, 3840), "720p": (720, 1280)}),
        ((7680, 4320), {"4k": (3840, 2160), "720p": (1280, 720)}),
        ((1280, 720), {"720p": (1280, 720)}),
        ((960, 540), {"720p": (960, 540)}),
        ((641, 361), {"720p": (640, 360)}),
    ],
)
def test_sizes_of_known_pictures(size: tuple[int, int], expected: dict[str, tuple[int, int]]) -> None:
    assert {t.output.name: (t.width, t.height) for t in target_sizes(*size, BOTH)} == expected


def flat_frame(
    pix_fmt: str, ycc: tuple[int, int, int], matrix: int, size: tuple[int, int] = (320, 240)
) -> av.VideoFrame:
    frame = av.VideoFrame(*size, pix_fmt)
    deep = "10" in pix_fmt
    for plane, value in zip(frame.planes, ycc, strict=True):
        np.frombuffer(memoryview(plane), np.uint16 if deep else np.uint8)[:] = value * 4 if deep else value
    frame.colorspace, frame.color_range = matrix, ColorRange.MPEG
    return frame


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv422p", "yuv444p", "yuv422p10le"])
@pytest.mark.parametrize(
    ("matrix", "red"),
    # limited-range red in BT.709 and BT.601 (ITU-T H.273); unspecified is BT.601 at this size
    [(1, (63, 102, 240)), (5, (81, 90, 240)), (6, (81, 90, 240)), (2, (81, 90, 240))],
)
def test_red_stays_red(pix_fmt: str, matrix: int, red: tuple[int, int, int]) -> None:
    (picture,) = to_pictures(flat_frame(pix_fmt, red, matrix), Orientation(), BOTH)
    pixels = simplejpeg.decode_jpeg(picture.jpeg)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 5


def test_unspecified_colours_of_high_definition_are_bt709() -> None:
    pictures = to_pictures(flat_frame("yuv420p", (63, 102, 240), 2, (1920, 1080)), Orientation(), BOTH)
    for picture in pictures:
        assert np.abs(simplejpeg.decode_jpeg(picture.jpeg).astype(int) - (255, 0, 0)).max() <= 5


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_pictures_are_turned_upright(clip_bytes: Callable[..., bytes], tmp_path: Path, rotation: int) -> None:
    recording = opened(tmp_path, clip_bytes(frames=2, rotation=rotation))
    channel = recording.channels[0]
    (run,) = plan_runs(channel.index, np.array([0], np.int64))
    ((_, frame),) = decode_run(channel, channel.decoder(1), run)
    (picture,) = to_pictures(frame, channel.orientation, BOTH)
    assert (picture.width, picture.height) == ((640, 360) if rotation % 180 == 0 else (360, 640))
    upright = simplejpeg.decode_jpeg(picture.jpeg)
    assert upright.shape[:2] == (picture.height, picture.width)
    # what the player turned counter-clockwise by `rotation` reads again once it is turned back
    assert read_frame_number(np.ascontiguousarray(np.rot90(upright, -rotation // 90))) == (0, 0)


def test_a_mirror_comes_before_the_turn() -> None:
    frame = flat_frame("yuv420p", (60, 128, 128), 5, (320, 240))
    luma = np.frombuffer(memoryview(frame.planes[0]), np.uint8).reshape(-1, frame.planes[0].line_size)
    luma[:80, :80] = 200  # top left
    (picture,) = to_pictures(frame, Orientation(quarters=1, mirrored=True), BOTH)
    grey = simplejpeg.decode_jpeg(picture.jpeg, colorspace="GRAY")[:, :, 0]
    # mirrored it is top right; a quarter counter-clockwise brings that to the top left
    assert grey.shape == (320, 240)
    assert grey[20, 20] > 180 and grey[-20, 20] < 100 and grey[20, -20] < 100


def test_a_damaged_picture_is_an_error_and_the_decoder_can_go_on(
    clip_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    data = bytearray(clip_bytes())
    recording = opened(tmp_path, bytes(data))
    index = recording.channels[0].index
    # grey scenery compresses to little: damage the second half of the first key frame
    start, size = int(index.position[0]), int(index.size[0])
    data[start + size // 2 : start + size] = bytes(b ^ 0x5A for b in data[start + size // 2 : start + size])
    channel = opened(tmp_path, bytes(data)).channels[0]
    decoder = channel.decoder(1)
    bad, good = plan_runs(channel.index, np.array([0, 5], np.int64))
    with pytest.raises(Unreadable):
        list(decode_run(channel, decoder, bad))
    ((place, frame),) = decode_run(channel, decoder, good)
    assert place == 5
    assert read_frame_number(to_pictures(frame, Orientation(), BOTH)[0].jpeg) == (0, 5)


def test_tiny_pictures_are_refused() -> None:
    with pytest.raises(Unreadable):
        to_pictures(flat_frame("yuv420p", (60, 128, 128), 5, (8, 8)), Orientation(), BOTH)


def test_quality_is_heeded(clip_bytes: Callable[..., bytes], tmp_path: Path) -> None:
    channel = opened(tmp_path, clip_bytes()).channels[0]
    (run,) = plan_runs(channel.index, np.array([0], np.int64))
    ((_, frame),) = decode_run(channel, channel.decoder(1), run)
    sizes = [
        len(to_pictures(frame, Orientation(), (Output(name="720p", quality=quality),))[0].jpeg)
        for quality in (40, 95)
    ]
    assert sizes[0] < sizes[1]


LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def coded(rgb: np.ndarray, matrix: int, full: bool, depth: int) -> list[float]:
    """Y, Cb and Cr of a colour, as ITU-T H.273 has them."""
    red, blue = LUMA[matrix]
    luma = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]
    cb, cr = (rgb[2] - luma) / (2 - 2 * blue), (rgb[0] - luma) / (2 - 2 * red)
    scale = 2 ** (depth - 8)
    if full:
        return [255 * luma * scale, (128 + 255 * cb) * scale, (128 + 255 * cr) * scale]
    return [(16 + 219 * luma) * scale, (128 + 224 * cb) * scale, (128 + 224 * cr) * scale]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", LUMA)
@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p12le", "yuv440p"]
)
def test_colours_are_those_of_the_standard(pix_fmt: str, matrix: int, full: bool) -> None:
    depth = 12 if "12" in pix_fmt else 10 if "10" in pix_fmt else 8
    for rgb in np.random.default_rng(matrix).uniform(0.05, 0.95, (6, 3)):
        frame = av.VideoFrame(64, 48, pix_fmt)
        for plane, value in zip(frame.planes, coded(rgb, matrix, full, depth), strict=True):
            np.frombuffer(memoryview(plane), np.uint16 if depth > 8 else np.uint8)[:] = round(value)
        frame.colorspace, frame.color_range = matrix, ColorRange.JPEG if full else ColorRange.MPEG
        found = [np.frombuffer(memoryview(plane), np.uint8)[5] for plane in to_jfif(frame).planes]
        # swscale, for what the filter does not know, cuts where it should round
        assert np.abs(np.array(coded(rgb, 5, True, 8)) - found).max() <= (3 if pix_fmt == "yuv440p" else 1.7)


@pytest.mark.parametrize(("packed", "planar"), [("nv12", "yuv420p"), ("p010le", "yuv420p10le")])
@pytest.mark.parametrize("full", [False, True])
def test_what_a_gpu_gives_is_the_same_picture(packed: str, planar: str, full: bool) -> None:
    """Detail in all planes: interleaved or not, the JPEGs are the same bytes."""
    frame = av.VideoFrame(320, 240, planar)
    rng = np.random.default_rng(1)
    for plane in frame.planes:
        kind, most = (np.uint16, 1023) if "10" in planar else (np.uint8, 255)
        pixels = np.frombuffer(memoryview(plane), kind)
        pixels[:] = rng.integers(0, most + 1, len(pixels))
    other = frame.reformat(format=packed)
    assert other.format.name == packed
    for one in (frame, other):
        one.colorspace, one.color_range = 1, ColorRange.JPEG if full else ColorRange.MPEG
    outputs = (Output(name="x", lines=120), Output(name="y", lines=240))
    assert to_pictures(other, Orientation(), outputs) == to_pictures(frame, Orientation(), outputs)


def ramp(width: int, height: int) -> av.VideoFrame:
    """Luma rises from left to right by x / 4 and from top to bottom by y / 4."""
    frame = av.VideoFrame(width, height, "yuvj420p")
    for number, plane in enumerate(frame.planes):
        pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
        pixels[:] = 128 if number else x // 4 + y // 4
    frame.colorspace, frame.color_range = 5, ColorRange.JPEG
    return frame


@pytest.mark.parametrize("quarters", [0, 1])
@pytest.mark.parametrize(
    ("aspect", "size", "expected", "middle"),
    [
        ("fit", (200, 200), (200, 112), (1.0, 1.0)),
        ("fit", (2000, 2000), (640, 360), (1.0, 1.0)),
        ("fill", (180, 180), (180, 180), (180 / 320, 1.0)),
        ("fill", (91, 45), (91, 45), (1.0, 640 / 360 * 45 / 91)),
        ("exact", (301, 77), (301, 77), (1.0, 1.0)),
        ("exact", (700, 400), (700, 400), (1.0, 1.0)),
    ],
)
def test_aspects(
    aspect: Any, size: tuple[int, int], expected: tuple[int, int], middle: tuple[float, float], quarters: int
) -> None:
    """The picture, which may lie on its side, is kept whole, or its middle is; sizes are those of the upright one."""
    output = Output(name="x", width=size[0], height=size[1], aspect=aspect, quality=95)
    frame = ramp(640, 360) if not quarters else turned(ramp(640, 360))
    (picture,) = to_pictures(frame, Orientation(quarters=quarters), (output,))
    grey = simplejpeg.decode_jpeg(picture.jpeg, colorspace="GRAY")[:, :, 0].astype(float)
    assert (picture.width, picture.height) == grey.shape[::-1] == expected
    left, top = (640 * (1 - middle[0]) / 2, 360 * (1 - middle[1]) / 2)
    assert abs(grey[1, 1] - (left + top) / 4) < 12
    assert abs(grey[-2, -2] - (640 - left + 360 - top) / 4) < 12
    assert abs(grey[1, -2] - (640 - left + top) / 4) < 12


def turned(frame: av.VideoFrame) -> av.VideoFrame:
    """A quarter clockwise."""
    (luma, *_) = frame.planes
    pixels = np.frombuffer(memoryview(luma), np.uint8).reshape(-1, luma.line_size)[:, : frame.width]
    made = flat_frame("yuvj420p", (0, 128, 128), 5, (frame.height, frame.width))
    made.color_range = ColorRange.JPEG
    target = np.frombuffer(memoryview(made.planes[0]), np.uint8).reshape(-1, made.planes[0].line_size)
    target[:, : frame.height] = np.rot90(pixels, -1)
    return made


@given(st.integers(16, 4000), st.integers(16, 4000), st.integers(16, 4000), st.integers(16, 4000))
def test_boxes_are_kept_and_filled(width: int, height: int, wide: int, high: int) -> None:
    box = {"width": wide, "height": high}
    fit, fill, exact = target_sizes(
        width, height, [Output(name=name, aspect=name, **box) for name in ("fit", "fill", "exact")]
    )
    assert fit.width <= min(wide, width) and fit.height <= min(high, height)
    assert (fill.width, fill.height) == (exact.width, exact.height) == (wide, high)
    assert fill.scaled_width >= wide and fill.scaled_height >= high
    assert fill.scaled_width == wide or fill.scaled_height == high
    assert abs(fill.scaled_width * height - fill.scaled_height * width) <= max(width, height)


def test_frames_that_nobody_needs_are_not_decoded_and_the_others_stay_the_same(
    clip_bytes: Callable[..., bytes], tmp_path: Path
) -> None:
    params = "threads=1:bframes=3:b-adapt=0:b-pyramid=normal"
    channel = opened(tmp_path, clip_bytes(frames=24, codec="libx264", gop=24, params=params)).channels[0]
    (all_of_it,) = plan_runs(channel.index, np.argsort(channel.index.pts))
    every = {place: pixels_of(frame) for place, frame in decode_run(channel, channel.decoder(1), all_of_it)}
    for step, threads in ((2, 1), (5, 1), (23, 1), (5, 3)):
        (run,) = plan_runs(channel.index, np.argsort(channel.index.pts)[1::step])
        found = dict(decode_run(channel, channel.decoder(threads), run))
        assert set(found) == set(run.wanted)
        for place, frame in found.items():
            assert np.array_equal(pixels_of(frame), every[place])


def pixels_of(frame: av.VideoFrame) -> np.ndarray:
    return frame.to_ndarray().copy()


def test_recipes_refuse_outputs_without_one_size() -> None:
    for fields in (
        {"name": "x"},
        {"name": "x", "width": 100},
        {"name": "x", "lines": 100, "width": 100, "height": 100},
        {"name": "720p", "aspect": "fill"},
        {"name": "../x", "lines": 100},
    ):
        with pytest.raises(ValueError, match="Output"):
            Output.model_validate(fields)


DROP = """
import sys
from pathlib import Path
from transforms.recordings.mp4 import open_recording
channel = open_recording(Path(sys.argv[1])).channels[0]
for number in range(60):
    decoder = channel.decoder(threads=2)
    for packet in channel.packets(range(2 + number % 3)):
        decoder.decode(packet)
    del decoder, packet
print("ended")
"""


def test_a_decoder_ends_while_its_threads_work(clip_bytes: Callable[..., bytes], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip_bytes(codec="libx265", gop=8, params=X265, width=1280, height=720))
    done = subprocess.run(
        [sys.executable, "-c", DROP, str(path)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == "ended\n", done.stderr
