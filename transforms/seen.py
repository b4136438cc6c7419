"""What is seen of each file of a drive before anything is decoded; rules judge it.

A file may hold several channels (a log), and a channel may need several files (the parts of a split log, the pictures of a
folder). Each channel becomes one Seen, with the first of its files; the others are of the role "part".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt

from lake.landing import LandedFile
from transforms import signals, telemetry
from transforms.errors import Unreadable
from transforms.recordings import Calibration, Channel, FrameIndex, Problem, Recording
from transforms.recordings.annexb import RawRecording
from transforms.recordings.boxes import Boxes, read_boxes
from transforms.recordings.folder import FolderRecording, name_channel, name_time
from transforms.recordings.formats import LOGS, Format, format_of, open_group, plain_stem, split_of
from transforms.recordings.mp4 import Mp4Recording
from transforms.recordings.source import Source, as_source
from transforms.signals import Signal
from transforms.telemetry import Track
from transforms.times import EARLIEST_NS, LATEST_NS, SECOND, Int64, parse_moment, ticks_to_ns

# A recording of one file is far shorter; times beyond are damage, and would not fit the arithmetic.
LONGEST_SECONDS = 30 * 86_400

# a CSV or JSON of this name, or channel, holds signals of the vehicle
SIGNAL_FILES = frozenset({"SIGNALS", "CAN"})

Role = Literal["recording", "track", "signals", "sidecar", "part", "other"]
Clock = Literal["file", "drive", "container", "recording", "sidecar", "exif", "name"]


@dataclass(frozen=True)
class Sidecar:
    """What `<stem>.json` beside a recording says of it; each None where it says nothing.

    times_ns: of each shown frame, in order of presentation; fps: frames a second of raw video.
    """

    start_ns: int | None = None
    times_ns: Int64 | None = None
    fps: Fraction | None = None
    track: Track | None = None


@dataclass(frozen=True)
class Looks:
    """What was measured of cut pictures. places: in the index, ascending; measured: of each, by transforms.tags.picture."""

    places: Int64
    measured: dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Seen:
    """One file of a drive. Fields are None while, or because, the step that gives them was not reached.

    path: where it lies on this machine, if it does; source: its bytes, here or in the store.
    fetch_problem: why it is not here as COMPLETE.json says, `missing` when it is not there at all; unreadable: why it
    cannot be opened or (a track) read; number: of the channel in the recording that this one is about; start_ns: the time
    of the recording's own zero; start_from: who says so; times_ns: of each frame of the index; undecodable: why a frame
    that was wanted gives no picture; looks: of the pictures that were cut.
    """

    file: LandedFile
    role: Role
    channel: str
    path: Path | None = None
    source: Source | None = None
    missing: bool = False
    fetch_problem: str | None = None
    format: Format | None = None
    boxes: Boxes | None = None
    recording: Recording | None = None
    number: int = 0
    track: Track | None = None
    signals: Mapping[str, Signal] = field(default_factory=dict)
    unreadable: str | None = None
    sidecar_problem: str | None = None
    start_ns: int | None = None
    start_from: Clock | None = None
    times_ns: Int64 | None = None
    undecodable: str | None = None
    looks: Looks | None = None

    @property
    def stream(self) -> Channel | None:
        """The channel of the recording that is cut; None where it has none."""
        channels = self.recording.channels if self.recording else ()
        return channels[self.number] if self.number < len(channels) else None

    @property
    def index(self) -> FrameIndex | None:
        """Of the stream, None where there is none."""
        return self.stream.index if self.stream else None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Of this channel; those of the recording as a whole are told with its first."""
        if self.recording is None:
            return ()
        name = self.stream.name if self.stream else None
        return tuple(
            p for p in self.recording.problems if (p.channel == name if p.channel else self.number == 0)
        )

    @property
    def calibration(self) -> Calibration | None:
        """Of the stream's camera."""
        name = self.stream.name if self.stream else None
        return self.recording.calibrations.get(name) if self.recording and name else None


