"""Folders of pictures with their times in their names, or in their EXIF: each folder is a channel.

nuScenes: `samples/CAM_FRONT/n015-2018-07-24-11-22-45+0800__CAM_FRONT__1532402927612460.jpg` (microseconds), key frames in
`samples`, the rest in `sweeps`. Argoverse 2: `sensors/cameras/ring_front_center/315966253572412942.jpg` (nanoseconds).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import av
import numpy as np

from transforms.errors import Unreadable
from transforms.recordings import Calibration, FrameIndex, Orientation, Problem
from transforms.recordings.mp4 import new_decoder
from transforms.recordings.packets import new_packet
from transforms.recordings.source import Source
from transforms.recordings.stills import BadStill, Exif, read_exif, read_still
from transforms.signals import Signal
from transforms.telemetry import Track
from transforms.times import EARLIEST_NS, LATEST_NS, SECOND, Int64, parse_moment

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MAX_BYTES = 256 << 20
NANOSECONDS = Fraction(1, SECOND)
# how many digits a time of this century has in each unit, and ns per unit; Argoverse's ns have 18
UNITS = {
    **dict.fromkeys((17, 18, 19), 1),
    **dict.fromkeys((14, 15, 16), 1000),
    **dict.fromkeys((12, 13), 1_000_000),
}
NUSCENES = re.compile(r".+__(?P<channel>[A-Za-z0-9_+.=-]+)__(?P<time>\d{14,16})")
DIGITS = re.compile(r"\d{12,19}")


def name_time(path: str) -> int | None:
    """ns from the name of a picture; None where it has no time."""
    stem = PurePosixPath(path).stem
    found = NUSCENES.fullmatch(stem)
    digits = found["time"] if found else stem
    if not DIGITS.fullmatch(digits):
        return None
    return int(digits) * UNITS[len(digits)]


def name_channel(path: str) -> str | None:
    """The channel that a picture's name or folder says; None where it lies in no folder."""
    found = NUSCENES.fullmatch(PurePosixPath(path).stem)
    if found:
        return found["channel"]
    return PurePosixPath(path).parent.name or None


def _rational(value: object) -> float:
    """Pillow gives EXIF's fractions as a type of its own, which prints as a decimal."""
    return float(str(value))


def exif_time(exif: Exif) -> int | None:
    """ns from GPS time (UTC), else from the camera's own clock, taken as UTC where it names no zone."""
    try:
        hours, minutes, seconds = (_rational(part) for part in exif.gps[7])  # type: ignore[attr-defined]
        day = parse_moment(str(exif.gps[29]).replace(":", "-").strip("\0 ") + "T00:00:00Z")
        if day is not None:
            # times of day have milliseconds at best: whole microseconds, so that floats cannot be seen
            return day + round((hours * 3600 + minutes * 60 + seconds) * 1e6) * 1000
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        pass
    if exif.date is None:
        return None
    date, _, clock = exif.date.partition(" ")
    fraction = exif.fraction if exif.fraction and exif.fraction.isdigit() else "0"
    return parse_moment(f"{date.replace(':', '-')}T{clock}.{fraction[:6].ljust(6, '0')}{exif.offset or 'Z'}")


def exif_place(exif: Exif) -> tuple[float, float] | None:
    """Latitude and longitude in degrees."""
    try:
        found = []
        for number, negative in ((2, "S"), (4, "W")):
            degrees, minutes, seconds = (_rational(part) for part in exif.gps[number])  # type: ignore[attr-defined]
            value = degrees + minutes / 60 + seconds / 3600
            found.append(-value if str(exif.gps[number - 1]).strip("\0 ") == negative else value)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (found[0], found[1]) if abs(found[0]) <= 90 and abs(found[1]) <= 180 else None


@dataclass
class FolderChannel:
    """The pictures of one channel in order of time. sources: one a frame."""

    name: str
    sources: Sequence[Source]
    codec: str
    index: FrameIndex
    width: int
    height: int
    start_ns: int | None
    orientation: Orientation
    log_times_ns: Int64 | None = None
    declared_frames: int = 0

    def decoder(self, threads: int) -> av.VideoCodecContext:
        return new_decoder(self.codec, None, threads)

    def packets(self, frames: Sequence[int]) -> Iterator[av.Packet[Any]]:
        for frame in frames:
            source = self.sources[frame]
            data = source.read(0, source.size)
            if len(data) != source.size:
                raise Unreadable(source.name, f"it should have {source.size} bytes, {len(data)} are there")
            yield new_packet(data, int(self.index.pts[frame]), NANOSECONDS, True)


