"""`outlap bench lake`: manifests and catalogues of 1 and 10 million rows, and small frames into a store and out again."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks import lakeplans, lakestore, rivals
from benchmarks.lakestore import Moved
from benchmarks.report import Plot, Report, Row, machine, row
from lake.config import home

MILLION = 1_000_000
PHASES = ("build", "change", "build-other", "verify", "diff", "diff-all", "catalog", "query", "query-day")
RATE, MEMORY = ">= 500000", "<= 1024"


@contextmanager
def _room() -> Iterator[Path]:
    """A folder on the disk of the user's choice: 10 M rows are 3 GB."""
    root = home() / "scratch" if home().is_dir() else None
    if root is not None:
        root.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        yield Path(folder)


def phase(name: str, folder: Path, rows: int) -> dict[str, float]:
    """One phase of benchmarks.lakerows in a process of its own."""
    said = rivals.run(sys.executable, "-m", "benchmarks.lakerows", name, folder, str(rows))
    return {key: float(value) for key, value in json.loads(said).items()}


def manifest_rows(rows: int) -> list[Row]:
    """Build, verify, diff and query of that many rows."""
    size = f"{rows // MILLION} M rows"
    with _room() as folder:
        found = {name: phase(name, folder, rows) for name in PHASES}
    done: list[Row] = []
    for name, what in (("build", "build"), ("verify", "verify"), ("query", "query by path order")):
        one = found[name]
        rate = one["rows"] / one["seconds"]
        done.append(row(f"{what}, {size}", rate, "rows/s", goal=RATE if name == "build" else None))
        done.append(row(f"{what}, {size}: rows a second of CPU", one["rows"] / one["cpu_s"], "rows/s"))
        done.append(row(f"{what}, {size}: peak memory", one["peak_mib"], "MiB", goal=MEMORY))
    whole, day = found["diff-all"], found["query-day"]
    done += [
        row(f"diff, everything changed, {size}", whole["rows"] / whole["seconds"], "rows/s"),
        row(f"diff, everything changed, {size}: peak memory", whole["peak_mib"], "MiB", goal=MEMORY),
        # single drives all over the paths: each opens the two or three parts that it lies in
        row(
            f"diff, 1 % changed, {size}",
            found["diff"]["seconds"],
            "s",
            ("everything changed", whole["seconds"]),
        ),
        row(f"query of one drive's day, {size}", day["seconds"], "s", ("all", found["query"]["seconds"])),
        row(
            f"query of one drive's day, {size}: files asked",
            day["files"],
            "files",
            ("all", found["query"]["files"]),
        ),
    ]
    return done


def new_day_rows(rows: int) -> list[Row]:
    """A new day of 1 % at the end of the paths: what nightly publishes look like."""
    with _room() as folder:
        phase("build", folder, rows)
        phase("grow", folder, rows)
        phase("build-other", folder, rows)
        new, whole = phase("diff-grown", folder, rows), phase("diff-all", folder, rows)
        plans = lakeplans.measure(folder)
    what = f"a new day of 1 %, {rows // MILLION} M rows"
    return [
        row(f"diff, {what}", new["seconds"], "s", ("everything changed", whole["seconds"]), "<= 0.03"),
        row(f"sync plan, {what}", plans["sync new"], "s", ("nothing is there", plans["sync"]), "<= 0.03"),
        row(f"warm plan, {what}", plans["warm new"], "s", ("a node without any", plans["warm"]), "<= 0.03"),
    ]


def object_rows(count: int, moved: Mapping[str, Moved]) -> list[Row]:
    """Frames that lie in the store as single objects already."""
    rate = {name: count / one.seconds for name, one in moved.items()}
    loop = ("obstore loop that only reads them, 16 at once", rate["get obstore"])
    warm = f"warm of {count:,} single objects into tmpfs"
    asked = moved["warm"].requests, moved["warm rclone"].requests
    return [
        row(f"{count:,} single objects packed on the way in", rate["pack"], "frames/s", loop),
        row(f"{count:,} single objects published in place", rate["in place"], "frames/s", loop),
        row(warm, rate["warm"], "frames/s", ("rclone copy into tmpfs", rate["warm rclone"]), ">= 1.5"),
        row(f"{warm}: requests", asked[0], "requests", ("rclone copy into tmpfs", asked[1])),
    ]


def store_rows(count: int) -> tuple[list[Row], Plot]:
    """PUT and GET of small frames, and what each asked of the store."""
    with _room() as folder:
        size, moved = lakestore.measure(folder, count, 1 if count < 20_000 else 2)
    done = []
    for verb in ("put", "get"):
        ours = moved[f"{verb} packs"]
        name = f"{verb.upper()} {count:,} frames ({size / count / 1e3:.0f} kB mean) as packs"
        for rival, label in (("rclone", "rclone copy"), ("obstore", "obstore loop, 16 at once")):
            other = moved[f"{verb} {rival}"]
            done.append(
                row(f"{name}: speed", count / ours.seconds, "frames/s", (label, count / other.seconds))
            )
            done.append(row(f"{name}: requests", ours.requests, "requests", (label, other.requests)))
    done += object_rows(count, moved)
    ways = ("packs", "obstore", "rclone")
    plot = Plot(
        f"{count:,} small frames, local SeaweedFS",
        "frames/s",
        ("PUT", "GET"),
        {way: [count / moved[f"{verb} {way}"].seconds for verb in ("put", "get")] for way in ways},
    )
    return done, plot


def run(quick: bool) -> Report:
    """Measure everything; quick: 1 M rows and 2,000 frames."""
    rows, plot = store_rows(2_000 if quick else 20_000)
    figures = [*new_day_rows(MILLION)]
    for count in (MILLION,) if quick else (MILLION, 10 * MILLION):
        figures += manifest_rows(count)
    weed = subprocess.run([rivals.program("weed"), "version"], capture_output=True, text=True, check=True)
    versions = {
        "SeaweedFS": weed.stdout.strip(),
        "rclone": rivals.version_of(rivals.program("rclone"), "version"),
    }
    notes = (
        "Manifests lie in a folder of this machine's disk. Time of the generator of rows is not counted. Each phase is a process "
        "of its own: its peak of memory includes Python and Arrow (about 150 MiB).",
        "Verify reads every part and location again: hash, paths, sizes, ids, order, clashes. Query sorts all rows by path.",
        "Packs of 32 MB, four at a time; single objects and rclone 16 at a time. Packs are hashed on both ways, the others are not.",
    )
    return Report("Lake", machine(versions), (*figures, *rows), notes, (plot,))