def role_of(file: LandedFile) -> Role:
    """By the name: what is neither a recording nor a track is kept and not looked at."""
    if format_of(file.path) is not None:
        return "recording"
    name = PurePosixPath(file.path)
    kind, stem = name.suffix.lower(), name.stem.upper()
    if kind == ".gpx" or (
        kind in (".csv", ".json") and ("GNSS" in (file.channel, stem) or "GPS" in (file.channel, stem))
    ):
        return "track"
    if kind in (".csv", ".json") and SIGNAL_FILES & {file.channel, stem}:
        return "signals"
    return "other"


def channel_of(file: LandedFile) -> str:
    """The channel that the uploader names, else the stem of the file's name."""
    if format_of(file.path) == "pictures" and file.channel in (None, PurePosixPath(file.path).stem):
        # an uploader that names no channels gives each file's stem, and a picture's stem is its time
        return name_channel(file.path) or "camera"
    return file.channel if file.channel is not None else PurePosixPath(plain_stem(file.path)).name


def unfetched(file: LandedFile, problem: str, missing: bool) -> Seen:
    """A file that could not be brought here."""
    return Seen(file, role_of(file), channel_of(file), missing=missing, fetch_problem=problem)


def fetched(file: LandedFile, where: Path | Source) -> Seen:
    """A file that was checked and not opened yet: on this machine, or left in the store."""
    path = where if isinstance(where, Path) else None
    source = as_source(where, PurePosixPath(file.path).name)
    return Seen(file, role_of(file), channel_of(file), path, source, format=format_of(file.path))


def within_reach(index: FrameIndex) -> bool:
    """Whether all times of an index are within LONGEST_SECONDS of its zero."""
    if not len(index):
        return True
    furthest = max(abs(int(index.pts.min())), abs(int(index.pts.max())))
    return furthest * index.time_base <= LONGEST_SECONDS


def is_set(at_ns: int | None) -> bool:
    """Whether a clock that was set can have said this."""
    return at_ns is not None and EARLIEST_NS <= at_ns < LATEST_NS


def look(file: LandedFile, path: Path, drive_start_ns: int | None) -> Seen:
    """Open and index one fetched file, as far as it lets us."""
    return look_all([fetched(file, path)], drive_start_ns)[0]


def look_all(drive: Sequence[Seen], drive_start_ns: int | None) -> list[Seen]:
    """Open and index all files of a drive, as far as they let us; the channels of a log follow its first.

    Raises nothing for bad files: that is for the rules.
    """
    sidecars = _sidecars(drive)
    found: list[Seen] = []
    for group in _groups(drive):
        first = group[0]
        if first.role != "recording" or first.source is None or first.file.size == 0:
            found += [_plain(seen, sidecars) for seen in group]
            continue
        found += _open(group, sidecars.get(plain_stem(first.file.path)), drive_start_ns)
    return _with_common_zero(found, drive_start_ns)


def _plain(seen: Seen, sidecars: dict[str, Seen]) -> Seen:
    """Files that stand for themselves: tracks and sidecars are read, others left alone."""
    if seen.path is None or seen.file.size == 0:
        return seen
    if seen.role == "track":
        try:
            kind = PurePosixPath(seen.file.path).suffix.lower()
            track = telemetry.read_track(seen.path, kind, PurePosixPath(seen.file.path).name)
            return dataclasses.replace(seen, track=track)
        except Unreadable as error:
            return dataclasses.replace(seen, unreadable=error.why)
    if seen.role == "signals":
        try:
            kind = PurePosixPath(seen.file.path).suffix.lower()
            found = signals.read_signals(seen.path, kind, PurePosixPath(seen.file.path).name)
            return dataclasses.replace(seen, signals=found)
        except Unreadable as error:
            return dataclasses.replace(seen, unreadable=error.why)
    beside = seen.role == "other" and sidecars.get(_sidecar_stem(seen.file.path)) is seen
    return dataclasses.replace(seen, role="sidecar") if beside else seen


def _sidecar_stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _sidecars(drive: Sequence[Seen]) -> dict[str, Seen]:
    """JSON files by the path without suffix of the recording that they stand beside."""
    stems = {
        plain_stem(seen.file.path) for seen in drive if seen.role == "recording" and seen.format not in LOGS
    }
    return {
        _sidecar_stem(seen.file.path): seen
        for seen in drive
        if seen.role == "other"
        and seen.path is not None
        and PurePosixPath(seen.file.path).suffix.lower() == ".json"
        and _sidecar_stem(seen.file.path) in stems
    }


