"""Channels made of messages: pictures and video in logs, one picture a message, with the positions and calibrations beside them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np

from transforms.errors import Unreadable
from transforms.recordings import MAX_PIXELS, FrameIndex, Orientation, Problem
from transforms.recordings.log import MAX_CHUNK, Log, Topic
from transforms.recordings.mp4 import new_decoder
from transforms.recordings.nal import PARAMETERS, extradata, read_unit
from transforms.recordings.packets import new_packet
from transforms.recordings.payloads import Malformed, Shot, reader_of
from transforms.recordings.stills import codec_of, read_still
from transforms.recordings.unpack import BadPacking, unpack_payload
from transforms.times import EARLIEST_NS, LATEST_NS, SECOND, Int64

NANOSECONDS = Fraction(1, SECOND)
# encodings of sensor_msgs/Image (sensor_msgs/image_encodings.hpp) and foxglove.RawImage: FFmpeg's name, bytes per pixel.
# Depth (16UC1, 32FC1) is no picture.
RAW = {
    "rgb8": ("rgb24", 3),
    "bgr8": ("bgr24", 3),
    "8UC3": ("bgr24", 3),
    "rgba8": ("rgba", 4),
    "bgra8": ("bgra", 4),
    "mono8": ("gray", 1),
    "8UC1": ("gray", 1),
    "mono16": ("gray16le", 2),
    "bayer_rggb8": ("bayer_rggb8", 1),
    "bayer_bggr8": ("bayer_bggr8", 1),
    "bayer_gbrg8": ("bayer_gbrg8", 1),
    "bayer_grbg8": ("bayer_grbg8", 1),
    "yuv422": ("uyvy422", 2),
    "uyvy": ("uyvy422", 2),
    "yuv422_yuy2": ("yuyv422", 2),
    "yuyv": ("yuyv422", 2),
}


@dataclass(frozen=True)
class _Raw:
    """How raw pixels lie in the messages of a channel. Each message must be so."""

    encoding: str
    width: int
    height: int
    big_endian: bool


@dataclass
class MessageChannel:
    """One topic's pictures. parts, chunks, offsets: the place of each message, for the log that has it."""

    name: str
    topic: Topic
    codec: str
    index: FrameIndex
    width: int
    height: int
    start_ns: int | None
    log_times_ns: Int64
    logs: Sequence[Log]
    parts: Int64
    chunks: Int64
    offsets: Int64
    raw: _Raw | None = None
    extradata: bytes | None = None
    orientation: Orientation = field(default_factory=Orientation)
    declared_frames: int = 0

    def decoder(self, threads: int) -> av.VideoCodecContext:
        context = new_decoder(self.codec, self.extradata, threads)
        if self.raw is not None:
            name = RAW[self.raw.encoding][0]
            # swscale makes limited range of a mosaic whatever it is asked for, so `packets` gives RGB
            name = "rgb24" if name.startswith("bayer") else name
            context.width, context.height = self.raw.width, self.raw.height
            context.pix_fmt = (
                name.replace("le", "be") if self.raw.big_endian and name.endswith("le") else name
            )
        return context

    def packets(self, frames: Sequence[int]) -> Iterator[av.Packet[Any]]:
        read = reader_of(self.topic)
        assert read is not None
        for frame in frames:
            size = int(self.index.size[frame])
            log = self.logs[int(self.parts[frame])]
            data = log.payload(int(self.chunks[frame]), int(self.offsets[frame]), size)
            try:
                shot = read(memoryview(unpack_payload(memoryview(data), MAX_CHUNK)))
                assert isinstance(shot, Shot)
                seen = _pixels(shot) if self.raw else bytes(shot.data)
            except (Malformed, BadPacking) as error:
                raise Unreadable(self.name, f"frame {frame}: {error}") from error
            yield new_packet(
                seen, int(self.index.pts[frame]), self.index.time_base, bool(self.index.key[frame])
            )


