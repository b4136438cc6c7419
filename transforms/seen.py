"""What is seen of each file of a drive before anything is decoded; rules judge it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from lake.landing import LandedFile
from transforms.errors import Unreadable
from transforms.recordings import FrameIndex
from transforms.recordings.boxes import Boxes, read_boxes
from transforms.recordings.mp4 import SUFFIXES, Mp4Recording, open_recording
from transforms.telemetry import Track, read_track
from transforms.times import EARLIEST_NS, LATEST_NS, SECOND, Int64, parse_moment, ticks_to_ns

# A recording of one file is far shorter; times beyond are damage, and would not fit the arithmetic.
LONGEST_SECONDS = 30 * 86_400


@dataclass(frozen=True)
class Seen:
    """One file of a drive. Fields are None while, or because, the step that gives them was not reached.

    fetch_problem: why it is not here as COMPLETE.json says, `missing` when it is not there at all; unreadable: why it
    cannot be opened or (a track) read; start_ns: the time of the recording's own zero; start_from: who says so;
    times_ns: of each frame of the index; undecodable: why a frame that was wanted gives no picture.
    """

    file: LandedFile
    role: Literal["recording", "track", "other"]
    channel: str
    path: Path | None = None
    missing: bool = False
    fetch_problem: str | None = None
    boxes: Boxes | None = None
    recording: Mp4Recording | None = None
    track: Track | None = None
    unreadable: str | None = None
    start_ns: int | None = None
    start_from: Literal["file", "drive", "container"] | None = None
    times_ns: Int64 | None = None
    undecodable: str | None = None

    @property
    def index(self) -> FrameIndex | None:
        """Of the recording's video, None where it has none."""
        return self.recording.channels[0].index if self.recording and self.recording.channels else None


def role_of(file: LandedFile) -> Literal["recording", "track", "other"]:
    """By the name: what is neither a recording nor a track is kept and not looked at."""
    name = PurePosixPath(file.path)
    if name.suffix.lower() in SUFFIXES:
        return "recording"
    if name.suffix.lower() == ".csv" and "GNSS" in (file.channel, name.stem.upper()):
        return "track"
    return "other"


def channel_of(file: LandedFile) -> str:
    """The channel that the uploader names, else the stem of the file's name."""
    return file.channel if file.channel is not None else PurePosixPath(file.path).stem


def unfetched(file: LandedFile, problem: str, missing: bool) -> Seen:
    """A file that could not be brought here."""
    return Seen(file, role_of(file), channel_of(file), missing=missing, fetch_problem=problem)


def _start(
    file: LandedFile, drive_start_ns: int | None, creation_time: str | None
) -> tuple[int | None, Literal["file", "drive", "container"] | None]:
    if file.start_ns is not None:
        return file.start_ns, "file"
    if drive_start_ns is not None:
        return drive_start_ns, "drive"
    made = parse_moment(creation_time) if creation_time else None
    return (None, None) if made is None else (made, "container")


def within_reach(index: FrameIndex) -> bool:
    """Whether all times of an index are within LONGEST_SECONDS of its zero."""
    if not len(index):
        return True
    furthest = max(abs(int(index.pts.min())), abs(int(index.pts.max())))
    return furthest * index.time_base <= LONGEST_SECONDS


def look(file: LandedFile, path: Path, drive_start_ns: int | None) -> Seen:
    """Open and index a fetched file, as far as it lets us. Raises nothing for bad files: that is for the rules."""
    role, channel = role_of(file), channel_of(file)
    if role == "other" or file.size == 0:
        return Seen(file, role, channel, path)
    if role == "track":
        try:
            return Seen(file, role, channel, path, track=read_track(path))
        except Unreadable as error:
            return Seen(file, role, channel, path, unreadable=error.why)
    boxes = read_boxes(path)
    if not boxes.is_mp4 or not boxes.has_header:
        return Seen(file, role, channel, path, boxes=boxes)
    try:
        recording = open_recording(path)
    except Unreadable as error:
        return Seen(file, role, channel, path, boxes=boxes, unreadable=error.why)
    start_ns, start_from = _start(file, drive_start_ns, recording.creation_time)
    seen = Seen(file, role, channel, path, boxes=boxes, recording=recording)
    times = None
    if start_ns is not None and EARLIEST_NS <= start_ns < LATEST_NS:
        index = seen.index
        if index is not None and within_reach(index):
            times = start_ns + ticks_to_ns(index.pts, index.time_base)
    return Seen(
        file,
        role,
        channel,
        path,
        boxes=boxes,
        recording=recording,
        start_ns=start_ns,
        start_from=start_from,
        times_ns=times,
    )


def shown_times(seen: Seen) -> Int64:
    """Times of the shown frames, ascending; empty where there are none, or no times."""
    if seen.index is None or seen.times_ns is None:
        return np.array([], np.int64)
    return np.sort(seen.times_ns[seen.index.shown])


def seconds_of(seen: Seen) -> float:
    """Length of the shown video in seconds, its last frame counted as long as the mean of the others."""
    times = shown_times(seen)
    if len(times) < 2:
        return 0.0
    return float(times[-1] - times[0]) / SECOND * len(times) / (len(times) - 1)
