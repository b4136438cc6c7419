"""The decoder of a GPU: chosen where there is one as strict as the CPU's, the same bytes, and explained where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from transforms import gpu
from transforms.cut import cut_channel, open_workshop
from transforms.errors import TransformError
from transforms.recipe import Output
from transforms.recordings.mp4 import Mp4Channel, new_decoder, open_recording

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
    with pytest.raises(TransformError, match="auto, cpu or gpu"):
        gpu.decoder_for(channel, 1)


class Covering:
    """A decoder as a driver may be: what it cannot decode it shows as the picture before, and says nothing."""

    def __init__(self, codec: str) -> None:
        self.inner = new_decoder(codec, None, 1)
        self.last: av.VideoFrame | None = None
        self.shown = 0

    def decode(self, packet: av.Packet[Any] | None) -> list[Any]:
        try:
            found = self.inner.decode(packet)
        except av.FFmpegError:
            found = []
        self.last = found[-1] if found else self.last
        if packet is None:
            found += [self.last] * (gpu.FRAMES - self.shown - len(found))  # type: ignore[list-item]
        self.shown += len(found)
        return [SimpleNamespace(is_corrupt=False, reformat=frame.reformat) for frame in found]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What was found out about this machine's GPU is forgotten before and after."""
    gpu.why_not.cache_clear()
    gpu.why_not_taken.cache_clear()
    yield
    gpu.why_not.cache_clear()
    gpu.why_not_taken.cache_clear()


@pytest.mark.parametrize("codec", sorted(gpu.CODECS))
def test_a_gpu_is_chosen_where_it_is_as_strict_as_the_cpu(
    clip_bytes: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    more = {"params": X265} if codec == "hevc" else {}
    channel = channel_of(tmp_path, clip_bytes(codec=gpu.CODECS[codec], **more))
    opened = []

    def strict(codec: str, extradata: bytes | None) -> av.VideoCodecContext:
        opened.append(new_decoder(codec, extradata, 1))
        return opened[-1]

    monkeypatch.setattr(gpu, "_open", strict)
    monkeypatch.delenv(gpu.SETTING, raising=False)
    assert gpu.decoder_for(channel, 2) is opened[-1]
    before = len(opened)
    assert gpu.decoder_for(channel, 2) is opened[-1] and len(opened) == before + 1  # one trial is enough
    monkeypatch.setenv(gpu.SETTING, "cpu")
    assert gpu.decoder_for(channel, 2).thread_count == 2


@pytest.mark.parametrize("codec", sorted(gpu.CODECS))
def test_a_gpu_that_covers_damage_up_is_not_chosen(
    clip_bytes: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    assert "covers up damage" in str(gpu.failed_trial(codec, lambda: Covering(codec)))  # type: ignore[arg-type, return-value]
    more = {"params": X265} if codec == "hevc" else {}
    channel = channel_of(tmp_path, clip_bytes(codec=gpu.CODECS[codec], **more))
    monkeypatch.setattr(gpu, "_open", lambda codec, extradata: Covering(codec))
    monkeypatch.delenv(gpu.SETTING, raising=False)
    assert not isinstance(gpu.decoder_for(channel, 1), Covering)
    monkeypatch.setenv(gpu.SETTING, "gpu")
    assert isinstance(gpu.decoder_for(channel, 1), Covering)  # who asks for it gets it


def test_a_gpu_with_other_colours_is_not_chosen() -> None:
    class Off(Covering):
        def decode(self, packet: av.Packet[Any] | None) -> list[Any]:
            return super().decode(packet)[1:]

    assert "other frames" in str(gpu.failed_trial("h264", lambda: Off("h264")))  # type: ignore[arg-type, return-value]


def test_a_gpu_that_is_not_there_is_explained(
    clip_bytes: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channel_of(tmp_path, clip_bytes())

    def absent(*_: object) -> av.VideoCodecContext:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setenv(gpu.SETTING, "gpu")
    monkeypatch.setattr(gpu, "_open", absent)
    with pytest.raises(TransformError, match="no GPU decodes here"):
        gpu.decoder_for(channel, 1)
    monkeypatch.delenv(gpu.SETTING)
    assert gpu.decoder_for(channel, 1).thread_count == 1


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
    monkeypatch.setenv(gpu.SETTING, "cpu")
    expected = jpegs(channel, tmp_path / "cpu")
    monkeypatch.setenv(gpu.SETTING, "gpu")
    assert jpegs(channel, tmp_path / "gpu") == expected != {}


@pytest.mark.parametrize("codec", sorted(gpu.CODECS))
def test_the_trial_of_a_gpu_says_whether_it_is_exact(codec: str) -> None:
    reason = gpu.why_not()
    if reason is not None:
        pytest.skip(f"no GPU decodes here: {reason}")
    # strict or not is the driver's affair; other frames of a sound stream would be a fault
    assert "other frames" not in str(gpu.failed_trial(codec, lambda: gpu._open(codec, None)))
