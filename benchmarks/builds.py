"""`outlap bench builds --other CHECKOUT`: the views of two builds side by side, on the same packs in the same run.

Each build is opened twice, by a process of its own code: what two openings of one build differ by is the spread, and a build is
slower only when it falls behind by more than that. All read the same pack files, so the disk is the same for all.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks import datasets, reader, report, systems
from benchmarks.datasets import Version
from benchmarks.read import KINDS, READERS, ahead_of_others, ended_by_signals, folders
from benchmarks.report import Report, Row, row
from benchmarks.systems import System
from lake.errors import Explained, Refused
from outlap.show import say

ROUNDS, QUICK_ROUNDS = 9, 1
FILES, QUICK_FILES = {"frames": 2_000, "small": 5_000}, {"frames": 200, "small": 500}
HOT_S = 0.2
ALLOWED = 0.03  # how far a ratio may fall beyond the spread
THIS, OTHER = "this build", "the other build"
HERE = Path(__file__).resolve().parents[1]

# Runs in the code of a build; what it names exists in every release from 0.1.0 on.
_OPEN = """
import json, sys
out, sys.stdout = sys.stdout, sys.stderr
from contextlib import ExitStack
from pathlib import Path
import structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
from benchmarks import datasets, systems
from cacheengine import wanted
told = json.loads(sys.argv[1])
folder, store = Path(told["folder"]), datasets.folder_store(Path(told["store"]))
views = folder / "state" / "views"
versions = {
    kind: datasets.Version(
        datasets.Files(kind, Path(one["plain"]), (), one["bytes"]), wanted.save_want(store, views, one["id"]), store, views
    )
    for kind, one in told["versions"].items()
}
with ExitStack() as stack:
    found = systems.open_views(stack, versions, datasets.cache_in(Path(told["cache"])), folder / "views")
    print(json.dumps({system.name: {kind: str(at) for kind, at in system.folders.items()} for system in found}), file=out, flush=True)
    sys.stdin.read()
