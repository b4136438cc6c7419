"""What a stack may leave behind when something was killed: processes without a parent, mounts, sockets."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from outlap.stack import ports
from outlap.stack.layout import Layout
from outlap.stack.programs import MARK, PROGRAM_MARK


@dataclass(frozen=True)
class Mount:
    target: Path
    kind: str
    source: str


def _environment(pid: int) -> dict[str, str]:
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.split(b"=", 1) for item in data.split(b"\0") if b"=" in item)
    return {os.fsdecode(name): os.fsdecode(value) for name, value in pairs}


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")


def processes(layout: Layout, program: str | None = None) -> list[int]:
    """Ids of living processes that a stack of this home started (the mark in their environment says so), but this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        environment = _environment(int(entry.name))
        if environment.get(MARK) != str(layout.home) or not _alive(int(entry.name)):
            continue
        if program is None or environment.get(PROGRAM_MARK) == program:
            found.append(int(entry.name))
    return sorted(found)


def end_processes(pids: Iterable[int], grace_s: float = 10.0) -> list[int]:
    """SIGTERM, then SIGKILL after `grace_s`. Returns those that are alive still."""
    pids = list(pids)
    for number, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        until = time.monotonic() + patience
        while pids and time.monotonic() < until:
            pids = [pid for pid in pids if _alive(pid)]
            if pids:
                time.sleep(0.05)
        if not pids:
            break
    return pids


def _unescape(text: str) -> str:
    # mountinfo writes blanks and the like as octal: proc(5)
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def mounts(layout: Layout) -> list[Mount]:
    """Mounts that belong to the nodes of this home, innermost first: below its folders, or made from its files."""
    folder = str(layout.home / "nodes") + "/"
    found = []
    for line in (
        Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    ):
        left, _, right = line.partition(" - ")
        target = _unescape(left.split()[4])
        kind, source, options = (_unescape(part) for part in right.split(" ", 2))
        if target.startswith(folder) or folder in source or folder in options or folder in _backing(source):
            found.append(Mount(Path(target), kind, source))
    return found[::-1]


def _backing(source: str) -> str:
    """The file behind a loop device, "" for anything else."""
    if not source.startswith("/dev/loop"):
        return ""
    try:
        return Path(f"/sys/block/{source.removeprefix('/dev/')}/loop/backing_file").read_text().strip()
    except OSError:
        return ""


def unmount(found: Mount) -> str | None:
    """End one mount; when it is in use it is detached and goes with its last user. Returns what went wrong."""
    if found.kind.startswith("fuse") and os.getuid() != 0:
        tries = [["fusermount3", "-u", str(found.target)], ["fusermount3", "-u", "-z", str(found.target)]]
    else:
        tries = [["umount", str(found.target)], ["umount", "--lazy", str(found.target)]]
    said = ""
    for command in tries:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return None
        said = done.stderr.strip()
    return said or "unmount failed"


def clear_sockets(layout: Layout) -> None:
    """Sockets of processes that are gone."""
    for path in layout.sockets.glob("*.sock*"):
        path.unlink(missing_ok=True)
    if layout.sockets != layout.stack and layout.sockets.exists():
        layout.sockets.rmdir()
    # SeaweedFS puts these into /tmp under the name of their port, whatever it is told
    kept = ports.read_kept(layout.ports)
    for name in ports.STORE_PORTS:
        part = name.rsplit("-", 1)[1]
        if name in kept:
            grpc = kept[name] + ports.GRPC_OFFSET
            Path(f"/tmp/seaweedfs-{part}-grpc-{grpc}.sock").unlink(missing_ok=True)  # noqa: S108