def _pixels(shot: Shot) -> bytes:
    """Rows without padding. Raises Malformed."""
    row = shot.width * RAW[shot.encoding or ""][1]
    if shot.step < row or len(shot.data) < shot.step * (shot.height - 1) + row:
        raise Malformed(
            f"{shot.width}x{shot.height} {shot.encoding} in {len(shot.data)} bytes, rows of {shot.step}"
        )
    name = RAW[shot.encoding or ""][0]
    if shot.step == row and not name.startswith("bayer"):
        return bytes(shot.data[: row * shot.height])
    padded = bytes(shot.data).ljust(shot.step * shot.height, b"\0")[: shot.step * shot.height]
    rows = np.frombuffer(padded, np.uint8).reshape(shot.height, shot.step)[:, :row]
    if name.startswith("bayer"):
        mosaic = av.VideoFrame.from_ndarray(np.ascontiguousarray(rows), format=name)
        return mosaic.reformat(format="rgb24").to_ndarray().tobytes()
    return rows.tobytes()


@dataclass
class Gathering:
    """What is gathered of one topic of pictures."""

    topic: Topic
    codec: str | None = None
    raw: _Raw | None = None
    frame_id: str = ""
    size: tuple[int, int] = (0, 0)
    stamps: array[int] = field(default_factory=lambda: array("q"))
    logged: array[int] = field(default_factory=lambda: array("q"))
    parts: array[int] = field(default_factory=lambda: array("q"))
    chunks: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    keys: bytearray = field(default_factory=bytearray)
    parameters: dict[int, bytes] = field(default_factory=dict)
    naked: int = 0
    b_frames: int = 0
    bad: int = 0
    resized: int = 0
    first_bad: str = ""

    def take(self, shot: Shot) -> bool:
        """Look at one picture; whether it is a key frame. Raises Malformed, BadStill for one that is none."""
        self.frame_id = self.frame_id or shot.frame_id
        if shot.encoding is not None:
            self._take_raw(shot)
            return True
        codec = codec_of(shot.data) or _video_codec(shot.format)
        if self.codec is None:
            self.codec = codec
        if codec is None or codec != self.codec:
            kind = bytes(shot.data[:4]).hex()
            raise Malformed(f"its format is {shot.format[:40]!r}, it begins with {kind}")
        if codec in PARAMETERS:
            return self._take_video(codec, shot.data)
        self._sized((still := read_still(shot.data)).width, still.height)
        return True

    def _sized(self, width: int, height: int) -> None:
        if self.size == (0, 0):
            self.size = (width, height)
        self.resized += self.size != (width, height)

    def _take_raw(self, shot: Shot) -> None:
        if shot.encoding not in RAW:
            raise Malformed(f"its encoding is {(shot.encoding or '')[:40]!r}, which is no picture")
        raw = _Raw(shot.encoding, shot.width, shot.height, shot.big_endian)
        if not 0 < raw.width * raw.height <= MAX_PIXELS:
            raise Malformed(f"it says that it has {raw.width}x{raw.height} pixels")
        if raw.encoding.startswith("bayer") and (raw.width % 2 or raw.height % 2):
            raise Malformed(f"a mosaic of {raw.width}x{raw.height} is not whole")
        if self.raw is None:
            self.raw, self.codec, self.size = raw, "rawvideo", (raw.width, raw.height)
        if raw != self.raw:
            raise Malformed(f"it is {raw.width}x{raw.height} {raw.encoding}, the first one was not")
        row = shot.width * RAW[shot.encoding][1]
        if shot.step < row or len(shot.data) < shot.step * (shot.height - 1) + row:
            raise Malformed(f"{shot.width}x{shot.height} {shot.encoding} in {len(shot.data)} bytes")

    def _take_video(self, codec: str, data: bytes | memoryview) -> bool:
        unit = read_unit(codec, data)
        if not unit.slices:
            raise Malformed("it holds no picture")
        self.b_frames += unit.b_slices
        whole = set(unit.parameters) >= PARAMETERS[codec]
        if whole and not self.parameters:
            self.parameters = unit.parameters
        if unit.key and not whole:
            self.naked += 1
        # a key frame of which the parameters are not known yet cannot be decoded
        return unit.key and bool(self.parameters)


