"""`outlap bench read`: a warm node against the plain file system, JuiceFS and rclone, on the same files in the same run.

Every figure is the median of several rounds in which the systems take turns. Cold: the page cache and the caches of names
and inodes are empty; what a system keeps in its own processes stays. Hot: read just before.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from statistics import median
from types import FrameType

from benchmarks import datasets, reader, report, rivals, systems, walks, warmup
from benchmarks.datasets import Version
from benchmarks.report import Plot, Report, Row, row
from benchmarks.systems import JUICEFS, KERNEL, LOOP, NEAR, TREE, System
from lake.errors import NotFound, Refused
from outlap.show import say

KINDS = {"frames": "frames (30–300 kB)", "small": "files (2–14 kB)"}
READERS = (1, 4)
PRIORITY = -10
MEMORY = Path("/dev/shm")  # tmpfs, for warm-ups that no disk limits
# (kind, cold or hot, system) → goal of the ratio
PLAIN_GOALS = {
    ("frames", "cold", KERNEL): ">= 1.1",
    ("frames", "hot", KERNEL): ">= 1.0",
    ("small", "cold", KERNEL): ">= 1.5",
    ("small", "hot", KERNEL): ">= 0.98",
}
JUICEFS_GOALS = {
    ("frames", "cold", KERNEL): ">= 3.5",
    ("frames", "hot", KERNEL): ">= 5",
    ("frames", "cold", TREE): ">= 1.5",
    ("frames", "cold", NEAR): ">= 1.8",
}
Rates = Mapping[tuple[str, str, int, str], Sequence[float]]  # (kind, cold or hot, readers, system) → files/s


@dataclass(frozen=True)
class Size:
    """How much is measured. reads_s, walks_s: seconds after which no round of them begins; hot_s: seconds of a hot read."""

    frames: int
    small: int
    tree: int
    rounds: int
    reads_s: float
    rounds_of_walks: int
    walks_s: float
    rounds_of_warms: int
    hot_s: float
    first_reads: int


FULL = Size(
    frames=4_000,
    small=10_000,
    tree=200_000,
    rounds=15,
    reads_s=220,
    rounds_of_walks=3,
    walks_s=60,
    rounds_of_warms=5,
    hot_s=0.3,
    first_reads=1_500,
)
QUICK = Size(
    frames=200,
    small=500,
    tree=2_000,
    rounds=1,
    reads_s=0,
    rounds_of_walks=1,
    walks_s=0,
    rounds_of_warms=1,
    hot_s=0.05,
    first_reads=100,
)


def run(quick: bool) -> Report:
    """Measure everything. Raises Refused when this machine cannot: not root, no disk file system, no C compiler."""
    size = QUICK if quick else FULL
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        disk, memory = folders(stack)
        stack.enter_context(ahead_of_others())
        return _run(stack, size, disk, memory)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run like Ctrl-C does: mounts and processes go first."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {which: signal.signal(which, end) for which in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


@contextmanager
def ahead_of_others() -> Iterator[None]:
    """Everything that is measured, daemons too, before whatever else runs here: all of them alike, and less by chance."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, min(before, PRIORITY))
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def folders(stack: ExitStack) -> tuple[Path, Path]:
    """(on a disk, on tmpfs): gone at the end. TMPDIR chooses the disk."""
    if os.geteuid() != 0:
        raise Refused("the benchmark", "it mounts and empties the page cache", "run it as root")
    place = Path(os.environ.get("TMPDIR", "/var/tmp"))
    if (kind := systems.kind_of_disk(place)) in ("tmpfs", "overlay", "ramfs"):
        raise Refused(f"the folder {place}", f"{kind} is no disk", "set TMPDIR to a folder on ext4 or xfs")
    if shutil.disk_usage(place).free < 8 << 30:
        raise Refused(f"the folder {place}", "less than 8 GiB are free", "make room, or set TMPDIR")
    disk = Path(tempfile.mkdtemp(prefix="outlap-bench-", dir=place))
    stack.callback(shutil.rmtree, disk, ignore_errors=True)
    stack.callback(rivals.sweep, disk)
    memory = Path(tempfile.mkdtemp(prefix="outlap-bench-", dir=MEMORY))
    stack.callback(shutil.rmtree, memory, ignore_errors=True)
    return disk, memory


def _installed(name: str) -> bool:
    try:
        rivals.program(name)
    except NotFound:
        say(f"{name} is not installed and is left out; `make bench` installs it")
        return False
    return True


