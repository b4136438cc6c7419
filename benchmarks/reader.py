"""The compiled reader (reader.c), and what a measurement needs around it: a cold page cache, the memory of the kernel."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lake.errors import Explained, Refused

MOST_PASSES = 60
_SOURCE = Path(__file__).with_name("reader.c")


class Unmeasured(Explained):
    """A file could not be read, or not all of it: there is no figure."""


@dataclass(frozen=True)
class Measured:
    """seconds of wall time; files and bytes read in them, all passes together."""

    seconds: float
    files: int
    bytes: int

    @property
    def rate(self) -> float:
        """Files per second."""
        return self.files / self.seconds


def compile_reader(folder: Path) -> Path:
    """The program, built into `folder`. Raises Refused where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Refused("the benchmark's reader", "there is no C compiler", "install gcc")
    program = folder / "reader"
    done = subprocess.run([compiler, "-O2", "-Wall", "-o", program, _SOURCE], capture_output=True, text=True)
    if done.returncode:
        raise Refused("the benchmark's reader", f"{compiler} refuses it: {done.stderr[-800:]}", "install gcc")
    return program


def write_list(path: Path, root: Path, names: Iterable[str]) -> Path:
    """Names below a folder, in the order in which they will be read."""
    path.write_text("".join(f"{root}/{name}\n" for name in names), encoding="utf-8")
    return path


def _run(program: Path, *arguments: str) -> Measured:
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise Unmeasured(" ".join(("reader", *arguments)), done.stderr.strip()[-800:], "see the first line")
    ns, files, size = map(int, done.stdout.split())
    return Measured(ns / 1e9, files, size)


def run_list(
    program: Path, verb: Literal["read", "stat", "make"], names: Path, readers: int, passes: int = 1
) -> Measured:
    """Each file of a list, shared out over processes. Raises Unmeasured."""
    return _run(program, verb, str(names), str(readers), str(passes))


def walk(program: Path, verb: Literal["walk", "readdir"], folder: Path) -> Measured:
    """A whole tree: every entry listed and (walk) its attributes asked for. Raises Unmeasured."""
    return _run(program, verb, str(folder))


def read_hot(program: Path, names: Path, readers: int, seconds: float) -> Measured:
    """Files that are in memory: one pass that is not counted, then as many as take about so long."""
    first = run_list(program, "read", names, readers)
    passes = min(MOST_PASSES, max(1, round(seconds / first.seconds)))
    return run_list(program, "read", names, readers, passes)


def drop_caches() -> None:
    """Empty the page cache and the caches of names and inodes, of the whole machine. Raises Refused when not root."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except PermissionError as error:
        raise Refused("a cold page cache", "only root may empty it", "run the benchmark as root") from error


def slab_bytes() -> int:
    """Kernel memory of names, inodes and the like."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Slab:"))


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory of processes; one that has ended counts nothing."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            continue
        total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total
