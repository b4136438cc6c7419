"""Logs as recordings: one pass over all parts of a log gathers its pictures, positions, signals and calibrations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from transforms.recordings import Calibration, Problem
from transforms.recordings.log import MAX_CHUNK, Log, Topic
from transforms.recordings.messages import Gathering, MessageChannel, make_channel
from transforms.recordings.payloads import Fix, Found, Lens, Malformed, Reading, reader_of
from transforms.recordings.stills import BadStill
from transforms.recordings.unpack import BadPacking, unpack_payload
from transforms.signals import MOST_SIGNALS, Samples, Signal, signals_of
from transforms.telemetry import Track
from transforms.times import EARLIEST_NS, LATEST_NS

# parts of topics that say what a message is, not which camera it is of
GENERIC = frozenset(
    {"image", "image_raw", "image_rect", "image_color", "image_rect_color", "raw", "compressed", "video"}
)
INFOS = frozenset({"camera_info", "calibration"})


@dataclass(frozen=True)
class LogRecording:
    """The pictures, positions, signals and calibrations of one log, or of one that was split into several files."""

    channels: Sequence[MessageChannel]
    codecs: tuple[str, ...]
    problems: tuple[Problem, ...]
    tracks: tuple[Track, ...]
    calibrations: Mapping[str, Calibration]
    signals: Mapping[str, Signal] = field(default_factory=dict)
    creation_time: str | None = None


def channel_names(topics: Sequence[str]) -> dict[str, str]:
    """`/camera/front/image_raw/compressed` → `camera.front`: legal names, the whole topic where two would be the same."""

    def legal(parts: Sequence[str]) -> str:
        return re.sub(r"[^A-Za-z0-9._+=-]+", "-", ".".join(parts)).lstrip("._+=-")[:120] or "camera"

    whole = {topic: [part for part in topic.split("/") if part] for topic in topics}
    short = {topic: list(parts) for topic, parts in whole.items()}
    for parts in short.values():
        while len(parts) > 1 and parts[-1].lower() in GENERIC:
            parts.pop()
    names = {topic: legal(parts) for topic, parts in short.items()}
    taken = list(names.values())
    return {topic: name if taken.count(name) == 1 else legal(whole[topic]) for topic, name in names.items()}


def _tracks(fixes: Mapping[str, list[Fix]], problems: list[Problem]) -> tuple[Track, ...]:
    """One track a topic, of the fixes that are some; rising in time."""
    tracks = []
    for topic, found in sorted(fixes.items()):
        good: dict[int, Fix] = {}
        for fix in found:
            on_earth = abs(fix.latitude) <= 90 and abs(fix.longitude) <= 180
            if fix.valid and on_earth and EARLIEST_NS <= fix.stamp_ns < LATEST_NS:
                good.setdefault(fix.stamp_ns, fix)
        if lost := len(found) - len(good):
            problems.append(
                Problem("message", f"{lost} of {len(found)} positions of {topic} are no place or no time")
            )
        if good:
            times = np.array(sorted(good), np.int64)
            places = np.array([(good[t].latitude, good[t].longitude) for t in times.tolist()])
            tracks.append(Track(times, places[:, 0], places[:, 1], np.full(len(times), np.nan)))
    return tuple(tracks)


@dataclass
class _Pass:
    """What one pass over all parts of a log finds."""

    pictures: dict[str, Gathering] = field(default_factory=dict)
    fixes: dict[str, list[Fix]] = field(default_factory=dict)
    lenses: dict[str, Lens] = field(default_factory=dict)
    signals: dict[str, Samples] = field(default_factory=dict)
    broken: dict[str, tuple[int, str]] = field(default_factory=dict)
    readers: dict[Topic, Callable[[memoryview], Found] | None] = field(default_factory=dict)

    def read(self, part: int, log: Log) -> None:
        for topic, at, chunk, offset, payload in log.messages():
            if topic not in self.readers:
                self.readers[topic] = reader_of(topic)
            read = self.readers[topic]
            if read is None:
                continue
            try:
                found = read(memoryview(unpack_payload(payload, MAX_CHUNK)))
                if isinstance(found, Fix):
                    self.fixes.setdefault(topic.name, []).append(found)
                elif isinstance(found, Lens):
                    self.lenses.setdefault(topic.name, found)
                elif isinstance(found, Reading):
                    self._take_signals(topic, at, found)
                else:
                    gathering = self.pictures.setdefault(topic.name, Gathering(topic))
                    gathering.keys.append(gathering.take(found))
                    for column, value in (
                        (gathering.stamps, found.stamp_ns),
                        (gathering.logged, min(at, (1 << 63) - 1)),
                        (gathering.parts, part),
                        (gathering.chunks, chunk),
                        (gathering.offsets, offset),
                        (gathering.sizes, len(payload)),
                    ):
                        column.append(value)
            except (Malformed, BadPacking, BadStill) as error:
                count, first = self.broken.get(topic.name, (0, str(error)))
                self.broken[topic.name] = (count + 1, first)

    def _take_signals(self, topic: Topic, written_ns: int, found: Reading) -> None:
        """A message without a stamp of its own was true when it was written."""
        at = min(written_ns, (1 << 63) - 1) if found.stamp_ns is None else found.stamp_ns
        for below, value in found.values.items():
            name = ".".join([part for part in topic.name.split("/") if part] + ([below] if below else []))
            if name not in self.signals and len(self.signals) >= MOST_SIGNALS:
                continue
            self.signals.setdefault(name, Samples()).add(at, value)


def _calibrations(gathered: _Pass, names: Mapping[str, str]) -> dict[str, Calibration]:
    """A calibration is of the camera beside whose topic it stands, else of the one with its frame id."""
    found = {}
    for topic, lens in gathered.lenses.items():
        folder = topic.rpartition("/")[0]
        beside = [t for t in names if topic.rsplit("/", 1)[-1] in INFOS and f"{t}/".startswith(f"{folder}/")]
        same = [t for t in names if lens.frame_id and gathered.pictures[t].frame_id == lens.frame_id]
        for picture in beside if len(beside) == 1 else same or beside:
            found[names[picture]] = Calibration(lens.width, lens.height, lens.focal)
    return found


def open_logs(logs: Sequence[Log]) -> LogRecording:
    """Index the parts of one log, in order. Raises Unreadable where a part is no log at all."""
    gathered = _Pass()
    for part, log in enumerate(logs):
        gathered.read(part, log)
    problems = [problem for log in logs for problem in log.problems]
    for topic, (count, first) in sorted(gathered.broken.items()):
        problems.append(
            Problem("message", f"{count} messages of {topic} cannot be taken, the first: {first}")
        )
    names = channel_names([topic for topic, g in gathered.pictures.items() if len(g.stamps)])
    channels = []
    for topic in sorted(names):
        channel, more = make_channel(gathered.pictures[topic], names[topic], logs)
        channels.append(channel)
        problems += more
    codecs = tuple(sorted({f"{g.codec or 'unknown'} ({topic})" for topic, g in gathered.pictures.items()}))
    others = tuple(sorted({topic.schema for topic, read in gathered.readers.items() if read is None}))
    calibrations = _calibrations(gathered, names)
    tracks = _tracks(gathered.fixes, problems)
    signals = signals_of(gathered.signals)
    return LogRecording(channels, codecs or others, tuple(problems), tracks, calibrations, signals)
