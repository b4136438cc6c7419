"""MP4 and MOV files with H.264 or H.265, read through FFmpeg's demuxer.

The index comes from one pass over the packets (no decoding): that gives each frame's presentation time after edit
lists, which frames an edit list hides, and proves that every declared frame can be read. Decoders are fed by byte
position, so nothing depends on seeking, which edit lists and negative times make unreliable.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType

from transforms.errors import Unreadable
from transforms.recordings import MAX_PIXELS, FrameIndex, Orientation

CODECS = frozenset({"h264", "hevc"})
SUFFIXES = frozenset({".mp4", ".mov", ".m4v"})
# The format is given, never guessed: a text file named .mp4 must not be taken for a playlist that opens other files.
OPEN_OPTIONS = {"protocol_whitelist": "file", "enable_drefs": "0", "use_absolute_path": "0"}
# struct of AV_FRAME_DATA_DISPLAYMATRIX: 3x3 of 16.16 and 2.30 fixed point, row by row (libavutil/display.h)
MATRIX = struct.Struct("<9i")


def _orientation(frame: av.VideoFrame) -> Orientation:
    """Read the display matrix of a frame; angles between quarters are rounded to the nearest."""
    # PyAV's stubs take this container for a mapping by name; iterating gives the data
    sides = cast(Iterable[SideData], frame.side_data)
    matrix = next((bytes(data) for data in sides if data.type == SideDataType.DISPLAYMATRIX), None)
    if matrix is None or len(matrix) != MATRIX.size:
        return Orientation()
    a, b, _, c, d, *_ = MATRIX.unpack(matrix)
    mirrored = a * d - b * c < 0
    if mirrored:  # the matrix is a mirror (x → -x) and then a turn: take the mirror out
        a, b = -a, -b
    # (x, y) → (ax + cy, bx + dy) with y down: atan2(b, a) is clockwise
    clockwise = round(np.degrees(np.arctan2(b, a)) / 90)
    return Orientation(quarters=-clockwise % 4, mirrored=mirrored)


def cause(error: Exception) -> str:
    """What FFmpeg says, without the local path and the log lines that PyAV adds: evidence is the same in each run."""
    return str(error.strerror if isinstance(error, av.FFmpegError) else error)


@dataclass
class Mp4Channel:
    """The first video stream of a file."""

    path: Path
    codec: str
    declared_frames: int
    time_base: Fraction
    extradata: bytes | None
    index: FrameIndex
    width: int
    height: int

    def decoder(self, threads: int) -> av.VideoCodecContext:
        context = av.CodecContext.create(self.codec, "r")
        assert isinstance(context, av.VideoCodecContext)
        context.extradata = self.extradata
        context.thread_count = threads
        context.thread_type = "AUTO" if threads > 1 else "NONE"
        # explode: a damaged picture is an error, never a picture with grey where the bytes were bad
        context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
        return context

    def packets(self, frames: Sequence[int]) -> Iterator[av.Packet[Any]]:
        with self.path.open("rb") as file:
            for frame in frames:
                size = int(self.index.size[frame])
                data = os.pread(file.fileno(), size, int(self.index.position[frame]))
                if len(data) != size:
                    raise Unreadable(
                        self.path.name, f"frame {frame} should have {size} bytes, {len(data)} are there"
                    )
                packet = av.Packet(data)
                packet.pts = packet.dts = int(self.index.pts[frame])
                packet.time_base = self.time_base
                packet.is_keyframe = bool(self.index.key[frame])
                yield packet

    @cached_property
    def orientation(self) -> Orientation:
        """From the first frame that decodes; the container's own decoder carries the display matrix."""
        try:
            with av.open(str(self.path), format="mp4", options=OPEN_OPTIONS) as container:
                container.streams.video[0].codec_context.options = {"max_pixels": str(MAX_PIXELS)}
                for frame in container.decode(video=0):
                    return _orientation(frame)
        except (av.FFmpegError, ValueError) as error:
            raise Unreadable(self.path.name, f"no frame decodes: {cause(error)}") from error
        raise Unreadable(self.path.name, "no frame decodes")


@dataclass
class Mp4Recording:
    """An indexed MP4/MOV file. creation_time: as the container has it, None when absent; codecs: of all its video."""

    path: Path
    channels: Sequence[Mp4Channel]
    creation_time: str | None
    codecs: tuple[str, ...]


def _time_base(stream: av.VideoStream, name: str) -> Fraction:
    if not stream.time_base:
        raise Unreadable(name, "its video has no time base")
    return Fraction(stream.time_base)


def _index(container: av.container.InputContainer, stream: av.VideoStream, name: str) -> FrameIndex:
    pts: list[int] = []
    key: list[bool] = []
    shown: list[bool] = []
    position: list[int] = []
    size: list[int] = []
    for packet in container.demux(stream):
        if packet.size == 0:  # the packet that flushes the decoder
            continue
        if packet.pts is None or packet.pos is None or packet.pos < 0:
            raise Unreadable(name, f"frame {len(pts)} has no time or no place in the file")
        if len(pts) and packet.has_sidedata("new_extradata"):
            raise Unreadable(name, f"the codec's parameters change at frame {len(pts)}")
        pts.append(packet.pts)
        key.append(packet.is_keyframe)
        shown.append(not packet.is_discard)
        position.append(packet.pos)
        size.append(packet.size)
    return FrameIndex(
        time_base=_time_base(stream, name),
        pts=np.array(pts, np.int64),
        key=np.array(key, np.bool_),
        shown=np.array(shown, np.bool_),
        position=np.array(position, np.int64),
        size=np.array(size, np.int64),
    )


def open_recording(path: Path) -> Mp4Recording:
    """Open and index a file; nothing stays open.

    channels is empty where the file has no video of H.264 or H.265 (`codecs` names what it has). Raises Unreadable when
    FFmpeg cannot read the container.
    """
    try:
        with av.open(str(path), format="mp4", options=OPEN_OPTIONS) as container:
            streams = [
                (stream, stream.codec_context.name if stream.codec_context else "unknown")
                for stream in container.streams.video
            ]
            channels = [
                Mp4Channel(
                    path=path,
                    codec=codec,
                    declared_frames=stream.frames,
                    time_base=_time_base(stream, path.name),
                    extradata=stream.codec_context.extradata,
                    index=_index(container, stream, path.name),
                    width=stream.codec_context.width,
                    height=stream.codec_context.height,
                )
                # the first one: a demuxer passes over the file once, and cameras write one
                for stream, codec in [pair for pair in streams if pair[1] in CODECS][:1]
            ]
            creation_time = container.metadata.get("creation_time")
    except (av.FFmpegError, ValueError) as error:
        raise Unreadable(path.name, f"FFmpeg cannot read it as MP4: {cause(error)}") from error
    return Mp4Recording(path, channels, creation_time, tuple(codec for _, codec in streams))
