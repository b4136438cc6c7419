"""`outlap bench nightly`: what a night with 1 % new drives asks of the stores, beside the night in which everything was new.

Two IDCs' stores in a SeaweedFS of its own, behind a proxy that counts requests and bytes. Each night is published, synced to the other
IDC and made resident by the functions that Airflow's tasks, the control service and a node call.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import datasets, lakestore
from benchmarks.counted import Count, counting
from benchmarks.report import Report, Row, machine, row
from cacheengine import wanted
from cacheengine.control import totals
from cacheengine.fetching import fetch
from cacheengine.packs import packcache, reserving
from cacheengine.packs.packcache import Cache
from cacheengine.packs.reserving import Need
from lake import catalog, packs, stores, versions
from lake.config import SecretRef, StoreConfig
from lake.publish import Published, publish_query
from lake.stores import Store
from lake.sync import sync
from lake.verified import keep_verified

FRAMES_A_DRIVE = 200
VEHICLES = 4
RECIPE = "ab" * 32
SQL = "select * from frames where output = '720p'"
STEPS = ("publish", "sync", "warm")
GOAL = "<= 0.03"


@dataclass(frozen=True)
class Cost:
    """Of one step. seconds: by the clock."""

    requests: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Bench:
    """here, there: the lakes of two IDCs behind the counter; cache, views: of a node there."""

    here: Store
    there: Store
    count: Count
    cache: Cache
    folder: Path


def add_drive(store: Store, folder: Path, number: int, frames: int = FRAMES_A_DRIVE) -> None:
    """A drive as ingest leaves it: one pack of frames of 1 to 4 kB and its file of the catalogue."""
    vehicle, date = f"car-{number % VEHICLES}", f"2026-{1 + number // 28 % 12:02d}-{1 + number % 28:02d}"
    drive = f"drive-{number:06d}"
    random = np.random.default_rng(number)
    sizes = random.integers(1_000, 4_000, frames).tolist()
    names = [f"720p/{vehicle}/{drive}/CAM_FRONT/{at:019d}.jpg" for at in range(frames)]
    local = folder / "pack.tar"
    pack = packs.write_pack(
        local, ((name, random.bytes(size)) for name, size in zip(names, sizes, strict=True))
    )
    packs.put_pack(store, pack.id, local)
    local.unlink()
    fixed = {"drive": drive, "channel": "CAM_FRONT", "recipe": RECIPE, "pack": pack.id, "vehicle": vehicle}
    fixed |= {"date": date, "output": "720p"}
    columns = {name: pa.array([value] * frames) for name, value in fixed.items()}
    columns |= {name: pa.nulls(frames, pa.float64()) for name in ("latitude", "longitude", "speed_mps")}
    columns |= {
        "path": pa.array(names),
        "content_id": pack.members["content_id"],
        "size": pack.members["size"],
    }
    columns |= {"offset": pack.members["offset"], "timestamp_ns": pa.array(range(frames), pa.int64())}
    columns |= {"frame_index": pa.array(range(frames), pa.int64()), "is_key": pa.array([True] * frames)}
    columns |= {"sample_id": pa.array([f"{drive}-{at}" for at in range(frames)])}
    columns |= {"width": pa.array([1280] * frames), "height": pa.array([720] * frames)}
    table = pa.table([columns[name] for name in catalog.FRAME_SCHEMA.names], names=catalog.FRAME_SCHEMA.names)
    catalog.write_frames(store, table.cast(catalog.FRAME_SCHEMA), date, vehicle, drive, RECIPE)


def _publish(bench: Bench) -> Published:
    return publish_query(bench.here, "front", SQL, bench.folder / "scratch", {"by": "the benchmark"})


def _warm(bench: Bench) -> None:
    """What control reads to make the job, then what the node reads, fetches and checks."""
    found = totals.resolve(bench.there, "front", "latest")
    files = totals.of_version(bench.there, found.version).files
    want = wanted.save_want(bench.there, bench.folder / "views", found.version)
    missing = []
    for part in wanted.read_packs(want):
        members = fetch.unique_members(part)[0]
        mask = packcache.resident(bench.cache, members)
        if not mask.all():
            missing.append(members.take(~mask))
    needs = [Need(part.pack, part.size, part.offset, part.length) for part in missing]
    placed = reserving.reserve(bench.cache, needs, "the benchmark", lambda _: False, lambda: "make room")
    jobs = [fetch.PackJob(part, placed[part.pack]) for part in missing]
    bad = fetch.fetch(bench.there, jobs, datasets.CONCURRENCY)
    resident = sum(int(packcache.resident(bench.cache, part).sum()) for part in wanted.read_packs(want))
    if bad or resident != files:
        raise AssertionError(f"{resident} of {files} files are resident: {bad[:1]}")


def night(bench: Bench) -> tuple[dict[str, Cost], Published]:
    """Publish, sync, warm; what each cost, and the version."""
    made: list[Published] = []
    work: dict[str, Callable[[], object]] = {
        "publish": lambda: made.append(_publish(bench)),
        "sync": lambda: sync(bench.here, bench.there, "front", "latest", bench.folder / "sync"),
        "warm": lambda: _warm(bench),
    }
    costs = {}
    for step in STEPS:
        bench.count.taken()
        started = time.perf_counter()
        work[step]()
        costs[step] = Cost(*bench.count.taken(), time.perf_counter() - started)
    return costs, made[0]


def total(costs: dict[str, Cost]) -> Cost:
    each = costs.values()
    return Cost(
        sum(cost.requests for cost in each),
        sum(cost.bytes for cost in each),
        sum(cost.seconds for cost in each),
    )


def measure(folder: Path, frames: int) -> dict[str, dict[str, Cost]]:
    """{"full", "1 %", "repeated"} → costs of each step. frames: in the lake before the night with 1 % new."""
    drives, new = frames // FRAMES_A_DRIVE, max(frames // FRAMES_A_DRIVE // 100, 1)
    with lakestore.seaweed(folder / "weed") as server, counting(server.endpoint) as count:

        def lake(idc: str) -> Store:
            keys = {
                "access_key_id": SecretRef(env="BENCH_KEY_ID"),
                "secret_access_key": SecretRef(env="BENCH_KEY"),
            }
            config = StoreConfig(
                name=f"lake-{idc}", idc=idc, url=f"s3://bench/{idc}", endpoint=count.endpoint
            )
            return stores.open_store(config.model_copy(update=keys))

        here, there = lake("a"), lake("b")
        bench = Bench(here, there, count, datasets.cache_in(folder / "cache"), folder)
        for number in range(drives):
            add_drive(here, folder, number)
        full, first = night(bench)
        # a day's verification there, uncounted: what it read is not asked for again
        if not versions.verify(there, first.version, folder).problems:
            keep_verified(there, first.dataset, first.version)
        for number in range(drives, drives + new):
            add_drive(here, folder, number)
        one, second = night(bench)
        repeated, third = night(bench)
    if (first.files, second.files) != (drives * FRAMES_A_DRIVE, (drives + new) * FRAMES_A_DRIVE):
        raise AssertionError(f"{first.files} and {second.files} files were published")
    if third.version != second.version or third.is_new:
        raise AssertionError("a repeated night made another version")
    return {"full": full, "1 %": one, "repeated": repeated}


def rows_of(measured: dict[str, dict[str, Cost]], frames: int) -> list[Row]:
    full, made = measured["full"], []
    for kind, label in (("1 %", "a night with 1 % new"), ("repeated", "the same night again")):
        sums = (total(measured[kind]), total(full))
        against = f"a night in which all {frames:,} frames are new"
        goal = GOAL if kind == "1 %" else None
        made += [
            row(f"{label}: store requests", sums[0].requests, "requests", (against, sums[1].requests), goal),
            row(
                f"{label}: bytes to and from the stores",
                sums[0].bytes,
                "bytes",
                (against, sums[1].bytes),
                goal,
            ),
            row(f"{label}: seconds", sums[0].seconds, "s", (against, sums[1].seconds)),
        ]
        for step in STEPS:
            mine, theirs = measured[kind][step], full[step]
            made += [
                row(f"{label}, {step}: requests", mine.requests, "requests", (against, theirs.requests)),
                row(f"{label}, {step}: bytes", mine.bytes, "bytes", (against, theirs.bytes)),
            ]
    return made


def run(quick: bool) -> Report:
    """quick: a lake of 20,000 frames, where the requests that every night makes weigh ten times as much."""
    frames = 20_000 if quick else 200_000
    with tempfile.TemporaryDirectory() as folder:
        made = rows_of(measure(Path(folder), frames), frames)
    if quick:
        made = [replace(one, goal=None, met=None) for one in made]
    notes = (
        f"{frames:,} frames of 1 to 4 kB in drives of {FRAMES_A_DRIVE}, one pack each; four vehicles. Bytes include HTTP headers and "
        "listings; requests include HEAD and LIST.",
        "Between the first two nights the version is verified at the destination, uncounted; without that a sync asks for each pack.",
        "Ingest is not counted: it reads what is new and nothing else. Local copies of catalogue files and manifest parts are those "
        "that the night before left.",
    )
    return Report("Nightly", machine(), tuple(made), notes)