def _groups(drive: Sequence[Seen]) -> list[list[Seen]]:
    """Files that make one recording together, each in the order of its parts; the rest alone."""
    others = any(seen.role == "recording" and seen.format != "pictures" for seen in drive)
    groups: dict[tuple[str, str], list[Seen]] = {}
    for number, seen in enumerate(drive):
        key = ("file", str(number))
        if seen.source is not None and seen.file.size and seen.role == "recording":
            if seen.format == "pictures" and others and name_time(seen.file.path) is None:
                # a preview beside a video
                seen = dataclasses.replace(seen, role="other", format=None)
            elif seen.format == "pictures":
                key = ("pictures", seen.channel)
            elif seen.format in LOGS:
                key = (str(seen.format), split_of(seen.file.path)[0])
        groups.setdefault(key, []).append(seen)
    for kind, members in ((key[0], members) for key, members in groups.items()):
        if kind != "file":
            members.sort(key=lambda seen: (split_of(seen.file.path)[1], seen.file.path))
    return list(groups.values())


def _read_sidecar(seen: Seen | None) -> Sidecar:
    """Raises Unreadable."""
    if seen is None or seen.path is None:
        return Sidecar()
    name = PurePosixPath(seen.file.path).name
    value = telemetry.read_json_file(seen.path, name)
    if not isinstance(value, dict):
        raise Unreadable(name, f"{name} beside it is no object of JSON")
    start, fps, times = value.get("start_ns"), value.get("fps"), value.get("timestamps_ns")
    if start is not None and (not isinstance(start, int) or isinstance(start, bool)):
        raise Unreadable(name, f"{name} beside it gives a start_ns that is no integer")
    if fps is not None and (not isinstance(fps, int | float) or not 0.01 <= fps <= 10_000):
        raise Unreadable(name, f"{name} beside it gives fps as {str(fps)[:40]}")
    listed = None
    if times is not None:
        if not isinstance(times, list) or not all(isinstance(t, int) and abs(t) < 1 << 62 for t in times):
            raise Unreadable(name, f"{name} beside it gives timestamps_ns that are no integers")
        listed = np.array(times, np.int64)
    track = telemetry.track_of_json(value, name) if value.get("fixes") is not None else None
    return Sidecar(start, listed, Fraction(fps).limit_denominator(1_000_000) if fps else None, track)


def _open(group: Sequence[Seen], beside: Seen | None, drive_start_ns: int | None) -> list[Seen]:
    """The Seen of each channel of a recording, and of the rest of its files."""
    first, rest = group[0], [dataclasses.replace(seen, role="part") for seen in group[1:]]
    kind = first.format
    assert first.source is not None and kind is not None
    if kind == "mp4":
        boxes = read_boxes(first.source)
        first = dataclasses.replace(first, boxes=boxes)
        if not boxes.is_mp4 or not boxes.has_header:
            return [first, *rest]
    try:
        sidecar = _read_sidecar(beside)
    except Unreadable as error:
        return [dataclasses.replace(first, sidecar_problem=error.why), *rest]
    try:
        files = [(seen.file.path, seen.source) for seen in group if seen.source]
        recording = open_group(kind, files, first.channel, sidecar.fps)
    except Unreadable as error:
        return [dataclasses.replace(first, unreadable=error.why), *rest]
    opened = [
        _timed(
            dataclasses.replace(
                first,
                recording=recording,
                number=number,
                channel=(recording.channels[number].name if recording.channels else None) or first.channel,
            ),
            sidecar,
            drive_start_ns,
        )
        for number in range(max(1, len(recording.channels)))
    ]
    own = _placed(recording.relative_track, opened[0]) if isinstance(recording, Mp4Recording) else None
    tracks = [*recording.tracks, *([own] if own else []), *([sidecar.track] if sidecar.track else [])]
    told = {**_placed_signals(recording, opened[0]), **recording.signals}
    opened[0] = dataclasses.replace(opened[0], track=tracks[0] if tracks else None, signals=told)
    more = [dataclasses.replace(seen, role="part") for seen in [group[0]] * max(0, len(tracks) - 1)]
    extra = [dataclasses.replace(seen, track=track) for seen, track in zip(more, tracks[1:], strict=True)]
    return [*opened, *rest, *extra]