def _run(stack: ExitStack, size: Size, disk: Path, memory: Path) -> Report:
    program = reader.compile_reader(disk)
    reader.drop_caches()
    with_juicefs = all([_installed("juicefs"), _installed("redis-server")])
    with_rclone = _installed("rclone")
    load = os.getloadavg()[0]
    redis = None
    if with_juicefs:
        port, _ = stack.enter_context(rivals.redis(disk / "redis"))
        redis = f"redis://127.0.0.1:{port}"
    versions = _publish(size, disk)
    cache = datasets.cache_in(disk / "cache")
    for version in versions.values():
        datasets.warm(version, cache)
    plain = disk / "plain"
    base = systems.kind_of_disk(plain)
    with ExitStack() as mounts:
        found = [System(base, {kind: plain / kind for kind in versions})]
        found += systems.open_views(mounts, versions, cache, disk / "views")
        if redis is not None:
            found.append(systems.open_juicefs(mounts, versions, disk / "juicefs", f"{redis}/0", say))
        if with_rclone:
            found.append(systems.open_rclone(mounts, program, versions, plain, disk / "rclone", say))
        datasets.settle()
        rates = measure(program, found, versions, size, disk)
    names = [system.name for system in found]
    rows = read_rows(rates, names, base)
    rows += _first_reads(program, versions["frames"], size.first_reads, disk)
    with ExitStack() as mounts:
        (disk / "tree").mkdir()
        pack = datasets.pack_paths(versions["frames"], cache)[0]
        trees = walks.open_trees(mounts, program, size.tree, disk / "tree", pack, redis, say)
        datasets.settle()
        walked = walks.measure(program, trees, size.tree, size.rounds_of_walks, size.walks_s, say)
    rows += walks.rows(walked, size.tree, base)
    database = f"{redis}/0" if redis is not None else None
    warmed = warmup.measure(versions["frames"], disk, memory, database, size.rounds_of_warms, say)
    rows += warmup.rows(warmed, versions["frames"].files.bytes, base)
    machine = report.machine(_versions(base, with_juicefs, with_rclone))
    machine["load when it began and ended"] = f"{load:.1f}, {os.getloadavg()[0]:.1f}"
    rounds, walk_rounds = max(map(len, rates.values())), max(map(len, walked.seconds.values()))
    plots = (*_plots(rates, names), _walk_plot(walked, size.tree))
    return Report(
        "outlap bench read", machine, tuple(rows), _notes(size, versions, rounds, walk_rounds), plots
    )


def _publish(size: Size, disk: Path) -> dict[str, Version]:
    say(f"making {size.frames} frames and {size.small} small files, and publishing them")
    store = datasets.folder_store(disk / "store")
    made = {}
    for kind, count, sizes in (
        ("frames", size.frames, datasets.frame_size),
        ("small", size.small, datasets.small_size),
    ):
        files = datasets.make_files(disk / "plain" / kind, kind, count, sizes)
        made[kind] = datasets.publish(files, store, disk / "state", disk / "scratch")
    return made


