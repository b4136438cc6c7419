"""Raw H.264 and H.265 byte streams (Annex B), as cameras and comma's recorders write them.

They have no container: pictures are found by their start codes, their order by their picture order counts, and their times
come from beside (a sidecar's rate or list of times) or from the rate in the stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from transforms.errors import Unreadable
from transforms.recordings import Calibration, FrameIndex, Orientation, Problem
from transforms.recordings.mp4 import new_decoder
from transforms.recordings.nal import KEYS, PARAMETERS, SLICES, START, extradata, kind_of
from transforms.recordings.order import Counter, NoOrder
from transforms.recordings.packets import new_packet
from transforms.recordings.source import Source, as_source
from transforms.signals import Signal
from transforms.telemetry import Track
from transforms.times import Int64

CODECS = {".h264": "h264", ".264": "h264", ".avc": "h264", ".h265": "hevc", ".265": "hevc", ".hevc": "hevc"}
BLOCK = 8 << 20
HEAD = 64
MAX_UNIT = 256 << 20
# a writer may put a few zeros between units (trailing_zero_8bits); more than these are a hole in the file
ZEROS = 32


def units(source: Source) -> Iterator[tuple[int, int, bytes]]:
    """(begin, end, first HEAD bytes; all of it for small units) of each NAL unit, in one pass of blocks."""
    at, data, read = 0, b"", 0
    begin: int | None = None
    while True:
        more = source.read(read, BLOCK)
        read += len(more)
        data += more
        while (found := data.find(START, max(0, (begin or 0) - at))) >= 0:
            if begin is not None:
                yield _unit(data, at, begin, at + found)
            begin = at + found + 3
        if not more:
            break
        # what is behind us goes, except for the unit that is open and a start code that two blocks share
        keep = begin if begin is not None else at + max(0, len(data) - 2)
        if at + len(data) - keep > MAX_UNIT:
            raise Unreadable(source.name, f"{MAX_UNIT} bytes from byte {keep} on hold no start code")
        data, at = data[keep - at :], keep
    if begin is not None and at + len(data) > begin:
        yield _unit(data, at, begin, at + len(data))


def _unit(data: bytes, at: int, begin: int, end: int) -> tuple[int, int, bytes]:
    return begin, end, data[begin - at : min(end, begin + 4096) - at]


@dataclass
class RawChannel:
    """The pictures of a raw stream."""

    source: Source
    codec: str
    index: FrameIndex
    extradata: bytes | None
    width: int = 0
    height: int = 0
    name: str | None = None
    start_ns: int | None = None
    log_times_ns: Int64 | None = None
    declared_frames: int = 0
    orientation: Orientation = field(default_factory=Orientation)

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
            yield new_packet(
                data, int(self.index.pts[frame]), self.index.time_base, bool(self.index.key[frame])
            )


@dataclass(frozen=True)
class RawRecording:
    """One raw stream. rate: pictures a second that the stream says, None where it does not."""

    channels: Sequence[RawChannel]
    codecs: tuple[str, ...]
    rate: Fraction | None
    problems: tuple[Problem, ...] = ()
    creation_time: str | None = None
    tracks: tuple[Track, ...] = ()
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    signals: Mapping[str, Signal] = field(default_factory=dict)


@dataclass
class _Pictures:
    """begins, ends: bytes; orders: (coded sequence, count)."""

    begins: list[int] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    orders: list[tuple[int, int]] = field(default_factory=list)
    parameters: dict[int, bytes] = field(default_factory=dict)
    end: int = 0
    lost: int = 0
    naked: int = 0
    empty: int = 0
    open_end: int | None = None


def _is_first_slice(codec: str, unit: bytes) -> bool:
    """first_mb_in_slice is 0, or first_slice_segment_in_pic_flag is 1: both are the first bit after the header."""
    place = 1 if codec == "h264" else 2
    return len(unit) > place and unit[place] >> 7 == 1


def _gather(source: Source, codec: str) -> _Pictures:
    found, counter = _Pictures(), Counter(codec)
    own: set[int] = set()  # parameter sets since the last picture
    pending: int | None = None  # where the next picture begins: at the first unit after the last slice
    for begin, end, unit in units(source):
        kind = kind_of(codec, unit[0])
        start = begin - 3
        if end - begin > ZEROS and source.read(end - ZEROS, ZEROS).count(0) == ZEROS:
            found.empty += 1
        if kind in SLICES[codec]:
            if _is_first_slice(codec, unit):
                _picture(found, counter, kind, unit, start if pending is None else pending, own)
                own = set()
            pending = None
            found.end = end
            continue
        pending = start if pending is None else pending
        if kind in PARAMETERS[codec]:
            counter.parameters(kind, unit)
            own.add(kind)
            found.parameters.setdefault(kind, unit)
    if pending is not None and own:
        found.open_end = pending
    return found


def _picture(found: _Pictures, counter: Counter, kind: int, unit: bytes, begin: int, own: set[int]) -> None:
    codec = counter.codec
    if not set(found.parameters) >= PARAMETERS[codec]:
        found.lost += 1
        return
    key = kind in KEYS[codec]
    found.naked += key and not own >= PARAMETERS[codec]
    found.begins.append(begin)
    found.keys.append(key)
    found.orders.append(counter.picture(kind, unit))


def open_recording(where: Path | Source, codec: str, rate: Fraction | None = None) -> RawRecording:
    """Index a raw stream. rate: pictures a second from beside it, which counts more than the stream's own.

    Without any rate pts are places in display order and the time base is one second; the recording's `rate` is None then.
    Raises Unreadable.
    """
    source = as_source(where)
    try:
        found = _gather(source, codec)
    except NoOrder as error:
        raise Unreadable(source.name, f"the order of its pictures cannot be told: {error}") from error
    if not found.begins:
        lost = f", {found.lost} come before any parameter sets" if found.lost else ""
        raise Unreadable(source.name, f"no picture of {codec} is in it{lost}")
    order = sorted(range(len(found.begins)), key=lambda place: found.orders[place])
    pts = np.empty(len(order), np.int64)
    pts[order] = np.arange(len(order))
    begins = np.array(found.begins, np.int64)
    index = FrameIndex(
        time_base=Fraction(1),
        pts=pts,
        key=np.array(found.keys, np.bool_),
        shown=np.ones(len(order), np.bool_),
        position=begins,
        size=np.diff(begins, append=found.end),
    )
    channel = RawChannel(source, codec, index, extradata(found.parameters))
    told = _look_inside(channel)
    rate = rate or told
    if rate is not None:
        channel.index = FrameIndex(1 / rate, pts, index.key, index.shown, index.position, index.size)
    return RawRecording([channel], (codec,), rate, tuple(_problems(found)))


def _problems(found: _Pictures) -> Iterator[Problem]:
    if found.lost:
        yield Problem(
            "parameters", f"{found.lost} pictures come before any parameter sets: they are left out"
        )
    if found.naked:
        yield Problem("parameters", f"{found.naked} key frames hold no parameter sets of their own")
    if found.open_end is not None:
        yield Problem(
            "partial", f"it ends after the parameter sets at byte {found.open_end}, before their picture"
        )
    if found.empty:
        yield Problem("lost", f"{found.empty} of its units end in {ZEROS} zeros or more")
    if lost := _missing(found.orders):
        yield Problem("lost", f"by their order counts {lost} pictures are not there")


def _missing(orders: Sequence[tuple[int, int]]) -> int:
    """Pictures between others of their coded sequence, by the step that its counts have; and counts that stand twice."""
    lost = len(orders) - len(set(orders))
    for _, of_sequence in groupby(sorted(set(orders)), key=lambda order: order[0]):
        steps = [after[1] - before[1] for before, after in pairwise(of_sequence)]
        if steps:
            lost += sum(step // min(steps) - 1 for step in steps)
    return lost


def _look_inside(channel: RawChannel) -> Fraction | None:
    """Decode the first key frame: the size of the pictures, and the rate that the stream says."""
    places = np.flatnonzero(channel.index.key)[:1].tolist()
    decoder = channel.decoder(threads=1)
    try:
        for packet in [*channel.packets(places), None]:
            for frame in decoder.decode(packet):
                channel.width, channel.height = frame.width, frame.height
    except (av.FFmpegError, ValueError):
        return None  # cutting will tell
    rate = decoder.framerate
    return Fraction(rate) if rate and 1 <= rate <= 1000 else None
