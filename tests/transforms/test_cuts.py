"""Every policy on every kind of video: the JPEGs show the frames that were asked for, by the numbers drawn in them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import simplejpeg

from outlap.synthetic import read_frame_number
from transforms.cut import choose, cut_channel, open_workshop
from transforms.errors import Unreadable
from transforms.recipe import Events, Output, Rate, Recipe
from transforms.recordings import Channel
from transforms.recordings.mp4 import open_recording
from transforms.times import SECOND, ticks_to_ns

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
SMALL = (Output(name="720p"),)
X265 = "log-level=none:pools=1:frame-threads=1"
VIDEOS: dict[str, dict[str, Any]] = {
    "plain": {"codec": "libx264", "gop": 6, "params": "threads=1:bframes=0"},
    "b-frames": {"codec": "libx264", "gop": 8, "params": "threads=1:bframes=3:b-adapt=0:b-pyramid=normal"},
    "open-gop-h265": {
        "codec": "libx265",
        "gop": 8,
        "params": X265 + ":bframes=3:b-adapt=0:open-gop=1:min-keyint=8",
    },
    "variable-rate": {
        "codec": "libx264",
        "gop": 7,
        "times": tuple(k * 9000 + k * k * 37 % 4000 for k in range(30)),
    },
    "rotated": {"codec": "libx264", "gop": 6, "rotation": 90},
    "one-long-group": {"codec": "libx265", "gop": 100, "params": X265 + ":bframes=2"},
}
CUTS: dict[str, Any] = {
    "keyframes": "keyframes",
    "all": "all",
    "two-hertz": Rate(rate_mhz=2000),
    "seven-hertz": Rate(rate_mhz=7000),
    "events": Events(at_ns=(730_000_000, 1_210_000_000, 2_899_000_000, 9 * SECOND)),
    "windows": Events(at_ns=(1_000_000_000, 2_000_000_000), before_ns=150_000_000, after_ns=50_000_000),
}


def expected(channel: Channel, recipe: Recipe, numbers: list[int]) -> list[int]:
    """Frame numbers that a person would name, from a list of (time, number, key) and nothing else."""
    index = channel.index
    times = ticks_to_ns(index.pts, index.time_base)
    order = [int(place) for place in np.argsort(index.pts) if index.shown[place]]
    frames = [
        (int(times[place]), number, bool(index.key[place]))
        for place, number in zip(order, numbers, strict=True)
    ]
    cut = recipe.cut
    if cut == "keyframes":
        return [number for _, number, key in frames if key]
    if cut == "all":
        return numbers
    if isinstance(cut, Events) and cut.before_ns:
        spans = [(at - cut.before_ns, at + cut.after_ns) for at in cut.at_ns]
        return [number for at, number, _ in frames if any(a <= at <= b for a, b in spans)]
    if isinstance(cut, Events):
        near = [min(frames, key=lambda f: (abs(f[0] - at), f[0])) for at in cut.at_ns]
        tolerance = recipe.sample_tolerance_ns
        return sorted({f[1] for f, at in zip(near, cut.at_ns, strict=True) if abs(f[0] - at) <= tolerance})
    assert isinstance(cut, Rate)
    period = 1000 * SECOND / cut.rate_mhz
    windows: dict[int, list[tuple[float, int]]] = {}
    for at, number, _ in frames:
        tick = int((at + period / 2) // period)
        windows.setdefault(tick, []).append((abs(at - tick * period), number))
    return sorted(min(offers)[1] for offers in windows.values())


def shown_numbers(channel: Channel, recipe: Recipe, folder: Path, turn: int = 0) -> list[int]:
    """The numbers in the JPEGs of a cut, by time."""
    index = channel.index
    times = ticks_to_ns(index.pts, index.time_base)
    moments = np.array(recipe.cut.at_ns, np.int64) if isinstance(recipe.cut, Events) else None
    wanted = choose(index, times, recipe, moments)
    with open_workshop(folder) as workshop:
        pieces = cut_channel(workshop, channel, wanted, recipe.outputs, lambda more: None)
    assert [piece.place for piece in pieces] == sorted(wanted.tolist())
    found = {}
    for piece in pieces:
        jpeg = piece.spool.read_bytes()[piece.offset : piece.offset + piece.size]
        upright = simplejpeg.decode_jpeg(jpeg, colorspace="GRAY")[:, :, 0]
        found[piece.place] = read_frame_number(np.ascontiguousarray(np.rot90(upright, turn)))[1]
    return [found[place] for place in wanted.tolist()]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("video", VIDEOS)
def test_the_frames_that_were_asked_for(
    clip_bytes: Callable[..., bytes], tmp_path: Path, video: str, cut: str
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip_bytes(frames=30, **VIDEOS[video]))
    (channel,) = open_recording(path).channels
    recipe = Recipe(cut=CUTS[cut], outputs=SMALL)
    turn = -VIDEOS[video].get("rotation", 0) // 90
    numbers = shown_numbers(channel, recipe, tmp_path, turn)
    assert numbers == expected(channel, recipe, list(range(30))) != []


def edited(data: bytes, ticks: int) -> bytes:
    """The same frames, so many ticks of 1/90000 s earlier: the container's edit list hides what is before its zero."""
    out = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(out, "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                assert packet.time_base == stream.time_base or stream.time_base is None
                packet.dts -= ticks
                packet.pts -= ticks
                packet.stream = stream
                target.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize("video", ["plain", "b-frames"])
@pytest.mark.parametrize("cut", ["keyframes", "all", "seven-hertz"])
def test_what_an_edit_list_hides_is_not_cut(
    clip_bytes: Callable[..., bytes], tmp_path: Path, video: str, cut: str
) -> None:
    path = tmp_path / "clip.mp4"
    # frames 0 to 8 are before the zero; those of their group that come first are still needed, and hidden
    path.write_bytes(edited(clip_bytes(frames=30, **VIDEOS[video]), 9 * 9000))
    (channel,) = open_recording(path).channels
    assert int(channel.index.shown.sum()) == 21 < len(channel.index)
    recipe = Recipe(cut=CUTS[cut], outputs=SMALL)
    assert shown_numbers(channel, recipe, tmp_path) == expected(channel, recipe, list(range(9, 30)))


@pytest.mark.parametrize("name", ["solidWhiteRight.mp4", "portrait_4k60.mp4"])
def test_real_clips_give_what_a_player_shows(tmp_path: Path, name: str) -> None:
    """Every 17th frame, against FFmpeg decoding all of it from the beginning."""
    path = REAL / name
    if not path.exists():
        pytest.skip(f"the real recording {path} is not beside the project")
    (channel,) = open_recording(path).channels
    wanted = np.argsort(channel.index.pts)[5::17].astype(np.int64)
    with open_workshop(tmp_path) as workshop:
        output = Output(name="x", lines=180, quality=95)
        pieces = cut_channel(workshop, channel, wanted, (output,), lambda more: None)
    times = {int(channel.index.pts[place]) for place in wanted}
    with av.open(str(path)) as container:
        shown = {frame.pts: frame for frame in container.decode(video=0) if frame.pts in times}
    assert len(pieces) == len(wanted) == len(shown)
    for piece in pieces:
        jpeg = piece.spool.read_bytes()[piece.offset : piece.offset + piece.size]
        frame = shown[int(channel.index.pts[piece.place])]
        reference = frame.reformat(width=320, height=180, format="gray").to_ndarray().astype(float)
        reference = (reference - reference.mean()) / reference.std()
        upright = simplejpeg.decode_jpeg(jpeg, colorspace="GRAY")[:, :, 0].astype(float)
        turned = np.rot90(upright, -channel.orientation.quarters)
        assert np.corrcoef(turned.ravel(), reference.ravel())[0, 1] > 0.99


def test_a_frame_that_is_not_there_is_told(clip_bytes: Callable[..., bytes], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip_bytes(frames=30, **VIDEOS["b-frames"]))
    (channel,) = open_recording(path).channels
    with path.open("r+b") as file:
        file.truncate(int(channel.index.position[-4]))
    with open_workshop(tmp_path) as workshop, pytest.raises(Unreadable):
        cut_channel(workshop, channel, np.argsort(channel.index.pts), SMALL, lambda more: None)
