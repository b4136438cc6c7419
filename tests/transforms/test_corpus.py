"""Damaged copies of every format: no crash, no hang (pytest's time limit), and nothing lost without a finding.

A case is a number: it says which recording is damaged, and how. A failing one is run alone with `-k "case[17]"`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lake.landing import LandedFile
from outlap.synthetic import Clip, make_recording
from tests.transforms import made
from transforms import rules
from transforms.cutting import cut_drive
from transforms.recipe import Output, Recipe
from transforms.seen import fetched, look_all

FRAMES = 6
QUICK, ALL = 100, 1200
RECIPE = Recipe(cut="all", outputs=(Output(name="720p", lines=90, quality=50),), tags=())
COMPRESSED = "sensor_msgs/msg/CompressedImage"
# raw video counts nothing: only a list of times can tell that its end is missing
SIDECAR = json.dumps({"timestamps_ns": made.times(FRAMES)}).encode()


def _mp4(folder: Path, **fields: object) -> bytes:
    clip = Clip(width=320, height=180, fps=10, frames=FRAMES, gop=3, **fields)  # type: ignore[arg-type]
    path = folder / "clip.mp4"
    make_recording(path, clip)
    return path.read_bytes()


def whole(folder: Path) -> dict[str, dict[str, bytes]]:
    """Name → the files of a drive; the first one is damaged."""
    at = made.times(FRAMES)
    units = made.video(FRAMES, gop=3)
    fix = "\n".join(f"{t},48.0,{11 + n / 1e5}" for n, t in enumerate(at))
    point = "".join(
        f'<trkpt lat="48.0000{n}" lon="11.5"><time>2026-06-01T08:00:0{n}Z</time></trkpt>'
        for n in range(FRAMES)
    )
    camera = made.mcap([("/cam", COMPRESSED, "cdr", made.jpegs(FRAMES))])
    return {
        "mp4 h264": {"CAM.mp4": _mp4(folder, codec="libx264", params="threads=1:bframes=2")},
        "mp4 h265": {"CAM.mp4": _mp4(folder)},
        "mcap zstd": {"d_0.mcap": made.mcap([("/cam", COMPRESSED, "cdr", made.jpegs(FRAMES))], chunk=10_000)},
        "mcap lz4 protobuf video": {
            "d_0.mcap": made.mcap(
                [
                    (
                        "/cam",
                        "foxglove.CompressedVideo",
                        "protobuf",
                        [made.proto_video(t, units[n]) for n, t in enumerate(at)],
                    )
                ],
                compression="lz4",
                chunk=10_000,
            )
        },
        "mcap json": {
            "d_0.mcap": made.mcap(
                [
                    (
                        "/cam",
                        "foxglove.CompressedImage",
                        "json",
                        [made.json_compressed(t, made.jpeg(n)) for n, t in enumerate(at)],
                    )
                ],
                compression="none",
            )
        },
        "bag": {
            "d.bag": made.bag1(
                "/cam", [made.ros1_compressed(t, made.jpeg(n)) for n, t in enumerate(at)], "lz4", 2
            )
        },
        "bag bz2": {
            "d.bag": made.bag1(
                "/cam", [made.ros1_compressed(t, made.jpeg(n)) for n, t in enumerate(at)], "bz2", 2
            )
        },
        "db3": {"d_0.db3": made.db3(folder / "x.db3", [("/cam", COMPRESSED, "cdr", made.jpegs(FRAMES))])},
        "raw h264": {"CAM.h264": b"".join(units), "CAM.json": SIDECAR},
        "raw h265": {"CAM.hevc": b"".join(made.video(FRAMES, "libx265", gop=3)), "CAM.json": SIDECAR},
        "packed mcap": {"d_0.mcap.zstd": made.zstd(camera)},
        "jpegs": {f"c/{t}.jpg": made.jpeg(n) for n, t in enumerate(at)},
        "pngs": {f"c/{t}.png": made.png(n) for n, t in enumerate(at)},
        "csv": {"GNSS.csv": f"timestamp_ns,latitude,longitude\n{fix}".encode(), "d.mcap": camera},
        "gpx": {"r.gpx": f"<gpx><trk><trkseg>{point}</trkseg></trk></gpx>".encode(), "d.mcap": camera},
        "sidecar": {
            "CAM.json": SIDECAR,
            "CAM.h264": b"".join(units),
        },
    }


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 3, 20))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _head(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 16))):
        data[rng.randrange(min(len(data), 256))] = rng.randrange(256)


def _extreme(data: bytearray, rng: random.Random) -> None:
    """A number that says too much, or nothing, as lengths and counts are damaged."""
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(len(data))
    data[at : at + size] = rng.choice((b"\xff", b"\0", b"\x7f"))[:1] * min(size, len(data) - at)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _lose(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 4, 100, 4096))]


def _insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.choice((1, 8, 500)))


def _zero(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    end = min(len(data), at + rng.choice((16, 512, 4096)))
    data[at:end] = bytes(end - at)


def _swap(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((64, 512))
    one, two = (rng.randrange(max(1, len(data) - size)) for _ in range(2))
    data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]


def _again(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.choice((100, 5000))]


WAYS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _head, _extreme, _cut, _lose, _insert, _zero, _swap, _again),
)


@dataclass
class Corpus:
    """drives: undamaged; outcomes: what became of the cases."""

    folder: Path
    drives: dict[str, dict[str, bytes]]
    outcomes: Counter[str] = field(default_factory=Counter)

    def frames(self, files: dict[str, bytes]) -> tuple[int, list[str]]:
        """How many frames are cut, and the ids of the rules that found something."""
        drive = []
        for number, (name, data) in enumerate(files.items()):
            path = self.folder / f"file-{number}"
            path.write_bytes(data)
            drive.append(fetched(LandedFile(name, len(data), "", None, None), path))
        seen = look_all(drive, None)
        findings = rules.judge(seen)
        count = 0
        if not rules.has_errors(findings):
            cuts, seen = cut_drive(seen, RECIPE, self.folder, lambda *told: None)
            findings = rules.judge(seen)
            count = sum(len({piece.place for piece in cut.pieces}) for cut in cuts)
        return count, [finding.rule for finding in findings]

    def case(self, number: int) -> None:
        rng = random.Random(number)
        name = list(self.drives)[number % len(self.drives)]
        files = dict(self.drives[name])
        damaged = next(iter(files))
        data = bytearray(files[damaged])
        way = rng.choice(WAYS)
        way(data, rng)
        if bytes(data) == files[damaged]:
            return
        files[damaged] = bytes(data)
        count, found = self.frames(files)
        self.outcomes[found[0] if found else "taken whole"] += 1
        # what neither a rule nor a decoder notices has at least all of its frames
        assert found or count >= FRAMES, (
            f"case {number}: {name} {way.__name__}: {count} frames and no finding"
        )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    folder = tmp_path_factory.mktemp("corpus")
    yield Corpus(folder, whole(folder))


def test_the_whole_ones_are_whole(corpus: Corpus) -> None:
    for name, files in corpus.drives.items():
        count, found = corpus.frames(files)
        assert count == FRAMES and set(found) <= {"clock-from-container"}, (name, count, found)


@pytest.mark.parametrize("tenth", range(10))
def test_damaged_copies(corpus: Corpus, tenth: int) -> None:
    for number in range(tenth, QUICK, 10):
        corpus.case(number)
    assert sum(corpus.outcomes.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_many_damaged_copies(corpus: Corpus, part: int) -> None:
    for number in range(QUICK + part, ALL, 20):
        corpus.case(number)
    assert len(corpus.outcomes) > 5
