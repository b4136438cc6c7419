"""MP4 and MOV files with H.264 or H.265, read through FFmpeg's demuxer.

The index comes from one pass over the packets (no decoding): that gives each frame's presentation time after edit
lists, which frames an edit list hides, and proves that every declared frame can be read. Decoders are fed by byte
position, so nothing depends on seeking, which edit lists and negative times make unreliable.

A file that was cut off after its tables (or between fragments) gives the frames that are whole, and says so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType

from transforms.errors import Unreadable
from transforms.recordings import MAX_PIXELS, Calibration, FrameIndex, Orientation, Problem, gpmf
from transforms.recordings.packets import new_packet
from transforms.recordings.source import FileSource, Source, as_file, as_source
from transforms.signals import Samples, Signal
from transforms.telemetry import Track
from transforms.times import Int64

# a payload of GPMF has about a second, a few kB
LARGEST_PAYLOAD, MOST_PAYLOADS = 1 << 20, 200_000
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


def new_decoder(codec: str, extradata: bytes | None, threads: int) -> av.VideoCodecContext:
    """A decoder that refuses damage and pictures that are too large."""
    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, av.VideoCodecContext)
    context.extradata = extradata
    context.thread_count = threads
    context.thread_type = "AUTO" if threads > 1 else "NONE"
    # explode: a damaged picture is an error, never a picture with grey where the bytes were bad
    context.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
    return context


@contextmanager
def _opened(source: Source) -> Iterator[av.container.InputContainer]:
    if isinstance(source, FileSource):
        with av.open(str(source.path), mode="r", format="mp4", options=OPEN_OPTIONS) as container:
            yield container
    else:
        with (
            as_file(source) as file,
            av.open(file, mode="r", format="mp4", options=OPEN_OPTIONS) as container,
        ):
            yield container


@dataclass
class Mp4Channel:
    """The first video stream of a file."""

    source: Source
    codec: str
    declared_frames: int
    time_base: Fraction
    extradata: bytes | None
    index: FrameIndex
    width: int
    height: int

    name: str | None = None
    start_ns: int | None = None
    log_times_ns: Int64 | None = None

    def decoder(self, threads: int) -> av.VideoCodecContext:
        return new_decoder(self.codec, self.extradata, threads)

    def packets(self, frames: Sequence[int]) -> Iterator[av.Packet[Any]]:
        for frame in frames:
            size = int(self.index.size[frame])
            data = self.source.read(int(self.index.position[frame]), size)
            if len(data) != size:
                raise Unreadable(
                    self.source.name, f"frame {frame} should have {size} bytes, {len(data)} are there"
                )
            yield new_packet(data, int(self.index.pts[frame]), self.time_base, bool(self.index.key[frame]))

    @cached_property
    def orientation(self) -> Orientation:
        """From the first frame that decodes; the container's own decoder carries the display matrix."""
        try:
            with _opened(self.source) as container:
                container.streams.video[0].codec_context.options = {"max_pixels": str(MAX_PIXELS)}
                for frame in container.decode(video=0):
                    return _orientation(frame)
        except (av.FFmpegError, ValueError) as error:
            raise Unreadable(self.source.name, f"no frame decodes: {cause(error)}") from error
        raise Unreadable(self.source.name, "no frame decodes")


@dataclass
class Mp4Recording:
    """An indexed MP4/MOV file. creation_time: as the container has it, None when absent; codecs: of all its video.

    relative_track, relative_signals: positions and motion of its own data track (GPMF), at times from the zero of its video.
    """

    channels: Sequence[Mp4Channel]
    creation_time: str | None
    codecs: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    tracks: tuple[Track, ...] = ()
    relative_track: Track | None = None
    relative_signals: Mapping[str, Samples] = field(default_factory=dict)
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    signals: Mapping[str, Signal] = field(default_factory=dict)


def _time_base(stream: av.VideoStream, name: str) -> Fraction:
    if not stream.time_base:
        raise Unreadable(name, "its video has no time base")
    return Fraction(stream.time_base)


