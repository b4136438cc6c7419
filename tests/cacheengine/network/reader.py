"""Readers that run through a fault: processes that read a view over and over and compare each file with its BLAKE3.

`python -m tests.cacheengine.network.reader VIEW LIST COUNTS PAUSE`: LIST has a line `<blake3> <path>` for each file; COUNTS is written
anew ten times a second; PAUSE are the seconds between two files.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from tests.conftest import wait_until

EVERY_S = 0.1


@dataclass(frozen=True)
class Seen:
    """What readers saw. longest_s: the longest read, one that has not ended yet included. causes: of errors, a few."""

    right: int = 0
    wrong: int = 0
    errors: int = 0
    longest_s: float = 0.0
    causes: tuple[str, ...] = ()

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            self.right + other.right,
            self.wrong + other.wrong,
            self.errors + other.errors,
            max(self.longest_s, other.longest_s),
            (*self.causes, *other.causes)[:5],
        )

    def __str__(self) -> str:
        return f"{self.right} right, {self.wrong} wrong, {self.errors} errors, longest {self.longest_s:.1f} s"


@dataclass
class Readers:
    """Readers that run. files: name of the reader → where it counts."""

    files: dict[str, Path] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def seen(self, name: str | None = None) -> Seen:
        """So far, by one reader or by all. A reader that hangs shows in `longest_s`."""
        total = Seen()
        for file in [self.files[name]] if name else self.files.values():
            if file.exists():
                value = json.loads(file.read_text())
                total += Seen(
                    value["right"],
                    value["wrong"],
                    value["errors"],
                    value["longest_s"],
                    tuple(value["causes"]),
                )
        return total

    def go_on(self, rounds: int = 20, timeout_s: float = 60) -> None:
        """Wait until each has read so many files more; fails when one does not."""
        before = {name: self.seen(name).right for name in self.files}
        wait_until(
            lambda: all(self.seen(name).right >= count + rounds for name, count in before.items()),
            f"{rounds} reads by each of {', '.join(before)}",
            timeout_s,
        )


@contextmanager
def reading(
    views: Mapping[str, Path], files: Mapping[str, bytes], folder: Path, pause_s: float = 0.01
) -> Iterator[Readers]:
    """A reader of each view until the context ends. folder: an empty one, for their lists and counts."""
    folder.mkdir(parents=True)
    listed = folder / "list"
    listed.write_text("".join(f"{blake3(data).hexdigest()} {path}\n" for path, data in files.items()))
    readers = Readers()
    try:
        for name, view in views.items():
            readers.files[name] = folder / f"{name}.json"
            command = [sys.executable, "-m", __spec__.name, view, listed, readers.files[name], str(pause_s)]
            readers.processes[name] = subprocess.Popen(list(map(str, command)))
        wait_until(
            lambda: all(readers.seen(name).right + readers.seen(name).errors for name in views), "the readers"
        )
        yield readers
    finally:
        for process in readers.processes.values():
            process.kill()
            process.wait(30)


@dataclass
class _Counts:
    right: int = 0
    wrong: int = 0
    errors: int = 0
    longest_s: float = 0.0
    causes: list[str] = field(default_factory=list)
    since: float | None = None


def _write(counts: _Counts, file: Path) -> None:
    since = counts.since
    running = 0.0 if since is None else time.monotonic() - since
    value = {"right": counts.right, "wrong": counts.wrong, "errors": counts.errors, "causes": counts.causes}
    value["longest_s"] = max(counts.longest_s, running)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.replace(file)


def _read_cold(path: Path) -> bytes:
    """The file's bytes, not from the pages that the kernel has of it."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.readall()


def main() -> None:
    view, listed, file, pause = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    wanted = [tuple(line.split(" ", 1)) for line in listed.read_text().splitlines()]
    counts = _Counts()

    def tell() -> None:
        while True:
            _write(counts, file)
            time.sleep(EVERY_S)

    threading.Thread(target=tell, daemon=True).start()
    while True:
        random.shuffle(wanted)
        for expected, path in wanted:
            counts.since = time.monotonic()
            try:
                right = blake3(_read_cold(view / path)).hexdigest() == expected
                counts.right, counts.wrong = counts.right + right, counts.wrong + (not right)
            except OSError as error:
                counts.errors += 1
                counts.causes = [*counts.causes[-3:], f"{path}: {error.strerror}"]
            counts.longest_s = max(counts.longest_s, time.monotonic() - counts.since)
            counts.since = None
            time.sleep(pause)


if __name__ == "__main__":
    main()
