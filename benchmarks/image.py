"""`outlap bench image`: the metadata image of large versions: rows a second, peak memory, the check of fsck, and the mount.

Each image is built in a process of its own, so that each has its own peak of memory: the rows of a version stream through it, as
they do when a node mounts. The packs are files of holes of the right size: a mount reads none of them.

    python -m benchmarks.image SHAPE ROWS PACKS FORM FILE    → {"seconds", "peak_mib", "bytes"}

FORM: `compact`, or `extended` as kernels before 6.15 need it for the times of files.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import report
from benchmarks.report import Report, Row, row
from cacheengine.content_times import EARLIEST_S, SPAN_S
from cacheengine.errors import MountFailed
from cacheengine.views import image, mountapi
from lake.errors import Explained

STEP = 1 << 17
PER_FOLDER = 12_000
STRIDE = 1 << 17  # between members of a pack, in bytes
# what is built → (folders or one folder, rows, packs), whole and quick
CASES = {
    "many folders": ("folders", 10_000_000, 1_000),
    "one folder": ("one", 1_000_000, 500),
    "many packs": ("folders", 1_000_000, 10_000),
}
QUICK_ROWS = 200_000
DEVICES_AT = 1024 + 86  # extra_devices in the superblock
FSCK_DEVICES = 250


def packs_of(count: int) -> list[str]:
    """Ids, in order."""
    return [f"{number:064x}" for number in range(count)]


def tables(shape: str, rows: int, packs: int) -> Iterator[pa.Table]:
    """Rows sorted by path; `folders`: 12,000 a folder, three deep; `one`: all in one."""
    ids = pa.array(packs_of(packs))
    for start in range(0, rows, STEP):
        place = np.arange(start, min(start + STEP, rows))
        times: Any = pc.binary_join_element_wise(
            pa.array(1_700_000_000_000_000_000 + place).cast(pa.string()), "jpg", "."
        )
        folders = pa.array([f"720p/d{number:06d}/CAM_FRONT" for number in np.unique(place // PER_FOLDER)])
        folder: Any = (
            folders.take(pa.array(place // PER_FOLDER - start // PER_FOLDER))
            if shape == "folders"
            else pa.repeat("one", len(place))
        )
        yield pa.table(
            {
                "path": pc.binary_join_element_wise(folder, times, "/"),
                "size": 30_000 + place % 100_000,
                "pack": ids.take(pa.array(place * packs // rows)),
                "offset": place % -(-rows // packs) * STRIDE,
                "mtime_s": (EARLIEST_S + place * 7919 % SPAN_S).astype(np.uint32),
            }
        )


def _build(shape: str, rows: int, packs: int, form: str, out: Path) -> dict[str, float]:
    """Seconds without those of making the rows."""
    making = 0.0

    def timed() -> Iterator[pa.Table]:
        nonlocal making
        source = tables(shape, rows, packs)
        while True:
            started = time.perf_counter()
            table = next(source, None)
            making += time.perf_counter() - started
            if table is None:
                return
            yield table

    started = time.perf_counter()
    image.build_image(out, timed(), packs_of(packs), extended=form == "extended")
    seconds = time.perf_counter() - started - making
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": peak, "bytes": out.stat().st_size}


def check(out: Path, packs: int) -> float:
    """Seconds of fsck.erofs. Raises Explained for what it finds.

    It wants a device for each pack, reads none of them, and ends in a segmentation fault when there are a thousand (erofs-utils
    1.5): it sees an image that says it has fewer. Inodes and directories are the same.
    """
    count = min(packs, FSCK_DEVICES)
    with out.open("r+b") as file:
        os.pwrite(file.fileno(), count.to_bytes(2, "little"), DEVICES_AT)
    started = time.perf_counter()
    command = ["fsck.erofs", *[f"--device={out.name}"] * count, out.name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent)
    seconds = time.perf_counter() - started
    with out.open("r+b") as file:
        os.pwrite(file.fileno(), packs.to_bytes(2, "little"), DEVICES_AT)
    if done.returncode:
        why = f"fsck.erofs ended with {done.returncode}: {done.stderr[-500:]}"
        raise Explained(f"the image {out}", why, "report it")
    return seconds


def _mount(out: Path, packs: int) -> float:
    """Seconds of a mount with all of its packs. Raises MountFailed."""
    folder = out.with_suffix(".packs")
    folder.mkdir()
    devices = [folder / f"{pack}.tar" for pack in packs_of(packs)]
    for device, size in zip(devices, image.device_sizes(out), strict=True):
        device.touch()
        os.truncate(device, size)
    target = out.with_suffix(".view")
    target.mkdir()
    started = time.perf_counter()
    mountapi.mount_erofs(out, devices, target)
    seconds = time.perf_counter() - started
    mountapi.unmount(target)
    shutil.rmtree(folder)
    return seconds


def _built(case: tuple[str, int, int], form: str, out: Path) -> dict[str, float]:
    """Build in a process of its own."""
    arguments = [*map(str, case), form, str(out)]
    command = [sys.executable, "-m", "benchmarks.image", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _extended(name: str, case: tuple[str, int, int], compact: dict[str, float], out: Path) -> Iterator[Row]:
    """What the form of inodes costs that kernels before 6.15 need, against the compact one."""
    found, rows = _built(case, "extended", out), case[1]
    what = f"image of {rows:,} rows, {name}, extended inodes"
    yield row(f"{what}: built", rows / found["seconds"], "rows/s", ("compact", rows / compact["seconds"]))
    yield row(f"{what}: size", found["bytes"] / rows, "bytes/row", ("compact", compact["bytes"] / rows))
    out.unlink()


def _measure(name: str, quick: bool, folder: Path) -> Iterator[Row]:
    shape, rows, packs = CASES[name]
    rows, packs = (QUICK_ROWS, min(packs, 100)) if quick else (rows, packs)
    goal = None if quick else ">= 500000"
    out = folder / f"{name.replace(' ', '-')}.erofs"
    found = _built((shape, rows, packs), "compact", out)
    what = f"image of {rows:,} rows, {name}"
    yield row(f"{what}: built", rows / found["seconds"], "rows/s", goal=goal)
    yield row(f"{what}: peak memory", found["peak_mib"], "MiB", goal="<= 1024")
    yield row(f"{what}: size", found["bytes"] / rows, "bytes/row")
    yield row(f"{what}: fsck.erofs", check(out, packs), "s")
    with suppress(MountFailed):  # no EROFS over files, or no rights: the images were measured all the same
        yield row(f"{what}: mounted with {packs:,} packs", _mount(out, packs) * 1000, "ms")
    out.unlink()
    if name == "many folders":
        yield from _extended(name, (shape, rows, packs), found, out)


def run(quick: bool = False) -> Report:
    """Build, check and mount each. Needs fsck.erofs, and root on Linux 6.12 for the mounts."""
    with tempfile.TemporaryDirectory(prefix="outlap-bench-image-") as folder:
        rows = tuple(one for name in CASES for one in _measure(name, quick, Path(folder)))
    return Report("Metadata images of large versions", report.machine(), rows)


if __name__ == "__main__":
    print(json.dumps(_build(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))))
