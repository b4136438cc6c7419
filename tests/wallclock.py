"""Processes whose clock on the wall is off; their monotonic clock, and so every wait, is right."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path


def wall_clock(folder: Path, off_s: int = 0) -> tuple[dict[str, str], Callable[[int], None]]:
    """(environment of a process, set(seconds): from now on its clock, and its children's, is off by so much)."""
    shim, offset = folder / "wallclock.so", folder / "offset"
    source = Path(__file__).with_name("wallclock.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(shim), str(source)], check=True)

    def change(seconds: int) -> None:
        with offset.open("r+b" if offset.exists() else "wb") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))

    change(off_s)
    return {"LD_PRELOAD": str(shim), "WALL_OFFSET": str(offset)}, change
