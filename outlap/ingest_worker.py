"""Ingest of many drives, each in a process beside the command, so that a drive that ends the process (a decoder that crashes, a kernel
that is out of memory) ends itself alone.

One process is used for one drive after the other, and replaced when it ended. It says what it does over a pipe.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outlap.batch import Failure, failure_of

if TYPE_CHECKING:
    from outlap.recordings import LocalDrive
    from transforms.ingest import IngestReport
    from transforms.recipe import Recipe

STOP_S = 5.0


# (step of a drive, done, all of it)
Steps = Callable[[str, int, int], None]


@dataclass(frozen=True)
class DriveTask:
    """A drive to ingest: of the landing, or of this machine (then it is uploaded first)."""

    vehicle: str
    drive: str
    local: LocalDrive | None = None


def ingest_each(
    tasks: Sequence[DriveTask], recipe: Recipe, scratch: Path, progress: Steps
) -> Iterator[tuple[DriveTask, dict[str, Any]]]:
    """Ingest drives one after the other.

    Args:
        tasks: In the order of the answers.
        recipe: How all of them are cut.
        scratch: A folder with room for a drive and its frames.
        progress: Told (`VEHICLE/DRIVE: STEP`, done, total).

    Returns:
        For each task its report as JSON: that of IngestReport, or `outcome` "failed" with `failure` {what, why, fix}.
    """
    worker: _Worker | None = None
    try:
        for task in tasks:
            if worker is None or not worker.process.is_alive():
                worker = _Worker()
            yield task, worker.run(task, recipe, scratch, progress)
    finally:
        if worker is not None:
            worker.stop()


class _Worker:
    """A process that ingests drives."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, task: DriveTask, recipe: Recipe, scratch: Path, progress: Steps) -> dict[str, Any]:
        try:
            self.pipe.send((task, recipe, scratch))
            while True:
                kind, value = self.pipe.recv()
                if kind == "progress":
                    progress(*value)
                else:
                    return dict(value)
        except (EOFError, OSError):
            return _failed(task, self._end(task))

    def _end(self, task: DriveTask) -> Failure:
        self.process.join(STOP_S)
        code = self.process.exitcode
        how = f"with {code}"
        if code is not None and code < 0:
            how = f"by {signal.Signals(-code).name}"
        return Failure(
            f"the drive {task.vehicle}/{task.drive}",
            f"the process that worked on it was ended {how} (SIGKILL: mostly for want of memory)",
            "see `dmesg`, make room, then run it again: what was done is kept",
        )

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(STOP_S)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def _failed(task: DriveTask, failure: Failure) -> dict[str, Any]:
    return {
        "vehicle": task.vehicle,
        "drive": task.drive,
        "outcome": "failed",
        "error": str(failure),
        "failure": asdict(failure),
    }


def _serve(pipe: Connection) -> None:
    """The process: a task, what becomes of it, and the next one, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who interrupts the command closes the pipe
    with suppress(EOFError, OSError):
        while True:
            task, recipe, scratch = pipe.recv()

            def tell(step: str, done: int, total: int, task: DriveTask = task) -> None:
                pipe.send(("progress", (f"{task.vehicle}/{task.drive}: {step}", done, total)))

            try:
                value = asdict(_ingest(task, recipe, scratch, tell))
            except Exception as error:
                value = _failed(task, failure_of(error, f"the drive {task.vehicle}/{task.drive}"))
            pipe.send(("done", value))


def _ingest(task: DriveTask, recipe: Recipe, scratch: Path, progress: Steps) -> IngestReport:
    from lake.config import load_config
    from lake.stores import lake_store, landing_store
    from outlap.recordings import upload
    from transforms.ingest import ingest_drive

    config = load_config()
    landing, lake = landing_store(config), lake_store(config)
    name = task.drive
    if task.local is not None:
        name = upload(landing, task.local, scratch, lake)
    return ingest_drive(landing, lake, task.vehicle, name, recipe, scratch, progress)
