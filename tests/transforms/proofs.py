"""Which file proves which rule on which format; `python -m tests.transforms.proofs > docs/rules.md` prints the table.

Each proof is a drive that is uploaded and ingested (tests/transforms/test_proofs.py): the rule must be found, and an error must
refuse the drive. Files are made small here, or are the real recordings beside the project.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from outlap.synthetic import START_NS
from tests.transforms import drives as d
from tests.transforms import made
from tests.transforms.conftest import Place
from tests.transforms.drives import STEP, Files, folder, good, jpeg, log, shots, spoiled, units
from transforms.rules import DRIVE_RULES, FILE_RULES, PROFILE_RULES
from transforms.rules.__main__ import table as rules_table
from transforms.times import SECOND

COLUMNS = ("mp4", "raw", "mcap", "bag", "db3", "pictures", "tracks, sidecars")
MP4, RAW, MCAP, BAG, DB3, PICTURES, TRACKS = ((column,) for column in COLUMNS)
LOGS, CDR, VIDEOS = MCAP + BAG + DB3, MCAP + DB3, MP4 + RAW


@dataclass(frozen=True)
class Proof:
    """what: is wrong with the drive, for the table; files: makes it for a column; start, channels: said in COMPLETE.json;
    profile: of the vehicle; spoil: done to the landing after the upload."""

    rule: str
    columns: tuple[str, ...]
    what: str
    files: Callable[[str], Files]
    start: int | None = START_NS
    channels: Mapping[str, str] = field(default_factory=dict)
    profile: Mapping[str, Any] | None = None
    spoil: Callable[[Place], None] | None = None


def proofs() -> Iterator[Proof]:
    """All of them, in the order of the register's themes."""
    yield from OF_FILES
    yield from OF_CONTAINERS
    yield from OF_STREAMS
    yield from OF_PICTURES
    yield from OF_TIMES
    yield from OF_LOGS_AND_CAMERAS
    yield from OF_DRIVES


def pictures(column: str, shot: Callable[[int], bytes]) -> Files:
    """A log or folder of these pictures."""
    return folder(shots(picture=shot)) if column == "pictures" else log(column, shots(picture=shot))


