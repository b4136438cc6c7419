"""JuiceFS (with Redis) and rclone mount as their manuals say for read-only data that fits the cache: every cache on, warmed.

Each is a context: its processes and mounts are gone when it ends, however it ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cacheengine.views import mountapi
from lake.errors import Explained, NotFound

_STARTS_WITHIN_S = 30.0
_DAY = "86400"


def program(name: str) -> str:
    """A program beside our Python, or on the path. Raises NotFound."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise NotFound(f"the program {name}", "it is not installed", "run `make bench`")
    return found


def version_of(*command: str) -> str:
    """The first line of what a program says of its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (done.stdout or done.stderr).strip().splitlines()[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run to the end; its stdout. Raises Explained with what it said when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-600:]
        raise Explained(" ".join(map(str, command))[:200], said, "see what it said")
    return done.stdout


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _STARTS_WITHIN_S
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            said = log.read_text(errors="replace")[-600:]
            raise Explained(f"starting {process.args!r}"[:200], said or "it did not answer", f"see {log}")
        time.sleep(0.05)


@contextmanager
def started(
    command: Sequence[str | Path], log: Path, ready: Callable[[], bool], target: Path | None = None
) -> Iterator[int]:
    """A process in the foreground, and its mount where it makes one; its pid. Both are gone when the context ends."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        _wait(ready, process, log)
        yield process.pid
    finally:
        if target is not None:
            with suppress(Explained):
                mountapi.unmount(target, lazy=True)
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def sweep(folder: Path) -> None:
    """End what a signal left behind while it was being started: processes that name this folder, and mounts below it.

    folder: of this run alone, with a name that no one else has.
    """
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(place.name) != os.getpid() and os.fsencode(folder) in (place / "cmdline").read_bytes():
                os.kill(int(place.name), signal.SIGKILL)
    for mount in mountapi.mounts_below(folder):
        with suppress(Explained):
            mountapi.unmount(mount.target, lazy=True)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as asked:
        asked.sendall(b"PING\r\n")
        return asked.recv(16).startswith(b"+PONG")
    return False


@contextmanager
def redis(folder: Path) -> Iterator[tuple[int, int]]:
    """(port, pid) of a Redis that keeps everything in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--appendonly", "no", "--dir", str(folder)]
    with started(command, folder / "redis.log", lambda: _answers(port)) as pid:
        yield port, pid


@dataclass(frozen=True)
class Mounted:
    """A mounted rival. pids: of its processes, for their memory."""

    target: Path
    pids: tuple[int, ...]


@contextmanager
def juicefs(folder: Path, cache: Path, database: str, patient: bool = True) -> Iterator[Mounted]:
    """A mount of the JuiceFS of that Redis database (`redis://…`), its cache in `cache`. Format it before.

    patient: names and attributes are kept for a day; else as long as JuiceFS does by itself, one second.
    Its own files (`.stats` and others) are not in listings, so that a walk meets what others meet.
    """
    target = folder / "mnt"
    target.mkdir(parents=True, exist_ok=True)
    caches = ["--free-space-ratio", "0.01"]
    if patient:
        caches += ["--attr-cache", _DAY, "--entry-cache", _DAY, "--dir-entry-cache", _DAY, "--readdir-cache"]
        caches += ["--open-cache", _DAY, "--open-cache-limit", "0"]
    quiet = ["--no-usage-report", "--no-syslog", "--backup-meta", "0", "--no-bgjob", "--hide-internal"]
    metrics = ["--metrics", f"127.0.0.1:{free_port()}", "--consul", ""]
    command = [program("juicefs"), "mount", *caches, *quiet, *metrics, "--cache-dir", str(cache)]
    log = folder / "mount.log"
    with started([*command, database, str(target)], log, lambda: mountapi.is_mounted(target), target) as pid:
        yield Mounted(target, (pid, *_children(pid)))


def _children(pid: int) -> tuple[int, ...]:
    """JuiceFS mounts in a child of the process that was started."""
    with suppress(OSError):
        return tuple(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return ()


def format_juicefs(database: str, bucket: Path) -> None:
    """A new file system over objects in a folder, without compression (JuiceFS' default)."""
    bucket.mkdir(parents=True, exist_ok=True)
    command = [
        program("juicefs"),
        "format",
        "--storage",
        "file",
        "--bucket",
        f"{bucket}/",
        "--trash-days",
        "0",
    ]
    run(*command, database, "bench")


def juicefs_gets(target: Path) -> int:
    """Requests for objects that this mount has made, from its own metrics."""
    for line in (target / ".stats").read_text().splitlines():
        name, _, value = line.rpartition(" ")
        if name.endswith("object_request_durations_histogram_seconds_GET_total"):
            return int(float(value))
    return 0


@contextmanager
def rclone(folder: Path, source: Path) -> Iterator[Mounted]:
    """A read-only mount of a folder, its files cached whole (`--vfs-cache-mode full`), names kept for a day."""
    target = folder / "mnt"
    target.mkdir(parents=True, exist_ok=True)
    kept = ["--vfs-cache-mode", "full", "--vfs-cache-max-age", "24h", "--dir-cache-time", "24h"]
    kept += ["--attr-timeout", "24h", "--poll-interval", "0", "--read-only", "--no-modtime"]
    command = [program("rclone"), "mount", f":local:{source}", str(target), *kept]
    command += ["--cache-dir", str(folder / "cache"), "--config", os.devnull]
    log = folder / "mount.log"
    with started(command, log, lambda: mountapi.is_mounted(target), target) as pid:
        yield Mounted(target, (pid,))