def _video_codec(told: str) -> str | None:
    name = told.lower()
    if any(word in name for word in ("h264", "avc")):
        return "h264"
    return "hevc" if any(word in name for word in ("h265", "hevc")) else None


def _usable(times: Int64) -> bool:
    return bool(len(times)) and int(times.min()) >= EARLIEST_NS and int(times.max()) < LATEST_NS


def _clock(gathered: Gathering, name: str) -> tuple[Int64, list[Problem]]:
    """Times of the frames, and what is wrong with them."""
    stamps, logged = np.array(gathered.stamps, np.int64), np.array(gathered.logged, np.int64)
    if _usable(stamps):
        return stamps, []
    told = f"its stamps run from {int(stamps.min())} to {int(stamps.max())} ns"
    if _usable(logged):
        told += ": no clock that was set wrote them, so the times of writing are taken"
        return logged, [Problem("clock", told, name)]
    return stamps, [Problem("clock", told + ": no clock that was set wrote them", name)]


def make_channel(gathered: Gathering, name: str, logs: Sequence[Log]) -> tuple[MessageChannel, list[Problem]]:
    times, problems = _clock(gathered, name)
    base = int(times.min())
    # of frames with one stamp the first counts
    _, first = np.unique(times, return_index=True)
    shown = np.zeros(len(times), np.bool_)
    shown[first] = True
    if hidden := len(times) - len(first):
        problems.append(
            Problem("repeated", f"{hidden} of {len(times)} frames repeat the stamp of another", name)
        )
    if gathered.naked:
        keys = f"{gathered.naked} key frames hold no parameter sets"
        problems.append(
            Problem("parameters", f"{keys}: decoding cannot begin there without the ones before", name)
        )
    if gathered.b_frames:
        problems.append(Problem("b-frames", f"{gathered.b_frames} frames have B slices", name))
    if gathered.resized:
        wide, high = gathered.size
        problems.append(
            Problem("resized", f"{gathered.resized} frames are not {wide}x{high} as the first", name)
        )
    index = FrameIndex(
        time_base=NANOSECONDS,
        pts=times - base,
        key=np.frombuffer(bytes(gathered.keys), np.bool_).copy(),
        shown=shown,
        position=np.array(gathered.chunks, np.int64),
        size=np.array(gathered.sizes, np.int64),
    )
    channel = MessageChannel(
        name=name,
        topic=gathered.topic,
        codec=gathered.codec or "",
        index=index,
        width=gathered.size[0],
        height=gathered.size[1],
        start_ns=base,
        log_times_ns=np.array(gathered.logged, np.int64),
        logs=logs,
        parts=np.array(gathered.parts, np.int64),
        chunks=np.array(gathered.chunks, np.int64),
        offsets=np.array(gathered.offsets, np.int64),
        raw=gathered.raw,
        extradata=extradata(gathered.parameters) if gathered.parameters else None,
    )
    if channel.codec in PARAMETERS:
        channel.width, channel.height = _video_size(channel)
    return channel, problems


def _video_size(channel: MessageChannel) -> tuple[int, int]:
    """Of the first key frame; (0, 0) where it does not decode, which cutting will tell."""
    places = np.flatnonzero(channel.index.key)[:1].tolist()
    try:
        decoder = channel.decoder(threads=1)
        for packet in [*channel.packets(places), None]:
            for frame in decoder.decode(packet):
                return frame.width, frame.height
    except (av.FFmpegError, ValueError, Unreadable):
        return 0, 0
    return 0, 0