def _index(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    name: str,
    end: int,
    payloads: list[tuple[int, int, bytes]],
) -> tuple[FrameIndex, int | None]:
    """The whole frames, and the first one that the end of the file cuts off. payloads: gets those of GPMF tracks."""
    pts: list[int] = []
    key: list[bool] = []
    shown: list[bool] = []
    position: list[int] = []
    size: list[int] = []
    cut: int | None = None
    packets = container.demux([stream, *container.streams.data])
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            if not pts:
                raise
            cut = len(pts)
            break
        if packet is None:
            break
        if packet.stream is not stream:
            _take_payload(packet, payloads)
            continue
        if packet.size == 0:  # the packet that flushes the decoder
            continue
        if packet.pts is None or packet.pos is None or packet.pos < 0:
            raise Unreadable(name, f"frame {len(pts)} has no time or no place in the file")
        if packet.is_corrupt or packet.pos + packet.size > end:
            cut = len(pts)
            break
        if len(pts) and packet.has_sidedata("new_extradata"):
            raise Unreadable(name, f"the codec's parameters change at frame {len(pts)}")
        pts.append(packet.pts)
        key.append(packet.is_keyframe)
        shown.append(not packet.is_discard)
        position.append(packet.pos)
        size.append(packet.size)
    index = FrameIndex(
        time_base=_time_base(stream, name),
        pts=np.array(pts, np.int64),
        key=np.array(key, np.bool_),
        shown=np.array(shown, np.bool_),
        position=np.array(position, np.int64),
        size=np.array(size, np.int64),
    )
    return index, cut


def _take_payload(packet: av.Packet[Any], payloads: list[tuple[int, int, bytes]]) -> None:
    """Of a data track; those that are not GPMF (timecodes, say) begin otherwise."""
    if packet.size > LARGEST_PAYLOAD or packet.pts is None or not packet.time_base or packet.is_corrupt:
        return
    data = bytes(packet)
    if data.startswith(b"DEVC") and len(payloads) < MOST_PAYLOADS:
        tick = packet.time_base * 1_000_000_000
        payloads.append((int(packet.pts * tick), int((packet.duration or 0) * tick), data))


def open_recording(where: Path | Source) -> Mp4Recording:
    """Open and index a file; nothing stays open.

    channels is empty where the file has no video of H.264 or H.265 (`codecs` names what it has). Raises Unreadable when
    FFmpeg cannot read the container.
    """
    source = as_source(where)
    channels = []
    payloads: list[tuple[int, int, bytes]] = []
    cut: int | None = None
    try:
        with _opened(source) as container:
            streams = [
                (stream, stream.codec_context.name if stream.codec_context else "unknown")
                for stream in container.streams.video
            ]
            # the first one: a demuxer passes over the file once, and cameras write one
            for stream, codec in [pair for pair in streams if pair[1] in CODECS][:1]:
                index, cut = _index(container, stream, source.name, source.size, payloads)
                channels.append(
                    Mp4Channel(
                        source=source,
                        codec=codec,
                        declared_frames=stream.frames,
                        time_base=_time_base(stream, source.name),
                        extradata=stream.codec_context.extradata,
                        index=index,
                        width=stream.codec_context.width,
                        height=stream.codec_context.height,
                    )
                )
            creation_time = container.metadata.get("creation_time")
    except (av.FFmpegError, ValueError) as error:
        raise Unreadable(source.name, f"FFmpeg cannot read it as MP4: {cause(error)}") from error
    problems: tuple[Problem, ...] = ()
    if cut is not None:
        declared = channels[0].declared_frames
        of = f" of {declared}" if declared else ""
        problems = (Problem("partial", f"its data ends in frame {cut}{of}, {cut} whole frames are taken"),)
    return Mp4Recording(
        channels,
        creation_time,
        tuple(codec for _, codec in streams),
        problems,
        relative_track=gpmf.track_of(sorted(payloads)),
        relative_signals=gpmf.signals_of(sorted(payloads)),
    )