def measure(
    program: Path, found: Sequence[System], versions: Mapping[str, Version], size: Size, folder: Path
) -> Rates:
    """Files per second of each system: cold and then hot, with each number of readers, in turns."""
    rates: dict[tuple[str, str, int, str], list[float]] = defaultdict(list)
    ends = time.monotonic() + size.reads_s
    for turn in range(size.rounds):
        if turn and time.monotonic() > ends:
            break
        say(f"reads, round {turn + 1} of {size.rounds}")
        chance = random.Random(turn)
        taking = [system for system in found if turn % system.every == 0]
        for kind, version in versions.items():
            names = chance.sample(version.files.names, len(version.files.names))
            for readers in READERS:
                # in any order: a shared disk remembers for a while how much was asked of it just before
                for system in chance.sample(taking, len(taking)):
                    chosen = names[: len(names) // system.share]
                    listed = reader.write_list(folder / "names", system.folders[kind], chosen)
                    reader.drop_caches()
                    cold = reader.run_list(program, "read", listed, readers)
                    if system.share == 1 and cold.bytes != version.files.bytes:
                        raise reader.Unmeasured(f"reads of {system.name}", f"{cold.bytes} bytes came")
                    rates[kind, "cold", readers, system.name].append(cold.rate)
                    rates[kind, "hot", readers, system.name].append(
                        reader.read_hot(program, listed, readers, size.hot_s).rate
                    )
    return rates


def read_rows(rates: Rates, names: Sequence[str], base: str) -> list[Row]:
    """Each system against the plain file system, and ours against JuiceFS."""
    made = []
    for kind, title in KINDS.items():
        for state in ("cold", "hot"):
            for readers in READERS:
                seen = {name: median(rates[kind, state, readers, name]) for name in names}
                what = f"{title}, {state}, {readers} reader{'s' if readers > 1 else ''}"
                for name, value in seen.items():
                    against = None if name == base else (base, seen[base])
                    goal = PLAIN_GOALS.get((kind, state, name))
                    made.append(row(f"{what}: {name}", value, "files/s", against, goal))
                    if name in (KERNEL, LOOP, TREE, NEAR) and JUICEFS in seen:
                        goal = JUICEFS_GOALS.get((kind, state, name))
                        made.append(row(f"{what}: {name}", value, "files/s", (JUICEFS, seen[JUICEFS]), goal))
    return made


def _first_reads(program: Path, version: Version, count: int, disk: Path) -> list[Row]:
    """Frames of which nothing is on the node: fetchfs brings each from the store, checks and keeps it, then answers."""
    made = []
    for readers in READERS:
        folder = disk / f"first-{readers}"
        with ExitStack() as stack:
            node = stack.enter_context(systems.fetchfs(folder, version, folder / "cache"))
            devices = tuple(node.fetchfs_file(part.id) for part in version.want.packs)
            stack.enter_context(
                systems.view("kernel", version, devices, folder / "views", folder / "view", node.fetchfs)
            )
            names = version.files.names[:count]
            listed = reader.write_list(folder / "names", folder / "view", names)
            reader.drop_caches()
            rate = reader.run_list(program, "read", listed, readers).rate
        what = f"frames that are only in the store, first read, {readers} reader{'s' if readers > 1 else ''}"
        made.append(row(f"{what}: {NEAR}", rate, "files/s"))
    return made


def _versions(base: str, with_juicefs: bool, with_rclone: bool) -> dict[str, str]:
    found = {"disk": base, "outlap": package_version("outlap")}
    if with_juicefs:
        found["juicefs"] = rivals.version_of(rivals.program("juicefs"), "version").removeprefix(
            "juicefs version "
        )
        words = rivals.version_of(rivals.program("redis-server"), "--version").split()
        found["redis"] = next(word[2:] for word in words if word.startswith("v="))
    if with_rclone:
        found["rclone"] = rivals.version_of(rivals.program("rclone"), "version").removeprefix("rclone ")
    return found


def _notes(size: Size, versions: Mapping[str, Version], rounds: int, walk_rounds: int) -> tuple[str, ...]:
    files = "; ".join(
        f"{len(v.files.names):,} {KINDS[kind]}, {v.files.bytes / len(v.files.names) / 1000:.1f} kB in the mean, "
        f"in {len(v.want.packs)} packs"
        for kind, v in versions.items()
    )
    return (
        f"{files}; the tree of the walks has {size.tree:,} empty files in folders of {walks.IN_A_FOLDER}.",
        f"Medians of {rounds} rounds (walks {walk_rounds}, warm-up {size.rounds_of_warms}), in which the systems take "
        f"turns, all at priority {PRIORITY}; daemons take part in one round of {systems.DAEMONS_EVERY}, rclone in one of "
        f"{systems.RCLONE_EVERY} with a tenth of the files. A ratio is this row to what it is against.",
        "The reader is a small C program (benchmarks/reader.c): open, fstat, read to the end, close, in random order.",
        "Cold: page cache, names and inodes of the kernel dropped, what daemons keep in their own memory stays. Hot: read just before.",
        "JuiceFS: Redis on this machine, objects in a folder of the same disk, attr, entry, dir-entry, readdir and open caches on "
        "for a day, warmed with `juicefs warmup`. rclone: VFS cache full, every file read once before.",
        f"{NEAR}: the bytes are on the node, but the packs are served by fetchfs, as those of a partly warm version are.",
        "Memory: growth of the kernel's slab in a cold stat walk, and the daemon (pyfuse3 tree, JuiceFS; not Redis) whole.",
        "Warm-up: the frames, from a store that is a folder in the page cache. MB/s of the files' bytes.",
    )


def _plots(rates: Rates, names: Sequence[str]) -> tuple[Plot, ...]:
    cases = [(state, readers) for state in ("cold", "hot") for readers in READERS]
    return tuple(
        Plot(
            f"{title}: {state}",
            "files/s",
            tuple(f"{readers} reader{'s' if readers > 1 else ''}" for _, readers in chosen),
            {name: [median(rates[kind, state, readers, name]) for _, readers in chosen] for name in names},
        )
        for kind, title in KINDS.items()
        for state in ("cold", "hot")
        for chosen in [[case for case in cases if case[0] == state]]
    )


def _walk_plot(walked: walks.Walked, count: int) -> Plot:
    return Plot(f"walks of {count:,} files", "files/s", walks.groups(), walks.rates(walked, count))
