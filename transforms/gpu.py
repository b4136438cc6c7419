"""Decoding on a GPU (NVDEC, through PyAV's own FFmpeg): the same frames by another decoder behind the same interface.

It is taken where `OUTLAP_DECODER=gpu` asks for it, not by itself: what a damaged stream decodes to is then up to the driver, which may
cover damage up, and promise 1 is that bytes are right or an error. Frames come back as NV12 or P010, which transforms.pictures
unpacks; decoding H.264 and H.265 is exact, so the JPEGs are those of the CPU.
"""

from __future__ import annotations

import os
from functools import cache

import av
from av.codec.hwaccel import HWAccel

from transforms.errors import TransformError
from transforms.recordings import MAX_PIXELS, Channel

SETTING = "OUTLAP_DECODER"
CODECS = frozenset({"h264", "hevc"})


def _open(codec: str, extradata: bytes | None) -> av.VideoCodecContext:
    """Raises OSError or av.FFmpegError where there is no GPU, or it does not know the codec."""
    context = av.CodecContext.create(codec, "r", HWAccel("cuda", allow_software_fallback=False))
    assert isinstance(context, av.VideoCodecContext)
    context.extradata = extradata
    context.thread_count, context.thread_type = 1, "NONE"
    context.options = {"max_pixels": str(MAX_PIXELS)}
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


def decoder_for(channel: Channel, threads: int) -> av.VideoCodecContext:
    """A fresh decoder of a channel, on the CPU, or on the GPU where that is asked for and the codec is one of video.

    Raises TransformError where it is asked for and not there.
    """
    asked = os.environ.get(SETTING, "cpu")
    if asked not in ("cpu", "gpu"):
        raise TransformError(f"{SETTING}={asked[:40]}", "a decoder is cpu or gpu", "set one of them")
    on_cpu = channel.decoder(threads=threads)
    if asked == "cpu" or channel.codec not in CODECS:
        return on_cpu
    reason = why_not()
    if reason is not None:
        raise TransformError(
            f"{SETTING}=gpu", f"no GPU decodes here: {reason}", "unset it, or run where there is one"
        )
    return _open(channel.codec, on_cpu.extradata)
