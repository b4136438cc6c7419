"""Which kind of view this machine can have, and why: found by trying, never by asking what ought to work."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

import pyarrow as pa

from cacheengine.errors import MountFailed
from cacheengine.views import mountapi
from cacheengine.views.image import build_image
from lake.errors import Refused

Backend = Literal["kernel", "loop", "fuse"]
KERNEL_SINCE, LOOP_SINCE = (6, 12), (5, 16)
MOST_LOOP_PACKS = 250
PROBE_TIME_S = 1_000_000_000
_CAP_SYS_ADMIN = 21


def _release() -> tuple[int, int]:
    major, minor, *_ = (*platform.release().split("."), "0", "0")
    digits = "".join(c for c in minor if c.isdigit())
    return int(major) if major.isdigit() else 0, int(digits or 0)


def _is_admin() -> bool:
    """CAP_SYS_ADMIN, and not merely inside a user name space."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
        whole = Path("/proc/self/uid_map").read_text(encoding="ascii").split() == ["0", "0", "4294967295"]
    except (OSError, StopIteration):
        return False
    return whole and bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


def _why_not(backend: Backend, scratch: Path, packs: int) -> str | None:
    """Why this machine cannot have such a view; None when it was tried and works."""
    if backend == "fuse":
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            return "/dev/fuse is missing or not ours to open"
        return None if os.geteuid() == 0 or shutil.which("fusermount3") else "fusermount3 is missing"
    since = KERNEL_SINCE if backend == "kernel" else LOOP_SINCE
    if _release() < since:
        return f"Linux {platform.release()} is older than {since[0]}.{since[1]}"
    if not _is_admin():
        return "no CAP_SYS_ADMIN"
    if backend == "loop" and packs > MOST_LOOP_PACKS:
        return f"{packs} packs, and loop devices are for up to {MOST_LOOP_PACKS}"
    try:
        with tempfile.TemporaryDirectory(dir=scratch, prefix="probe-") as folder:
            _probe(backend, Path(folder))
    except (MountFailed, OSError) as error:
        return error.why if isinstance(error, MountFailed) else str(error)
    return None


def _probe(backend: Backend, folder: Path) -> int:
    """Mount an image of one empty file; the time in ns that this file shows. Raises MountFailed, OSError."""
    image, row = Path(folder) / "probe.erofs", {"path": ["f"], "size": [0], "pack": ["p"], "offset": [0]}
    times = pa.array([PROBE_TIME_S], pa.uint32())
    build_image(image, [pa.table({**row, "mtime_s": times})], ["p"])
    probe = mountapi.probe_erofs if backend == "kernel" else mountapi.probe_loop
    return probe(image, "f").st_mtime_ns


@lru_cache
def shows_compact_times(backend: Backend, scratch: Path) -> bool:
    """Try whether this kernel shows the time of a compact inode; kernels before 6.15 show that of the superblock.

    Args:
        backend: `kernel` or `loop`.
        scratch: A folder on the disk where views will lie.

    Raises:
        MountFailed: such a view cannot be mounted here.
        OSError: the folder cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="probe-") as folder:
        return _probe(backend, Path(folder)) == PROBE_TIME_S * 10**9


_GOOD = {
    "kernel": f"Linux {platform.release()} mounts packs itself: reads need no process of ours",
    "loop": "packs on loop devices, direct I/O: reads need no process of ours",
    "fuse": "a pyfuse3 daemon serves the tree",
}


def choose_backend(asked: str = "auto", scratch: Path | None = None, packs: int = 0) -> tuple[Backend, str]:
    """(the kind of view that this machine gets, why), by trying. scratch: a folder on the disk where views will lie.

    packs: how many the view will have. Raises Refused for an unknown kind, MountFailed when what was asked is not possible.
    """
    place = scratch or Path(tempfile.gettempdir())
    if asked != "auto":
        if asked not in get_args(Backend):
            raise Refused(f"the backend {asked!r}", "it is none", "use auto, kernel, loop or fuse")
        chosen = cast(Backend, asked)
        cause = _why_not(chosen, place, packs)
        if cause is not None:
            raise MountFailed(f"a {chosen} view", cause, "use --backend auto, or see `outlap doctor`")
        return chosen, f"asked for; {_GOOD[chosen]}"
    causes: list[str] = []
    for backend in cast(tuple[Backend, ...], get_args(Backend)):
        cause = _why_not(backend, place, packs)
        if cause is None:
            return backend, "; ".join([_GOOD[backend], *causes])
        causes.append(f"not {backend}: {cause}")
    raise MountFailed(
        "a view", "; ".join(causes), "give the container /dev/fuse, or the node agent CAP_SYS_ADMIN"
    )