def _placed(track: Track | None, seen: Seen) -> Track | None:
    """A track that counts from the recording's zero, once it is known when that was."""
    if track is None or not is_set(seen.start_ns) or abs(int(track.times_ns[-1])) > LONGEST_SECONDS * SECOND:
        return None
    return dataclasses.replace(track, times_ns=track.times_ns + (seen.start_ns or 0))


def _placed_signals(recording: Recording, seen: Seen) -> dict[str, Signal]:
    """The same for signals."""
    if not isinstance(recording, Mp4Recording) or not is_set(seen.start_ns):
        return {}
    made = {
        name: signals.made_of(np.array(one.times, np.int64) + (seen.start_ns or 0), np.array(one.numbers))
        for name, one in recording.relative_signals.items()
        if one.times and abs(one.times[-1]) <= LONGEST_SECONDS * SECOND
    }
    return {name: signal for name, signal in made.items() if signal is not None}


def _start(seen: Seen, sidecar: Sidecar, drive_start_ns: int | None) -> tuple[int | None, Clock | None]:
    """Who says when a recording began; its own clock counts, where it was set."""
    own = seen.stream.start_ns if seen.stream else None
    if is_set(own):
        exif = isinstance(seen.recording, FolderRecording) and seen.recording.clock == "exif"
        return own, "exif" if exif else "recording"
    for told, who in ((seen.file.start_ns, "file"), (sidecar.start_ns, "sidecar"), (drive_start_ns, "drive")):
        if told is not None:
            return told, who  # type: ignore[return-value]
    if own is not None:
        return own, "recording"
    made = seen.recording.creation_time if seen.recording else None
    moment = parse_moment(made) if made else None
    return (None, None) if moment is None else (moment, "container")


def _timed(seen: Seen, sidecar: Sidecar, drive_start_ns: int | None) -> Seen:
    index = seen.index
    if sidecar.times_ns is not None and index is not None:
        return _listed(seen, index, sidecar.times_ns)
    if isinstance(seen.recording, RawRecording) and seen.recording.rate is None:
        why = (
            "neither the stream nor a JSON file of its name beside it says how many frames a second has (fps)"
        )
        return dataclasses.replace(seen, sidecar_problem=why)
    start_ns, start_from = _start(seen, sidecar, drive_start_ns)
    times = None
    if start_ns is not None and is_set(start_ns) and index is not None and within_reach(index):
        times = start_ns + ticks_to_ns(index.pts, index.time_base)
    return dataclasses.replace(seen, start_ns=start_ns, start_from=start_from, times_ns=times)


def _listed(seen: Seen, index: FrameIndex, listed: Int64) -> Seen:
    """Times of a list beside the recording, one for each shown frame."""
    places = np.flatnonzero(index.shown)
    if len(places) != len(listed) or not len(listed):
        why = f"the list beside it gives {len(listed)} times, it has {len(places)} frames"
        return dataclasses.replace(seen, sidecar_problem=why)
    times = np.full(len(index), listed[0], np.int64)
    times[places[np.argsort(index.pts[places], kind="stable")]] = listed
    start = int(listed[0])
    return dataclasses.replace(
        seen, start_ns=start, start_from="sidecar", times_ns=times if is_set(start) else None
    )


def _with_common_zero(drive: list[Seen], drive_start_ns: int | None) -> list[Seen]:
    """Clocks that were never set still agree: what began first began with the drive, the others as much later as they say."""

    def own(seen: Seen) -> int | None:
        return (
            seen.stream.start_ns if seen.stream and seen.start_from in ("drive", "file", "sidecar") else None
        )

    unset = {place: zero for place, seen in enumerate(drive) if (zero := own(seen)) is not None}
    if not unset:
        return drive
    first = min(unset.values())
    shifted = list(drive)
    for place, zero in unset.items():
        seen = drive[place]
        if seen.start_ns is None or seen.times_ns is None or abs(zero - first) > LONGEST_SECONDS * SECOND:
            continue
        later = zero - first
        shifted[place] = dataclasses.replace(
            seen, start_ns=seen.start_ns + later, times_ns=seen.times_ns + later
        )
    return shifted


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
