"""Walks of a tree of many small names: `find`, a listing, a `stat` of every entry; and what a remembered file costs in memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import reader, rivals, systems
from benchmarks.report import Row, row
from benchmarks.systems import JUICEFS, JUICEFS_AS_IT_IS, KERNEL, TREE, Say, System
from cacheengine.views.views import ViewPlan

IN_A_FOLDER = 200
# in JuiceFS' dump: seconds since the epoch, any will do
_TIME = {"atime": 1, "mtime": 1, "ctime": 1}
WALKS = ("find", "readdir", "stat")
GOALS = {("find", "cold"): ">= 3", ("stat", "cold"): ">= 5", ("stat", "hot"): ">= 2.8"}


def tree_names(count: int) -> list[str]:
    """Paths in folders of 200, sorted."""
    return [f"d{place // IN_A_FOLDER:05d}/f{place:08d}.jpg" for place in range(count)]


def dump_of(empty: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """JuiceFS' own dump of an empty file system with these empty files in it: far faster to load than to write.

    Source of the format: `juicefs dump`.
    """
    folders: dict[str, dict[str, Any]] = {}
    inode = 1

    def entry(kind: str, mode: int, nlink: int) -> dict[str, Any]:
        nonlocal inode
        inode += 1
        what = {"inode": inode, "type": kind, "mode": mode, "uid": 0, "gid": 0, "nlink": nlink, "length": 0}
        return {"attr": {**what, **_TIME}}

    for name in names:
        folder, _, leaf = name.partition("/")
        if folder not in folders:
            folders[folder] = {**entry("directory", 0o755, 2), "entries": {}}
        folders[folder]["entries"][leaf] = entry("regular", 0o644, 1)
    tree = dict(empty["FSTree"])
    tree["attr"] = {**tree["attr"], "nlink": 2 + len(folders)}
    tree["entries"] = folders
    counters = {**empty["Counters"], "usedSpace": 4096 * inode, "usedInodes": inode - 1}
    return {**empty, "Counters": {**counters, "nextInodes": inode + 1024}, "FSTree": tree}


@contextmanager
def juicefs_tree(
    folder: Path, url: str, names: Sequence[str]
) -> Iterator[tuple[rivals.Mounted, rivals.Mounted]]:
    """Two mounts of a JuiceFS with these names: one keeps them for a day, the other for as long as JuiceFS does by itself.

    url: of a Redis whose databases 1 and 2 are free, without the number.
    """
    rivals.format_juicefs(f"{url}/1", folder / "bucket")
    dumped = folder / "dump.json"
    rivals.run(rivals.program("juicefs"), "dump", f"{url}/1", str(dumped))
    dumped.write_text(json.dumps(dump_of(json.loads(dumped.read_text()), names)))
    rivals.run(rivals.program("juicefs"), "load", f"{url}/2", str(dumped))
    (folder / "own").mkdir()
    with (
        rivals.juicefs(folder, folder / "cache", f"{url}/2") as patient,
        rivals.juicefs(folder / "own", folder / "own-cache", f"{url}/2", patient=False) as own,
    ):
        yield patient, own


def open_trees(
    stack: ExitStack, program: Path, count: int, folder: Path, pack: Path, redis: str | None, say: Say
) -> list[System]:
    """The same tree on the disk, in our views and in JuiceFS. pack: any pack, as the device of the views."""
    names, plain = tree_names(count), folder / "plain"
    for name in names[::IN_A_FOLDER]:
        (plain / name).parent.mkdir(parents=True)
    say(f"making {count} files")
    listed = reader.write_list(folder / "names", plain, names)
    reader.run_list(program, "make", listed, 2)
    found = [System(systems.kind_of_disk(plain), {"tree": plain})]
    systems.tree_rows(folder / "rows.parquet", names, pack.stem)
    for backend, name in (systems.VIEWS[0], systems.VIEWS[2]):
        plan = ViewPlan(
            dataset="tree",
            tag="v1",
            version="0" * 64,
            target=folder / f"{backend}-view",
            rows=folder / "rows.parquet",
            packs=(pack.stem,),
            devices=(pack,),
            state=folder / f"{backend}-state",
        )
        seen = stack.enter_context(systems.mounted(backend, plan))
        found.append(System(name, {"tree": plan.target}, () if seen.pid is None else (seen.pid,)))
    if redis is not None:
        (folder / "juicefs").mkdir()
        patient, own = stack.enter_context(juicefs_tree(folder / "juicefs", redis, names))
        found.append(System(JUICEFS, {"tree": patient.target}, patient.pids))
        found.append(System(JUICEFS_AS_IT_IS, {"tree": own.target}, own.pids))
    return found


@dataclass
class Walked:
    """Seconds by (system, walk, cold or hot), one for each round; bytes a file by system."""

    seconds: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def _find(folder: Path) -> float:
    command = [shutil.which("find") or "find", str(folder), "-type", "f"]
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def measure(
    program: Path, found: Sequence[System], count: int, rounds: int, seconds: float, say: Say
) -> Walked:
    """Each walk of each tree, cold and then hot, in turns; no round begins after so many seconds.

    Raises Unmeasured when a tree does not have all its files.
    """

    def walk(verb: str, folder: Path) -> float:
        if verb == "find":
            return _find(folder)
        seen = reader.walk(program, "walk" if verb == "stat" else "readdir", folder)
        if seen.files != count:
            raise reader.Unmeasured(f"a walk of {folder}", f"it found {seen.files} of {count} files")
        return seen.seconds

    walked = Walked()
    ends = time.monotonic() + seconds
    for turn in range(rounds):
        if turn and time.monotonic() > ends:
            break
        say(f"walks, round {turn + 1} of {rounds}")
        for verb in WALKS:
            for system in _turned(found, turn):
                if system.name == JUICEFS_AS_IT_IS and (turn or verb != "stat"):
                    continue  # it asks Redis for every name: once is long enough
                folder = system.folders["tree"]
                reader.drop_caches()
                _find(Path(__file__).parent)  # find itself and the reader into memory
                before = reader.slab_bytes()
                walked.seconds[system.name, verb, "cold"].append(walk(verb, folder))
                if verb == "stat":
                    kept = reader.slab_bytes() - before + reader.resident_bytes(system.pids)
                    walked.memory[system.name].append(kept / count)
                walked.seconds[system.name, verb, "hot"].append(walk(verb, folder))
    return walked


def _turned(found: Sequence[System], turn: int) -> list[System]:
    place = turn % len(found)
    return [*found[place:], *found[:place]]


def rows(walked: Walked, count: int, base: str) -> list[Row]:
    """Files per second of each walk, ours against the plain file system and JuiceFS; then memory."""

    def rate(name: str, verb: str, state: str) -> float:
        return count / median(walked.seconds[name, verb, state])

    names = list(walked.memory)
    made: list[Row] = []
    for verb in WALKS:
        for state in ("cold", "hot"):
            what = f"{verb}, {count:,} files, {state}"
            for name in names:
                if not walked.seconds.get((name, verb, state)):
                    continue
                value = rate(name, verb, state)
                against = None if name == base else (base, rate(base, verb, state))
                made.append(row(f"{what}: {name}", value, "files/s", against))
                if name in (KERNEL, TREE) and JUICEFS in names:
                    goal = GOALS.get((verb, state)) if name == KERNEL else None
                    made.append(
                        row(f"{what}: {name}", value, "files/s", (JUICEFS, rate(JUICEFS, verb, state)), goal)
                    )
                    if verb == "stat":
                        own = (JUICEFS_AS_IT_IS, rate(JUICEFS_AS_IT_IS, verb, state))
                        made.append(row(f"{what}: {name}", value, "files/s", own, goal))
    for name in names:
        value = median(walked.memory[name])
        against = None if name == base else (base, median(walked.memory[base]))
        made.append(row(f"memory per remembered file: {name}", value, "bytes", against))
    return made


def rates(walked: Walked, count: int) -> Mapping[str, list[float | None]]:
    """For a plot: of each system its rate in each walk, cold and hot, in the order of `groups`."""

    def rate(name: str, verb: str, state: str) -> float:
        return count / median(walked.seconds[name, verb, state])

    return {
        name: [rate(name, verb, state) for verb in WALKS for state in ("cold", "hot")]
        for name in walked.memory
        if name != JUICEFS_AS_IT_IS
    }


def groups() -> tuple[str, ...]:
    return tuple(f"{verb}\n{state}" for verb in WALKS for state in ("cold", "hot"))
