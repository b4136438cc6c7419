"""Recordings: what every format gives to the steps after it, whatever the container.

A format is a module with `open_recording(path) -> Recording`. A recording has channels; a channel has an index of its
frames (no decoding) and hands out the coded bytes of any of them. Index → plan → decode never ask for more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np
import numpy.typing as npt

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


class Channel(Protocol):
    """One camera's stream in a recording."""

    @property
    def index(self) -> FrameIndex: ...

    @property
    def orientation(self) -> Orientation: ...

    def decoder(self, threads: int) -> av.VideoCodecContext:
        """A fresh decoder, fed with the packets of any key frame onwards."""
        ...

    def packets(self, frames: Sequence[int]) -> Iterator[av.Packet[Any]]:
        """Coded frames by their place in the index. Raises Unreadable when the bytes are not there."""
        ...


class Recording(Protocol):
    """An indexed recording. It holds no open file, and several threads may decode it at once."""

    @property
    def channels(self) -> Sequence[Channel]: ...