@dataclass(frozen=True)
class FolderRecording:
    """One channel of pictures. clock: what says when they were taken."""

    channels: Sequence[FolderChannel]
    codecs: tuple[str, ...]
    clock: str
    problems: tuple[Problem, ...] = ()
    tracks: tuple[Track, ...] = ()
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    signals: Mapping[str, Signal] = field(default_factory=dict)
    creation_time: str | None = None


@dataclass
class _Taken:
    source: Source
    at_ns: int
    width: int
    height: int
    codec: str
    place: tuple[float, float] | None
    orientation: Orientation


def _take(source: Source, path: str) -> tuple[_Taken, str]:
    """Raises BadStill."""
    if source.size > MAX_BYTES:
        raise BadStill(f"it has {source.size} bytes")
    data = source.read(0, source.size)
    still = read_still(data)
    exif = read_exif(data)
    told, clock = name_time(path), "name"
    if told is None:
        told, clock = exif_time(exif), "exif"
    if told is None:
        raise BadStill("neither its name nor its EXIF says when it was taken")
    return _Taken(
        source, told, still.width, still.height, still.codec, exif_place(exif), exif.orientation
    ), clock


def open_folder(name: str, files: Sequence[tuple[str, Source]]) -> FolderRecording:
    """files: (path in the drive, source) of one channel's pictures. Raises Unreadable when none can be taken.

    Those that are broken, of another kind than most, or of a time that another has, are left out and told.
    """
    taken: list[_Taken] = []
    clocks: set[str] = set()
    problems: list[Problem] = []
    broken: list[str] = []
    for path, source in files:
        try:
            one, clock = _take(source, path)
        except BadStill as error:
            broken.append(f"{path}: {error}")
            continue
        taken.append(one)
        clocks.add(clock)
    if not taken:
        raise Unreadable(name, f"of its {len(files)} pictures none can be taken, the first: {broken[0]}")
    codec = taken[0].codec
    if others := [one for one in taken if one.codec != codec]:
        broken += [f"{one.source.name}: it is {one.codec}, the first one is {codec}" for one in others]
        taken = [one for one in taken if one.codec == codec]
    if broken:
        problems.append(
            Problem("message", f"{len(broken)} pictures cannot be taken, the first: {broken[0]}", name)
        )
    taken.sort(key=lambda one: (one.at_ns, one.source.name))
    times = np.array([one.at_ns for one in taken], np.int64)
    shown = np.concatenate([[True], np.diff(times) > 0])
    if hidden := int(np.count_nonzero(~shown)):
        problems.append(
            Problem("repeated", f"{hidden} of {len(taken)} frames repeat the stamp of another", name)
        )
    sizes = {(one.width, one.height) for one in taken}
    if len(sizes) > 1:
        problems.append(Problem("resized", f"its pictures have {len(sizes)} sizes", name))
    index = FrameIndex(
        time_base=NANOSECONDS,
        pts=times - times[0],
        key=np.ones(len(times), np.bool_),
        shown=shown,
        position=np.zeros(len(times), np.int64),
        size=np.array([one.source.size for one in taken], np.int64),
    )
    first = taken[0]
    channel = FolderChannel(
        name,
        [one.source for one in taken],
        codec,
        index,
        first.width,
        first.height,
        int(times[0]),
        first.orientation,
    )
    clock = "exif" if "exif" in clocks else "name"
    return FolderRecording([channel], (codec,), clock, tuple(problems), _tracks(taken))


def _tracks(taken: Sequence[_Taken]) -> tuple[Track, ...]:
    places = {
        one.at_ns: one.place
        for one in taken
        if one.place is not None and EARLIEST_NS <= one.at_ns < LATEST_NS
    }
    if not places:
        return ()
    times = np.array(sorted(places), np.int64)
    found = np.array([places[at] for at in times.tolist()], np.float64)
    return (Track(times, found[:, 0], found[:, 1], np.full(len(times), np.nan)),)
