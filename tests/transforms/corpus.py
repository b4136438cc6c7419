"""Damaged copies of every format, and what becomes of them; `python -m tests.transforms.corpus [CASES]` prints it for the docs.

A case is a number: it says which recording is damaged, and how. `python -m tests.transforms.corpus 17-18` runs one alone.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lake.landing import LandedFile
from outlap.synthetic import Clip, make_recording
from tests.transforms import made
from transforms import rules
from transforms.cutting import cut_drive
from transforms.recipe import Output, Recipe
from transforms.seen import fetched, look_all

FRAMES = 6
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


# what the undamaged MP4s are told for; it hides no loss
ALWAYS = frozenset({"clock-from-container"})
OUTCOMES = ("refused", "taken in part, told", "taken whole, told", "taken whole", "lost in silence")


@dataclass
class Corpus:
    """drives: undamaged, by format; outcomes: (format, one of OUTCOMES) → cases; rules: which were found first; slowest: seconds."""

    folder: Path
    drives: dict[str, dict[str, bytes]]
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def frames(self, files: dict[str, bytes]) -> tuple[int, list[str]]:
        """How many frames are cut, and the ids of the rules that found something; none is cut of what is refused."""
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
            if not rules.has_errors(findings):
                count = sum(len({piece.place for piece in cut.pieces}) for cut in cuts)
        return count, [finding.rule for finding in findings if finding.rule not in ALWAYS]

    def case(self, number: int) -> str:
        """Run one; what became of it."""
        rng = random.Random(number)
        name = list(self.drives)[number % len(self.drives)]
        files = dict(self.drives[name])
        damaged = next(iter(files))
        data = bytearray(files[damaged])
        while bytes(data) == files[damaged]:
            rng.choice(WAYS)(data, rng)
        files[damaged] = bytes(data)
        begun = time.perf_counter()
        count, found = self.frames(files)
        self.slowest = max(self.slowest, time.perf_counter() - begun)
        refused, told, _, whole, silent = range(len(OUTCOMES))
        if found:
            which = refused if not count else told + (count >= FRAMES)
        else:  # what neither a rule nor a decoder notices has at least all of its frames
            which = whole if count >= FRAMES else silent
        self.outcomes[name, OUTCOMES[which]] += 1
        self.rules.update(found[:1])
        return OUTCOMES[which]


def table(corpus: Corpus) -> str:
    """Markdown: a row a format, and the sum."""
    rows = [[name, *(corpus.outcomes[name, what] for what in OUTCOMES)] for name in corpus.drives]
    rows.append(["all", *(sum(row[place] for row in rows) for place in range(1, len(OUTCOMES) + 1))])  # type: ignore[arg-type]
    lines = [f"| format | cases | {' | '.join(OUTCOMES)} |", "|---|--:|" + "--:|" * len(OUTCOMES)]
    lines += [f"| {name} | {sum(counts)} | {' | '.join(map(str, counts))} |" for name, *counts in rows]
    told = ", ".join(f"`{rule}` {count}" for rule, count in corpus.rules.most_common())
    return "\n".join([*lines, "", f"Found first: {told}.", f"The slowest case took {corpus.slowest:.1f} s."])


def main(cases: str) -> int:
    """cases: a number of them, or FIRST-END."""
    first, _, end = cases.rpartition("-")
    crashes = 0
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(Path(folder), whole(Path(folder)))
        for number in range(int(first or 0), int(end)):
            try:
                if corpus.case(number) == OUTCOMES[-1]:
                    print(f"case {number}: frames are lost in silence", file=sys.stderr)
            except Exception as error:
                crashes += 1
                print(f"case {number}: {error!r}", file=sys.stderr)
    print(table(corpus), f"{crashes} crashed.", sep="\n")
    return 1 if crashes or any(what == OUTCOMES[-1] for _, what in corpus.outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "12000"))
