"""Which views can still be read, in any mount namespace: the kernel's own list of superblocks.

`/sys/fs/erofs/<name>` is there exactly as long as a superblock lives, also when its last mount on the host is gone and a container
still has a bind of it. Which name belongs to a view is learned when it is mounted; it is kept in the view's record. A pyfuse3
tree lives as long as its process. Names are never given twice (a loop device's is, but then its backing file tells).

    <state>/left-<random>.json    a view that was unmounted here and that somebody can still read
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import structlog

SYSFS = Path("/sys/fs/erofs")
_PROCESS = "process"

log = structlog.get_logger()


@dataclass(frozen=True)
class Leftover:
    """A view that is gone from its folder and still read elsewhere.

    packs: that it reads by itself. superblocks: names as of `learn` and `of_process`.
    """

    dataset: str
    tag: str
    version: str
    target: str
    packs: tuple[str, ...]
    superblocks: tuple[str, ...]
    at_ns: int


def _names() -> set[str]:
    try:
        return set(os.listdir(SYSFS))  # noqa: PTH208 (names are wanted)
    except FileNotFoundError:  # EROFS is not loaded yet
        return set()


@contextmanager
def learn() -> Iterator[list[str]]:
    """Find the names of the superblocks that are made within the block; the list is filled at its end.

    Mounts of other nodes of this machine wait meanwhile. What something else mounts is taken for ours: then a lease lasts too long,
    never too short.
    """
    found: list[str] = []
    lock = -1
    with suppress(OSError):
        lock = os.open(SYSFS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        before = _names()
        yield found
        found += [_with_backing(name) for name in sorted(_names() - before - {"features"})]
    finally:
        if lock >= 0:
            os.close(lock)


def _with_backing(name: str) -> str:
    """A loop device serves others later: what is behind it belongs to the name."""
    try:
        backing = Path(f"/sys/block/{name}/loop/backing_file").read_text().strip()
    except OSError:
        return name
    return f"{name} {backing.removesuffix(' (deleted)')}"  # an image is unlinked when its view is


def of_process(pid: int) -> str:
    """The name of a view that a process serves."""
    return f"{_PROCESS} {pid} {_started(pid)}"


def _started(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_living(name: str) -> bool:
    """Whether anybody can still read from this superblock, in any mount namespace."""
    kind, _, rest = name.partition(" ")
    if kind == _PROCESS:
        pid, _, started = rest.partition(" ")
        return bool(started) and _started(int(pid)) == started
    return (SYSFS / kind).exists() and _with_backing(kind) == name


def living(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names whose superblocks live."""
    return tuple(filter(is_living, names))


def save_leftover(state: Path, left: Leftover) -> Path:
    """Note a view that may be read after its unmount; the file."""
    path = state / f"left-{secrets.token_hex(8)}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(left), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def load_leftover(path: Path) -> Leftover | None:
    """A note, while the view can still be read; else it is removed. Raises OSError, ValueError, KeyError, TypeError."""
    left = _read(path)
    names = living(left.superblocks)
    if names:
        return replace(left, superblocks=names)
    path.unlink(missing_ok=True)
    log.info("readers_ended", version=left.version, target=left.target)
    return None


def list_leftovers(state: Path) -> list[Leftover]:
    """Views that were unmounted and can still be read; notes of the others are removed."""
    found = []
    for path in sorted(state.glob("left-*.json")):
        try:
            left = load_leftover(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            # the packs are safe without it: the kernel is asked before bytes are taken
            log.error("a note of an unmounted view cannot be read", path=str(path), error=str(error))
            continue
        if left is not None:
            found.append(left)
    return found


def _read(path: Path) -> Leftover:
    known = {field.name for field in fields(Leftover)}
    values = {key: value for key, value in json.loads(path.read_bytes()).items() if key in known}
    return Leftover(
        **{**values, "packs": tuple(values["packs"]), "superblocks": tuple(values["superblocks"])}
    )
