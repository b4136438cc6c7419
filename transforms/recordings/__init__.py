"""Recordings: what every format gives to the steps after it, whatever the container.

A format is a module with `open_recording(…) -> Recording` (`formats.py` chooses it by the name). A recording has channels; a
channel has an index of its frames (no decoding) and hands out the coded bytes of any of them. Index → plan → decode never
ask for more.

Channels of pictures (JPEG, PNG, raw pixels) are channels as any other: each frame is a key frame, and FFmpeg has decoders for
what they hold, so that `decoder` and `packets` are enough. A step that has a better way for one coding looks at `codec`: the
packets of "mjpeg" are whole JPEG files, which libjpeg-turbo can decode at a smaller scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol

import av
import numpy as np
import numpy.typing as npt

from transforms.signals import Signal
from transforms.telemetry import Track
from transforms.times import Int64

# Larger pictures are refused before a decoder reserves memory for them (8192x8192 is the most that NVDEC takes too).
MAX_PIXELS = 8192 * 8192


@dataclass(frozen=True)
class FrameIndex:
    """The coded frames of one channel in decoding order; all arrays are read-only and of length n.

    pts: presentation time in ticks of time_base; key: decoding can start here; shown: False where an edit list hides
    the frame; position, size: where the coded bytes lie in the file, bytes.
    """

    time_base: Fraction
    pts: Int64
    key: npt.NDArray[np.bool_]
    shown: npt.NDArray[np.bool_]
    position: Int64
    size: Int64

    def __post_init__(self) -> None:
        for array in (self.pts, self.key, self.shown, self.position, self.size):
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.pts)


@dataclass(frozen=True)
class Orientation:
    """How to turn a picture upright: `quarters` times 90 degrees counter-clockwise, after an optional mirror."""

    quarters: int = 0
    mirrored: bool = False


Kind = Literal[
    "crc",
    "partial",
    "container",
    "counts",
    "message",
    "clock",
    "repeated",
    "parameters",
    "b-frames",
    "resized",
    "lost",
]


@dataclass(frozen=True)
class Problem:
    """Something that was met while a recording was read; a rule of the same kind judges it.

    evidence: of numbers, for a person, the same in each run.
    """

    kind: Kind
    evidence: str
    channel: str | None = None


@dataclass(frozen=True)
class Calibration:
    """Of one camera. focal: K[0] of its matrix, pixels, 0 where it was never calibrated."""

    width: int
    height: int
    focal: float


class Channel(Protocol):
    """One camera's stream in a recording."""

    @property
    def name(self) -> str | None:
        """As the recording has it; None where only the file's name says it."""
        ...

    @property
    def codec(self) -> str:
        """As FFmpeg names it: h264, hevc, or of single pictures mjpeg, png, webp, rawvideo."""
        ...

    @property
    def index(self) -> FrameIndex: ...

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def start_ns(self) -> int | None:
        """The time of pts 0 where the recording itself says it, in ns since the epoch."""
        ...

    @property
    def declared_frames(self) -> int:
        """How many frames the container says that there are, 0 where it does not."""
        ...

    @property
    def log_times_ns(self) -> Int64 | None:
        """When each frame of the index was written, where the format has that beside the time of capture."""
        ...

    @property
    def orientation(self) -> Orientation: ...

    def decoder(self, threads: int) -> av.VideoCodecContext:
        """A fresh decoder, fed with the packets of any key frame onwards."""
        ...

    def packets(self, frames: Sequence[int]) -> Iterator[av.Packet[Any]]:
        """Coded frames by their place in the index. Raises Unreadable when the bytes are not there."""
        ...


class Recording(Protocol):
    """An indexed recording. It holds no open file, and several threads may decode it at once.

    codecs: of all that could be a picture, for evidence; creation_time: as the container has it; tracks: positions in it;
    signals: of the vehicle, by name; calibrations: by name of the channel.
    """

    @property
    def channels(self) -> Sequence[Channel]: ...

    @property
    def codecs(self) -> tuple[str, ...]: ...

    @property
    def creation_time(self) -> str | None: ...

    @property
    def problems(self) -> Sequence[Problem]: ...

    @property
    def tracks(self) -> Sequence[Track]: ...

    @property
    def signals(self) -> Mapping[str, Signal]: ...

    @property
    def calibrations(self) -> Mapping[str, Calibration]: ...
