"""The decoder of a GPU: asked for by name, the same bytes as the CPU's, and explained where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from transforms import gpu
from transforms.cut import cut_channel, open_workshop
from transforms.errors import TransformError
from transforms.recipe import Output
from transforms.recordings.mp4 import Mp4Channel, open_recording

SMALL = (Output(name="720p"),)
X265 = "log-level=none:pools=1:frame-threads=1:bframes=2"


def channel_of(folder: Path, data: bytes) -> Mp4Channel:
    path = folder / "clip.mp4"
    path.write_bytes(data)
    (channel,) = open_recording(path).channels
    assert isinstance(channel, Mp4Channel)
    return channel


def jpegs(channel: Mp4Channel, folder: Path) -> dict[int, bytes]:
    folder.mkdir()
    with open_workshop(folder) as workshop:
        wanted = np.argsort(channel.index.pts)[::3].astype(np.int64)
        pieces = cut_channel(workshop, channel, wanted, SMALL, lambda more: None)
    return {p.place: p.spool.read_bytes()[p.offset : p.offset + p.size] for p in pieces}


def test_the_cpu_decodes_where_nothing_is_asked_for(
    clip_bytes: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(tmp_path, clip_bytes())
    monkeypatch.delenv(gpu.SETTING, raising=False)
    assert gpu.decoder_for(channel, 2).thread_count == 2
    monkeypatch.setenv(gpu.SETTING, "quantum")
    with pytest.raises(TransformError, match="cpu or gpu"):
        gpu.decoder_for(channel, 1)


def test_a_gpu_that_is_not_there_is_explained(
    clip_bytes: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(tmp_path, clip_bytes())

    def absent(*_: object) -> av.VideoCodecContext:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setenv(gpu.SETTING, "gpu")
    monkeypatch.setattr(gpu, "_open", absent)
    gpu.why_not.cache_clear()
    try:
        with pytest.raises(TransformError, match="no GPU decodes here"):
            gpu.decoder_for(channel, 1)
    finally:
        gpu.why_not.cache_clear()


@pytest.mark.parametrize(
    "fields",
    [
        {"codec": "libx264", "params": "threads=1:bframes=3:b-adapt=0"},
        {"codec": "libx265", "gop": 8, "params": X265},
        {"codec": "libx265", "gop": 8, "params": X265, "pix_fmt": "yuv420p10le"},
    ],
    ids=["h264", "h265", "10-bit"],
)
def test_the_gpu_gives_the_bytes_of_the_cpu(
    clip_bytes: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]
) -> None:
    reason = gpu.why_not()
    if reason is not None:
        pytest.skip(f"no GPU decodes here: {reason}")
    channel = channel_of(tmp_path, clip_bytes(frames=24, **fields))
    expected = jpegs(channel, tmp_path / "cpu")
    monkeypatch.setenv(gpu.SETTING, "gpu")
    assert jpegs(channel, tmp_path / "gpu") == expected != {}