def stamped(column: str, offset: Callable[[int], int]) -> Files:
    """Frames at these ns after START_NS, by stamps, names, a sidecar's times or the container's own."""
    match column:
        case "mp4":
            return {"cam.mp4": d.clip(frames=24, times=tuple(offset(n) * 9 // 100_000 for n in range(24)))}
        case "raw":
            times = [START_NS + offset(n) for n in range(d.COUNT * 2)]
            return d.raw(*made.video(d.COUNT * 2, gop=4), timestamps_ns=times)
        case "pictures":
            return folder(shots(offset, count=24))
    return log(column, shots(offset, count=24))


def one(good: bytes, other: bytes) -> Callable[[int], bytes]:
    """The sixth picture is another one."""
    return lambda number: other if number == 5 else good


OF_FILES = (
    Proof("missing-file", COLUMNS, "deleted after the upload", good, spoil=d.delete_first),
    Proof("checksum", COLUMNS, "a byte more after the upload", good, spoil=d.change_first),
    Proof("empty-file", COLUMNS, "no bytes", lambda c: d.first(c, lambda data: b"")),
    Proof("bad-channel", VIDEOS, "`my camera`", good, spoil=d.rename_channel),
)
CUT_OFF = (
    (MP4, "the end cut off", lambda c: d.first(c, d.cut(0.7))),
    (MCAP + BAG, "the end cut off", lambda c: d.first(c, d.cut(0.75))),
    (RAW, "ends after parameter sets", lambda c: d.raw(*units(), d.parameter_sets(units()[0]))),
)
FEW = json.dumps({"timestamps_ns": made.times(3)}).encode()
OF_CONTAINERS = (
    Proof("not-an-mp4", MP4, "text", lambda c: {"cam.mp4": d.TEXT}),
    Proof("truncated", MP4, "cut in its tables", lambda c: d.first(c, d.cut(0.05))),
    Proof("no-header", MP4, "no moov", lambda c: d.first(c, lambda data: data.replace(b"moov", b"free", 1))),
    Proof("bad-track", TRACKS, "a CSV of other columns", lambda c: d.first(c, lambda data: b"a,b\n1,2\n")),
    Proof("unreadable", MP4, "no avcC", lambda c: d.first(c, lambda data: data.replace(b"avcC", b"free"))),
    Proof("unreadable", RAW + MCAP + BAG + PICTURES, "text", d.text),
    Proof("unreadable", DB3, "pages of zeros", lambda c: d.first(c, lambda data: data[:16] + bytes(8000))),
    Proof("bad-crc", MCAP, "bits in a chunk", lambda c: d.first(c, lambda data: spoiled(data, 0.3, 0.301))),
    Proof("broken-container", MCAP, "no record where one begins", lambda c: d.first(c, d.zeros(8, 17))),
    Proof("broken-container", BAG, "a record's head", lambda c: d.first(c, d.zeros(4110, 4125))),
    Proof("broken-container", DB3, "a page", lambda c: d.first(c, d.zeros(49_152, 53_248))),
    Proof("no-video", MP4, "only sound", lambda c: {"cam.mp4": d.sound()}),
    Proof("no-video", CDR, "positions alone", lambda c: d.other_log(c, [d.fixes(lambda n: 48.0)])),
    Proof("no-video", BAG, "real: `example.bag`", lambda c: d.real("example.bag")),
    *(Proof("partial", *case) for case in CUT_OFF),
    *(Proof("cut-off", *case) for case in CUT_OFF),
    Proof("bad-sidecar", MP4, "too few times", lambda c: {**good(c), "cam.json": FEW}),
    Proof("bad-sidecar", RAW, "too few times", lambda c: {**good(c), "cam.json": FEW}),
    Proof("bad-sidecar", TRACKS, "no JSON", lambda c: {**good("raw"), "cam.json": b"{"}),
)


def late(column: str, begin: int, end: int | None = None) -> Files:
    """Video that begins in the middle of a group; its parameter sets are there."""
    if column == "mp4":
        return d.first(column, lambda data: d.without_first(data, begin))
    stream = units()[begin:end]
    return d.of_video(column, stream) if column in CDR else d.raw(d.parameter_sets(units()[0]), *stream)


def slice_spoiled(column: str) -> Files:
    if column == "mp4":
        return d.first(column, lambda data: spoiled(data, 0.8, 0.9))
    stream = [*units()[:2], spoiled(units()[2], 0.2, 0.9), *units()[3:]]
    return d.of_video(column, stream) if column in CDR else d.raw(*stream)


def without_sets(column: str) -> Files:
    if column == "raw":
        return d.raw(d.naked(units()[0]), *units()[1:])
    return d.of_video(column, [*units()[:4], d.naked(units()[4]), *units()[5:]])


OF_STREAMS = (
    Proof(
        "no-frames", MP4, "all before the edit's zero", lambda c: d.first(c, lambda data: d.hidden(data, 60))
    ),
    Proof(
        "hidden-frames",
        MP4,
        "3 before the edit's zero",
        lambda c: d.first(c, lambda data: d.hidden(data, 0.3)),
    ),
    Proof("no-key-frame", MP4, "all frames overwritten", lambda c: d.first(c, d.all_spoiled)),
    Proof("no-key-frame", RAW + CDR, "begins after its only key frame", lambda c: late(c, 1, 4)),
    Proof("late-key-frame", VIDEOS + CDR, "begins in a group", lambda c: late(c, 2)),
    Proof("b-frames", CDR, "x264 with B frames", lambda c: d.of_video(c, units(b_frames=2))),
    Proof("missing-parameter-sets", RAW, "begins without", without_sets),
    Proof("missing-parameter-sets", CDR, "a key frame without", without_sets),
    Proof("lost-pictures", RAW, "one left out", lambda c: d.raw(*units()[:2], *units()[3:])),
    Proof("undecodable", VIDEOS + CDR, "a slice overwritten", slice_spoiled),
    Proof("fewer-frames", MP4, "stts counts 99", lambda c: d.first(c, d.number_after(b"stts", 8, 99))),
)
HALF, SMALL, BAD = jpeg()[:3000], d.plain(90, 320), spoiled(jpeg(), 0.5, 0.9)


def seen(column: str, luma: Callable[[int], np.ndarray]) -> Files:
    """Video of these planes."""
    return {"cam.mp4": d.encoded(luma, "mp4")} if column == "mp4" else d.raw(d.encoded(luma, "h264"))


OF_PICTURES = (
    Proof("undecodable", BAG + PICTURES, "a JPEG overwritten", lambda c: pictures(c, one(jpeg(), BAD))),
    Proof("messages-left-out", LOGS + PICTURES, "half a JPEG", lambda c: pictures(c, one(jpeg(), HALF))),
    Proof("size-changes", LOGS + PICTURES, "one of 320x180", lambda c: pictures(c, one(jpeg(), SMALL))),
    Proof("black-frames", VIDEOS, "made so", lambda c: seen(c, lambda n: np.full_like(made.luma(0), 16))),
    Proof("black-frames", LOGS + PICTURES, "made so", lambda c: pictures(c, lambda n: d.plain())),
    Proof("frozen-frames", VIDEOS, "made so", lambda c: seen(c, lambda n: made.luma(min(n, 3)))),
    Proof("frozen-frames", LOGS + PICTURES, "made so", lambda c: pictures(c, lambda n: jpeg(min(n, 3)))),
)
ALL_TIMES = VIDEOS + LOGS + PICTURES
OF_TIMES = (
    Proof(
        "jitter",
        ALL_TIMES,
        "every other 60 ms late",
        lambda c: stamped(c, lambda n: STEP * n + 60_000_000 * (n % 2)),
    ),
    Proof("gap", ALL_TIMES, "2 s missing", lambda c: stamped(c, lambda n: STEP * n + 2 * SECOND * (n > 6))),
    Proof("times", MP4, "all frames at one time", lambda c: d.first(c, d.number_after(b"stts", 12, 0))),
    Proof("wrong-unit", MP4, "a start in µs", good, START_NS // 1000),
    Proof("wrong-unit", RAW, "a start in s", lambda c: {"cam.h264": b"".join(units())}, START_NS // 10**9),
    Proof("no-time", MP4, "no creation_time", lambda c: {"cam.mp4": d.clip(start_ns=None)}, None),
    Proof("no-time", RAW, "no start", lambda c: d.raw(fps=10), None),
    Proof("no-time", MCAP, "real: `soccer_goal_12.mcap`", lambda c: d.real("soccer_goal_12.mcap"), None),
    Proof("no-time", PICTURES, "names of 1980", lambda c: d.of_1980(), None),
    Proof("clock-from-drive", MCAP, "real: `soccer_goal_12.mcap`", lambda c: d.real("soccer_goal_12.mcap")),
    Proof("clock-from-drive", PICTURES, "names of 1980", lambda c: d.of_1980()),
    Proof("clock-from-container", MP4, "creation_time alone", good, None),
    Proof(
        "clock-from-exif", PICTURES, "real: `DSC00001.JPG`", lambda c: d.real("DSC00001.JPG", "CAM/"), None
    ),
    Proof("unset-stamps", LOGS, "stamps of 0", lambda c: stamped(c, lambda n: -START_NS)),
    Proof("repeated-stamps", LOGS, "two alike", lambda c: stamped(c, lambda n: STEP * (n - (n == 5)))),
    Proof(
        "times-backwards",
        LOGS,
        "two exchanged",
        lambda c: stamped(c, lambda n: STEP * {5: 6, 6: 5}.get(n, n)),
    ),
    Proof(
        "skew", LOGS, "written 5 s after its stamps", lambda c: stamped(c, lambda n: STEP * n - 5 * SECOND)
    ),
)
JUMP = d.csv((0, 48.0, 11.0), (SECOND, 49.0, 11.0))
OF_LOGS_AND_CAMERAS = (
    Proof("wrong-counts", MCAP, "statistics of 7 more", lambda c: d.miscounted()),
    Proof("calibration-size", CDR, "for 1920x1080", lambda c: d.with_info(c, 1920, 500.0)),
    Proof("uncalibrated", CDR, "K[0] is 0", lambda c: d.with_info(c, made.WIDTH, 0.0)),
    Proof("no-calibration", CDR, "another camera's alone", lambda c: d.with_info(c, made.WIDTH, 500.0, "/b")),
    Proof("position-jump", CDR, "a degree in 0.1 s", lambda c: d.with_fixes(c, lambda n: 48.0 + (n > 5))),
    Proof("position-jump", TRACKS, "a degree in 1 s", lambda c: {**good("mcap"), "GNSS.csv": JUMP}),
)


def at_once(column: str) -> Files:
    """Two recordings of one channel."""
    if column in LOGS:
        return {**log(column, shots(), name="1"), **log(column, shots(), name="2")}
    (data, *_), kind = good(column).values(), "mp4" if column == "mp4" else "h264"
    return {f"1.{kind}": data, f"2.{kind}": data}


def two_seconds_late(column: str) -> Files:
    if column == "mp4":
        sidecar = json.dumps({"start_ns": START_NS + 2 * SECOND}).encode()
        return {"A.mp4": d.clip(), "B.mp4": d.clip(), "B.json": sidecar}
    after = shots(lambda n: STEP * n + 2 * SECOND)
    if column == "pictures":
        return {**good(column), **folder(after, "late")}
    return {**good(column), **log(column, after, "/late", "b")}


def part_missing(column: str) -> Files:
    after = shots(lambda n: STEP * n + 9 * SECOND)
    return {**log(column, shots(), name="d_0"), **log(column, after, name="d_2")}


CAM = {f"{number}.{kind}": "CAM" for number in (1, 2) for kind in ("mp4", "h264")}
FORMATS = COLUMNS[:-1]
WIDE = {"channels": {"cam": {"width": 1920}}}
SOUTH = {"region": [40.0, 5.0, 45.0, 16.0]}
NORTH = "48° north, 45 is allowed"
OF_DRIVES = (
    Proof("no-recordings", TRACKS, "a text alone", lambda c: {"notes.txt": b"nothing"}),
    Proof("overlap", VIDEOS + LOGS, "two at once", at_once, channels=CAM),
    Proof("late-start", MP4 + LOGS + PICTURES, "2 s after another", two_seconds_late),
    Proof("split-missing", CDR, "parts 0 and 2", part_missing),
    Proof("missing-channel", FORMATS, "LEFT is required", good, profile={"channels": {"LEFT": {}}}),
    Proof("no-positions", FORMATS, "none", good, profile={"positions": True}),
    Proof("outside-region", TRACKS, NORTH, good, profile=SOUTH),
    Proof("outside-region", CDR, NORTH, lambda c: d.with_fixes(c, lambda n: 48.0), profile=SOUTH),
    Proof("other-than-profile", FORMATS, "1920 is required", good, profile=WIDE),
)
HEAD = """
## Proofs

For each rule and format: what is wrong with the drive that `tests/transforms/test_proofs.py` uploads and ingests. The rule must be
in the report; an error must refuse the drive, and a warning alone must not. The files are made by `tests/transforms/drives.py`,
but those called real. A dash: that cannot be wrong in this format, or the rule is not made for it.
`python -m tests.transforms.proofs > docs/rules.md` writes this page.

"""


def table() -> str:
    """docs/rules.md: the rules, and below them their proofs."""
    cells: dict[tuple[str, str], str] = {}
    for proof in proofs():
        for column in proof.columns:
            assert (proof.rule, column) not in cells, proof
            cells[proof.rule, column] = proof.what
    lines = [f"| rule | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for rule in (*FILE_RULES, *DRIVE_RULES, *PROFILE_RULES):
        said = " | ".join(cells.get((rule.id, column), "–") for column in COLUMNS)
        lines.append(f"| `{rule.id}` | {said} |")
    return rules_table() + HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
