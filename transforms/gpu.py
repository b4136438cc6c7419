"""Decoding on a GPU (NVDEC, through PyAV's own FFmpeg): the same frames by another decoder behind the same interface.

`OUTLAP_DECODER` is `auto` (the default), `cpu` or `gpu`. What a damaged stream decodes to on a GPU is up to its driver, which may
cover damage up, and a drive must be refused or taken alike on every machine. So `auto` takes a GPU where there is one that passes
a trial: it gives the very frames of a sound stream, and an error for each of several damaged copies, as the CPU's decoder does.
`gpu` takes it without that, and is an error where there is none. Frames come back as NV12 or P010, which transforms.pictures
unpacks; decoding H.264 and H.265 is exact, so the JPEGs are those of the CPU.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import av
import numpy as np
from av.codec.hwaccel import HWAccel

from transforms.errors import TransformError
from transforms.recordings import MAX_PIXELS, Channel
from transforms.recordings.mp4 import new_decoder

SETTING = "OUTLAP_DECODER"
CODECS = {"h264": "libx264", "hevc": "libx265"}
WIDTH, HEIGHT, FRAMES = 320, 192, 12
DAMAGED = 8

log = logging.getLogger(__name__)


def _open(codec: str, extradata: bytes | None) -> av.VideoCodecContext:
    """Raises OSError or av.FFmpegError where there is no GPU, or it does not know the codec."""
    context = av.CodecContext.create(codec, "r", HWAccel("cuda", allow_software_fallback=False))
    assert isinstance(context, av.VideoCodecContext)
    context.extradata = extradata
    context.thread_count, context.thread_type = 1, "NONE"
    context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
    return context


@cache
def why_not() -> str | None:
    """Why no GPU can decode here; None where one can."""
    try:
        _open("h264", None)
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # FFmpeg's errors are OSErrors, ValueErrors or RuntimeErrors
        return str(error) or type(error).__name__
    return None


def _trial_stream(codec: str) -> list[bytes]:
    """Access units of a few frames of noise that moves: every byte of them matters."""
    context = av.CodecContext.create(CODECS[codec], "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 10), Fraction(10)
    quiet = {"x265-params": "log-level=none:pools=1:frame-threads=1:bframes=0:repeat-headers=1"}
    context.options = {
        "preset": "ultrafast",
        **(quiet if codec == "hevc" else {"x264-params": "threads=1:bframes=0"}),
    }
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT * 3 // 2, WIDTH), dtype=np.uint8)
    found: list[bytes] = []
    for number in range(FRAMES):
        frame = av.VideoFrame.from_ndarray(np.roll(noise, number, axis=1), format="yuv420p")
        frame.pts = number
        found += [bytes(packet) for packet in context.encode(frame)]
    return found + [bytes(packet) for packet in context.encode(None)]


def _damaged(units: list[bytes], number: int) -> list[bytes]:
    """A copy of which one unit is damaged well behind its headers: the odd ones cut off, the even ones overwritten."""
    at = number * len(units) // DAMAGED
    unit = bytearray(units[at])
    place = len(unit) // 2 + number
    if number % 2:
        del unit[place:]
    else:
        unit[place : place + 256] = bytes(255 - byte for byte in unit[place : place + 256])
    return [*units[:at], bytes(unit), *units[at + 1 :]]


def _decoded(decoder: av.VideoCodecContext, units: list[bytes]) -> list[bytes] | None:
    """The frames in planes of eight bits; None where the decoder told of damage."""
    frames = []
    try:
        for number, unit in enumerate([*units, None]):
            packet = None if unit is None else av.Packet(unit)
            if packet is not None:
                packet.pts = packet.dts = number
            for frame in decoder.decode(packet):
                if frame.is_corrupt:
                    return None
                frames.append(frame.reformat(format="yuv420p").to_ndarray().tobytes())
    except (av.FFmpegError, ValueError):
        return None
    return frames if len(frames) == FRAMES else None


def failed_trial(codec: str, open_decoder: Callable[[], av.VideoCodecContext]) -> str | None:
    """What a decoder does otherwise than the CPU's; None where it is as exact and as strict."""
    units = _trial_stream(codec)
    sound = _decoded(new_decoder(codec, None, 1), units)
    if sound is None or _decoded(open_decoder(), units) != sound:
        return f"it gives other frames of {codec} than the CPU"
    hidden = 0
    for number in range(DAMAGED):
        damaged = _damaged(units, number)
        if _decoded(new_decoder(codec, None, 1), damaged) is None:
            hidden += _decoded(open_decoder(), damaged) is not None
    return f"it covers up damage of {codec} in {hidden} of {DAMAGED} streams" if hidden else None


@cache
def why_not_taken(codec: str) -> str | None:
    """Why `auto` does not take a GPU for a codec; None where it does."""
    reason = why_not()
    if reason is not None:
        return f"no GPU decodes here: {reason}"
    try:
        why = failed_trial(codec, lambda: _open(codec, None))
    except (OSError, RuntimeError, ValueError) as error:
        why = str(error) or type(error).__name__
    log.info("the GPU for %s: %s", codec, "taken" if why is None else f"not taken, {why}")
    return why


def decoder_for(channel: Channel, threads: int) -> av.VideoCodecContext:
    """A fresh decoder of a channel, on the GPU where it is chosen and the codec is one of video, else on the CPU.

    Raises TransformError where a GPU is asked for and not there.
    """
    asked = os.environ.get(SETTING, "auto")
    if asked not in ("auto", "cpu", "gpu"):
        raise TransformError(f"{SETTING}={asked[:40]}", "a decoder is auto, cpu or gpu", "set one of them")
    on_cpu = channel.decoder(threads=threads)
    if asked == "cpu" or channel.codec not in CODECS or (asked == "auto" and why_not_taken(channel.codec)):
        return on_cpu
    reason = why_not()
    if reason is not None:
        raise TransformError(
            f"{SETTING}=gpu", f"no GPU decodes here: {reason}", "unset it, or run where there is one"
        )
    return _open(channel.codec, on_cpu.extradata)