"""

# (kind, cold or hot, readers, opening, system) → files/s
Rates = Mapping[tuple[str, str, int, str, str], Sequence[float]]


def run(other: Path, rounds: int | None = None, quick: bool = False) -> Report:
    """Measure the views of this build and of another one in turns.

    Args:
        other: A checkout of the other build; it runs with the Python packages of this one.
        rounds: How often each system is read; default 9, or 1 when quick.
        quick: Few files and one round.

    Returns:
        For each view and kind of read, the ratio of this build's files/s to the other's, beside the goal that the spread leaves.

    Raises:
        Refused: this machine cannot measure, or `other` is no checkout.
        Explained: a view of one of the builds could not be opened.
    """
    if not (other / "benchmarks" / "systems.py").is_file():
        raise Refused(
            f"the checkout {other}", "no benchmarks/systems.py is in it", "name a checkout of Outlap"
        )
    times = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        disk, _ = folders(stack)
        stack.enter_context(ahead_of_others())
        program = reader.compile_reader(disk)
        base = systems.kind_of_disk(disk)
        versions = _publish(disk, QUICK_FILES if quick else FILES)
        found = [("", System(base, {kind: disk / "plain" / kind for kind in versions}))]
        for opening, checkout in _openings(other):
            say(f"opening the views of {opening}")
            opened = stack.enter_context(_opened(checkout, versions, disk, opening.replace(" ", "-")))
            found += [(opening, system) for system in opened]
        datasets.settle()
        rates = _measure(program, found, versions, times, disk)
    names = [system.name for opening, system in found if opening == THIS]
    rows = tuple(one for name in names for one in _rows(rates, name, base))
    machine = report.machine({"disk": base, "this build": _commit(HERE), "the other build": _commit(other)})
    notes = (
        f"Medians of {times} rounds in which the systems take turns, in random order, all on the same packs.",
        "Each row: files/s of a view of this build as a ratio to the plain file system, against that of the other build.",
        f"Goal: 1 - {ALLOWED} - the spread, which is how far two openings of one build differ, the larger of both builds'.",
    )
    return Report("outlap bench builds", machine, rows, notes)


def _openings(other: Path) -> list[tuple[str, Path]]:
    return [(THIS, HERE), (OTHER, other), (f"{THIS} again", HERE), (f"{OTHER} again", other)]


def _publish(disk: Path, counts: Mapping[str, int]) -> dict[str, Version]:
    store, cache = datasets.folder_store(disk / "store"), datasets.cache_in(disk / "cache")
    made = {}
    for kind, sizes in (("frames", datasets.frame_size), ("small", datasets.small_size)):
        say(f"making {counts[kind]} {kind}, publishing and warming them")
        files = datasets.make_files(disk / "plain" / kind, kind, counts[kind], sizes)
        made[kind] = datasets.publish(files, store, disk / "state", disk / "scratch")
        datasets.warm(made[kind], cache)
    return made


@contextmanager
def _opened(checkout: Path, versions: Mapping[str, Version], disk: Path, name: str) -> Iterator[list[System]]:
    """Views opened by a process that runs the code of a checkout. Raises Explained when it ends before they are there."""
    told = {
        "folder": str(disk / name),
        "store": str(disk / "store"),
        "cache": str(disk / "cache"),
        "versions": {
            kind: {"id": one.want.version, "plain": str(one.files.folder), "bytes": one.files.bytes}
            for kind, one in versions.items()
        },
    }
    path = os.pathsep.join([str(checkout), str(checkout / "plugins")])
    process = subprocess.Popen(
        [sys.executable, "-c", _OPEN, json.dumps(told)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=checkout,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise Explained(
                f"the views of {checkout}", f"its process ended with {process.wait()}", "see its log"
            )
        found = json.loads(line)
        yield [System(one, {kind: Path(at) for kind, at in places.items()}) for one, places in found.items()]
    finally:
        process.stdin.close()
        process.wait(120)


def _measure(
    program: Path,
    found: Sequence[tuple[str, System]],
    versions: Mapping[str, Version],
    rounds: int,
    folder: Path,
) -> Rates:
    rates: dict[tuple[str, str, int, str, str], list[float]] = defaultdict(list)
    for turn in range(rounds):
        say(f"reads, round {turn + 1} of {rounds}")
        chance = random.Random(turn)
        for kind, version in versions.items():
            names = chance.sample(version.files.names, len(version.files.names))
            for readers in READERS:
                for opening, system in chance.sample(list(found), len(found)):
                    listed = reader.write_list(folder / "names", system.folders[kind], names)
                    reader.drop_caches()
                    cold = reader.run_list(program, "read", listed, readers)
                    hot = reader.read_hot(program, listed, readers, HOT_S)
                    rates[kind, "cold", readers, opening, system.name].append(cold.rate)
                    rates[kind, "hot", readers, opening, system.name].append(hot.rate)
    return rates


def _rows(rates: Rates, name: str, base: str) -> Iterator[Row]:
    for kind, title in KINDS.items():
        for state in ("cold", "hot"):
            for readers in READERS:
                plain = median(rates[kind, state, readers, "", base])
                ratios = {
                    opening: median(rates[kind, state, readers, opening, name]) / plain
                    for opening, _ in _openings(Path())
                }
                spread = max(abs(ratios[one] / ratios[f"{one} again"] - 1) for one in (THIS, OTHER))
                this, other = ((ratios[one] + ratios[f"{one} again"]) / 2 for one in (THIS, OTHER))
                what = f"{title}, {state}, {readers} reader{'s' if readers > 1 else ''}: {name}"
                goal = f">= {1 - ALLOWED - spread:.3f}"
                yield row(what, this, f"x {base}", ("the other build", other), goal)


def _commit(checkout: Path) -> str:
    """The commit of a checkout, or its folder where it is none."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else checkout.name
