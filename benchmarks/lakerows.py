"""Manifests and catalogues of synthetic rows at any size, measured one phase to a process, so that each has its own peak of memory.

    python -m benchmarks.lakerows PHASE FOLDER ROWS    → {"rows", "seconds", "cpu_s", "peak_mib", …}

Phases build on each other in FOLDER: `build`, `change` (1 % of the drives have other bytes), `grow` (1 % more at the end), `verify`
(every part and location read and checked), `diff` (of the first two), `diff-grown`, `diff-all` (against a version that shares nothing),
`catalog`, `query`, `query-day`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lake import building, catalog, compare, manifests, stores, versions
from lake.config import StoreConfig
from lake.manifests import FRAME_COLUMNS, KEY_COLUMNS
from lake.packs import pack_key
from lake.stores import Store

CHANNELS = 6
DRIVE_ROWS = 12_000
PACK_ROWS = 2_000
STRIDE = 1 << 17
HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
COLUMNS = (*KEY_COLUMNS, *FRAME_COLUMNS)


def _hashes(random: np.random.Generator, count: int) -> Any:
    raw = random.integers(0, 256, (count, 32), dtype=np.uint8)
    digits = np.empty((count, 64), np.uint8)
    digits[:, 0::2], digits[:, 1::2] = HEX[raw >> 4], HEX[raw & 15]
    offsets = np.arange(count + 1, dtype=np.int32) * 64
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits))


def _repeated(values: list[str], places: Any) -> Any:
    return pa.array(values, pa.string()).take(pa.array(places))


def day_of(drive: int) -> tuple[str, str]:
    """(date, vehicle): ten drives a day, one of each vehicle."""
    day = np.datetime64("2026-01-01") + drive // 10
    return str(day), f"car-{drive % 10}"


def drive_rows(drive: int, seed: int = 0) -> pa.Table:
    """COLUMNS, pack and offset of the 12,000 frames of a drive, sorted by path; bytes by seed."""
    random = np.random.default_rng([seed, drive])
    per = DRIVE_ROWS // CHANNELS
    channel, place = np.divmod(np.arange(DRIVE_ROWS), per)
    # names ascend with the drive, so that the rows of many drives come sorted
    name = f"d{drive:06d}"
    times = pa.array(1_700_000_000_000_000_000 + drive * 10**13 + place * 500_000_000)
    folders = _repeated([f"720p/{name}/CAM_{number}" for number in range(CHANNELS)], channel)
    files = pc.binary_join_element_wise(times.cast(pa.string()), "jpg", ".")
    ones = np.zeros(DRIVE_ROWS, np.int64)
    packs = [f"{seed + 1:032x}{drive * 1000 + number:032x}" for number in range(DRIVE_ROWS // PACK_ROWS)]
    return pa.table(
        {
            "path": pc.binary_join_element_wise(folders, files, "/"),
            "content_id": _hashes(random, DRIVE_ROWS),
            "size": pa.array(random.integers(30_000, STRIDE, DRIVE_ROWS)),
            "drive": _repeated([name], ones),
            "channel": _repeated([f"CAM_{number}" for number in range(CHANNELS)], channel),
            "timestamp_ns": times,
            "sample_id": pc.binary_join_element_wise(name, pa.array(place).cast(pa.string()), "-"),
            "width": pa.array(np.full(DRIVE_ROWS, 1280, np.int32)),
            "height": pa.array(np.full(DRIVE_ROWS, 720, np.int32)),
            "recipe": _repeated(["ab" * 32], ones),
            "pack": _repeated(packs, np.arange(DRIVE_ROWS) // PACK_ROWS),
            "offset": pa.array((np.arange(DRIVE_ROWS) % PACK_ROWS) * STRIDE),
        }
    )


def open_folder(folder: Path) -> Store:
    return stores.open_store(StoreConfig(name="bench", idc="here", url=f"file://{folder / 'store'}"))


def _build(folder: Path, rows: int, name: str, seed_of: Callable[[int], int]) -> dict[str, float]:
    """Time of the generator is not counted, in seconds or in seconds of CPU."""
    store, made, made_cpu = open_folder(folder), 0.0, 0.0

    def batches() -> Iterator[pa.Table]:
        nonlocal made, made_cpu
        for drive in range(rows // DRIVE_ROWS):
            started, cpu = time.perf_counter(), time.thread_time()
            table = drive_rows(drive, seed_of(drive))
            made += time.perf_counter() - started
            made_cpu += time.thread_time() - cpu
            yield table

    started, cpu = time.perf_counter(), time.process_time()
    names = [name for name, _ in COLUMNS]
    parts = building.checked_parts(batches(), "rows")
    built = [one for _, one in building.put_parts(store, parts, names)]
    version, root = manifests.make_root(
        [(name, str(kind)) for name, kind in COLUMNS], [one.part for one in built]
    )
    stores.put_if_absent(store, manifests.root_key(version), root)
    seconds, cpu = time.perf_counter() - started - made, time.process_time() - cpu - made_cpu
    files, size = sum(one.part.rows for one in built), sum(one.part.bytes for one in built)
    uses = tuple(
        versions.PackUse(f"{seed_of(drive) + 1:032x}{drive * 1000 + number:032x}", PACK_ROWS * STRIDE, 1, 1)
        for drive in range(rows // DRIVE_ROWS)
        for number in range(DRIVE_ROWS // PACK_ROWS)
    )
    locations = tuple(one.locations for one in built)
    versions.write_available(store, versions.Available(version, files, size, locations, uses))
    (folder / name).write_text(version)
    return {"rows": files, "seconds": seconds, "cpu_s": cpu, "parts": len(built)}


def _verify(folder: Path) -> dict[str, float]:
    store, rows = open_folder(folder), 0
    started, cpu = time.perf_counter(), time.process_time()
    for table in versions.rows(store, (folder / "old").read_text()):
        rows += table.num_rows
    return {"rows": rows, "seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}


def _diff(folder: Path, other: str) -> dict[str, float]:
    store, changed = open_folder(folder), 0
    old, new = (folder / "old").read_text(), (folder / other).read_text()
    # what the first read of a process costs (threads, code of Arrow that is not in memory yet) is that of any command
    manifests.read_part(store, manifests.read_root(store, old).parts[0].id)
    started, cpu = time.perf_counter(), time.process_time()
    for step in compare.differences(store, old, new):
        changed += step.added.num_rows + step.removed.num_rows + step.changed.num_rows
    files = manifests.read_root(store, old).files
    seconds = time.perf_counter() - started
    return {"rows": files, "seconds": seconds, "cpu_s": time.process_time() - cpu, "changed": changed}


def _catalog(folder: Path, rows: int) -> dict[str, float]:
    store, started, cpu = open_folder(folder), time.perf_counter(), time.process_time()
    for drive in range(rows // DRIVE_ROWS):
        date, vehicle = day_of(drive)
        table = drive_rows(drive)
        empty = {
            field.name: pa.nulls(DRIVE_ROWS, field.type)
            for field in catalog.FRAME_SCHEMA
            if field.name not in table.schema.names
        }
        for name, value in {**empty, "vehicle": vehicle, "date": date, "output": "720p"}.items():
            table = table.append_column(
                name, _repeated([value], np.zeros(DRIVE_ROWS, int)) if isinstance(value, str) else value
            )
        for pack in table["pack"].unique().to_pylist():
            stores.put(store, pack_key(pack), b"stands for a pack")
        catalog.write_frames(store, table, date, vehicle, f"d{drive:06d}", "ab" * 32)
    count = rows // DRIVE_ROWS * DRIVE_ROWS
    return {"rows": count, "seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}


def _query(folder: Path, where: str) -> dict[str, float]:
    store, found = open_folder(folder), 0
    started, cpu = time.perf_counter(), time.process_time()
    with catalog.query(store, f"select * from frames where {where}", folder / "scratch") as answer:
        for table in answer.rows:
            found += table.num_rows
        files = len(answer.files)
    seconds = time.perf_counter() - started
    return {"rows": found, "seconds": seconds, "cpu_s": time.process_time() - cpu, "files": files}


def measure(phase: str, folder: Path, rows: int) -> dict[str, float]:
    """One phase, in this process: what it did and this process's peak of memory in MiB."""
    phases: dict[str, Callable[[], dict[str, float]]] = {
        "build": lambda: _build(folder, rows, "old", lambda drive: 0),
        "change": lambda: _build(folder, rows, "new", lambda drive: int(drive % 100 == 7)),
        "build-other": lambda: _build(folder, rows, "other", lambda drive: 2),
        "grow": lambda: _build(folder, rows + max(rows // 100, DRIVE_ROWS), "grown", lambda drive: 0),
        "verify": lambda: _verify(folder),
        "diff": lambda: _diff(folder, "new"),
        "diff-grown": lambda: _diff(folder, "grown"),
        "diff-all": lambda: _diff(folder, "other"),
        "catalog": lambda: _catalog(folder, rows),
        "query": lambda: _query(folder, "output = '720p'"),
        "query-day": lambda: _query(folder, "date = '2026-01-02' and vehicle = 'car-3'"),
    }
    done = phases[phase]()
    return {**done, "peak_mib": _peak_kib() / 1024}


def _peak_kib() -> int:
    """Of this program alone: ru_maxrss would begin with what its parent had when it was forked."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
