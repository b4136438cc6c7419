"""Warm-up: packs from a store into a cache, every byte checked; against a bare loop, JuiceFS, and the disk itself."""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from blake3 import blake3

from benchmarks import datasets, rivals
from benchmarks.datasets import Version
from benchmarks.report import Row, row
from benchmarks.systems import JUICEFS, Say
from cacheengine import metrics, wanted
from cacheengine.fetching import fetch
from lake import stores
from lake.packs import pack_key
from lake.versions import read_available

OURS, BARE, SEQUENTIAL = (
    "warm",
    "a bare loop of the same GETs, BLAKE3 and writes",
    "one sequential write, fsync",
)
CHUNK = 8 << 20


@dataclass
class Warmed:
    """Seconds by who, one for each round; requests made to the store for one warm-up."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    requests: dict[str, int] = field(default_factory=dict)


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """An empty folder that is gone after."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _ours(version: Version, folder: Path, scratch: Path) -> tuple[float, float]:
    """Seconds of (reading the rows of the version as a new node does, making it resident)."""
    with _fresh(folder) as fresh, _fresh(scratch) as views:
        start = time.perf_counter()
        want = wanted.save_want(version.store, views, version.want.version)
        planned = time.perf_counter()
        datasets.warm(version, datasets.cache_in(fresh), want)
        return planned - start, time.perf_counter() - planned


def _bare(version: Version, folder: Path) -> float:
    """The ranged GETs that our fetch makes, each member hashed, each range written where it belongs; nothing else."""
    with _fresh(folder) as fresh:
        parts = [fetch.unique_members(part)[0] for part in wanted.read_packs(version.want)]
        start = time.perf_counter()
        with ThreadPoolExecutor(datasets.CONCURRENCY) as pool:
            for part in parts:
                fd = os.open(fresh / part.pack, os.O_RDWR | os.O_CREAT)
                os.ftruncate(fd, part.size)

                def take(piece: fetch.Piece, part: wanted.PackWant = part, fd: int = fd) -> None:
                    key = pack_key(part.pack)
                    data = memoryview(stores.get_range(version.store, key, piece.offset, piece.length))
                    for row in range(piece.first, piece.last):
                        at = int(part.offset[row]) - piece.offset
                        blake3(data[at : at + int(part.length[row])]).digest()
                    os.pwrite(fd, data, piece.offset)

                list(pool.map(take, fetch.plan(part.offset, part.length)))
                os.close(fd)
        return time.perf_counter() - start


def _sequential(version: Version, folder: Path) -> float:
    """As many bytes as the packs have, written one after the other to one file, then fsync."""
    with _fresh(folder) as fresh:
        block, left = os.urandom(CHUNK), sum(part.size for part in version.want.packs)
        start = time.perf_counter()
        with (fresh / "file").open("wb", buffering=0) as out:
            while left > 0:
                left -= out.write(block[: min(CHUNK, left)])
            os.fsync(out.fileno())
        return time.perf_counter() - start


def _juicefs(kind: str, folder: Path, cache: Path, database: str) -> tuple[float, int]:
    """Seconds of `juicefs warmup` into an empty cache, and the GETs it made."""
    with _fresh(cache), rivals.juicefs(folder, cache, database) as seen:
        start = time.perf_counter()
        rivals.run(rivals.program("juicefs"), "warmup", str(seen.target / kind))
        return time.perf_counter() - start, rivals.juicefs_gets(seen.target)


def measure(
    version: Version, disk: Path, memory: Path, database: str | None, rounds: int, say: Say
) -> Warmed:
    """All of them in turns. disk, memory: folders to work in; the store's objects stay in the page cache."""
    warmed = Warmed()
    for part in version.want.packs:
        stores.get(version.store, pack_key(part.id))  # the store is the same for all: in memory
    for turn in range(rounds):
        say(f"warm-up, round {turn + 1} of {rounds}")
        before = metrics.total(metrics.store_requests)
        planned, took = _ours(version, memory / "cache", memory / "views")
        warmed.requests[OURS] = metrics.total(metrics.store_requests) - before + _row_requests(version)
        warmed.seconds["rows"].append(planned)
        warmed.seconds[OURS].append(took)
        warmed.seconds[BARE].append(_bare(version, memory / "bare"))
        if database is not None:
            took, gets = _juicefs(version.files.kind, disk / "juicefs", memory / "juicefs", database)
            warmed.seconds[JUICEFS].append(took)
            warmed.requests[JUICEFS] = gets
        datasets.settle()
        warmed.seconds["disk"].append(_ours(version, disk / "cache", disk / "views")[1])
        datasets.settle()
        warmed.seconds[SEQUENTIAL].append(_sequential(version, disk / "sequential"))
    return warmed


def _row_requests(version: Version) -> int:
    """Objects that a node reads to learn the rows: the availability, the root, each part and its locations."""
    return 2 + 2 * len(read_available(version.store, version.want.version).locations)


def rows(warmed: Warmed, size: int, disk: str) -> list[Row]:
    """MB/s of the files' bytes. size: of them all; disk: the kind of file system."""

    def speed(name: str, more: str | None = None) -> float:
        extra = median(warmed.seconds[more]) if more is not None else 0.0
        return size / 1e6 / (median(warmed.seconds[name]) + extra)

    made = [
        row("warm from packs into tmpfs", speed(OURS), "MB/s", (BARE, speed(BARE)), ">= 0.9"),
        row(BARE + " (tmpfs)", speed(BARE), "MB/s"),
    ]
    if JUICEFS in warmed.seconds:
        rival = (f"{JUICEFS} warmup, its cache on tmpfs", speed(JUICEFS))
        made += [
            row(
                "warm from packs into tmpfs, reading the rows included",
                speed(OURS, "rows"),
                "MB/s",
                rival,
                ">= 2",
            ),
            row(rival[0], rival[1], "MB/s"),
            row(
                "store requests of a warm-up",
                warmed.requests[OURS],
                "requests",
                (JUICEFS, warmed.requests[JUICEFS]),
                "<= 0.02",
            ),
        ]
    base = (SEQUENTIAL, speed(SEQUENTIAL))
    made.append(row(f"warm from packs onto the disk ({disk})", speed("disk"), "MB/s", base, ">= 0.85"))
    made.append(row(f"{SEQUENTIAL} ({disk})", base[1], "MB/s"))
    return made
