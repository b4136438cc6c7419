"""What our two FUSE daemons share: mounting, signals, read-ahead, attributes, and errors that everyone can see.

A daemon is one process with one mount. It ends on SIGTERM or SIGINT, or when it is unmounted. What went wrong is in its log
(one JSON line each) and in its counter file, a JSON object of `Counters` that is replaced as a whole.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import pyfuse3
import structlog
import trio

from cacheengine.errors import MountFailed
from cacheengine.logs import log_as_json
from cacheengine.views import mountapi
from cacheengine.views.image import LONGEST_NAME, PLAIN, Attributes
from lake.errors import Explained, NotFound

BLOCK = 4096
READ_AHEAD_KB = 1024
# packs and versions never change, so the kernel may keep what it was told
FOREVER_S = 1e6
THREADS = 64
LARGEST_READ = 1 << 20  # FUSE asks for no more at once
COUNTERS_EVERY_S = 1.0

log = structlog.get_logger()
Result = TypeVar("Result")


@dataclass
class Counters:
    """What a daemon has done since it started. bytes: sent to readers; last_error: the newest error in words."""

    pid: int = field(default_factory=os.getpid)
    reads: int = 0
    bytes: int = 0
    errors: int = 0
    last_error: str = ""


def write_counters(path: Path, counters: Counters) -> None:
    """Replace the counter file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(asdict(counters)) + "\n", encoding="utf-8")
    partial.replace(path)


class Work:
    """Runs blocking reads in threads, counts them, and turns what they raise into an errno with a log line."""

    def __init__(self, file: Path | None = None, ready: int | None = None) -> None:
        """file: where the counters are written; ready: a descriptor that gets one byte once the mount answers."""
        self.counters = Counters()
        self.file, self.ready = file, ready
        self.changed = trio.Event()
        self._limiter = trio.CapacityLimiter(THREADS)
        self._requests: select.poll | None = None

    async def run(self, what: str, function: Callable[..., Result], *arguments: object) -> Result:
        """`function(*arguments)` in a thread. Raises FUSEError: ENOENT for NotFound, else EIO."""
        with self._explained(what):
            return await trio.to_thread.run_sync(function, *arguments, limiter=self._limiter)

    def run_here(self, what: str, function: Callable[..., Result], *arguments: object) -> Result:
        """The same at once, while nobody else is answered."""
        with self._explained(what):
            return function(*arguments)

    def is_alone(self) -> bool:
        """Whether no other request is under way or waits to be read: then a thread is only a detour."""
        if self._limiter.borrowed_tokens:
            return False
        if self._requests is None:
            self._requests = select.poll()
            self._requests.register(_fuse_descriptor(), select.POLLIN)
        return not self._requests.poll(0)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except NotFound as error:
            log.warning("not found", what=what, error=str(error))
            raise pyfuse3.FUSEError(errno.ENOENT) from error
        except (Explained, OSError) as error:
            raise self.failed(what, error) from error
        except Exception as error:
            log.exception("a bug, or bytes of a kind that nobody expected", what=what)
            raise self.failed(what, error) from error

    def failed(self, what: str, error: BaseException) -> pyfuse3.FUSEError:
        """Count and log an error; the EIO to raise."""
        self.counters.errors += 1
        self.counters.last_error = f"{what}: {error}"
        log.error("read failed", what=what, error=str(error), kind=type(error).__name__)
        self.changed.set()
        return pyfuse3.FUSEError(errno.EIO)

    def sent(self, size: int) -> None:
        self.counters.reads += 1
        self.counters.bytes += size


def _fuse_descriptor() -> int:
    """The connection to the kernel; pyfuse3 keeps it to itself."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if entry.readlink() == Path("/dev/fuse"):
                return int(entry.name)
    raise MountFailed("the FUSE connection", "it is not open", "see the log before")


def attributes(
    inode: int,
    size: int,
    is_dir: bool,
    nlink: int = 1,
    same: Attributes = PLAIN,
    mtime_ns: int | None = None,
) -> pyfuse3.EntryAttributes:
    """What stat shows: the same as in an EROFS view. mtime_ns: of this file, where it has a time of its own."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(inode)
    entry.generation = 0
    entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | same.folder_mode if is_dir else stat.S_IFREG | same.mode)
    entry.st_nlink = nlink
    entry.st_uid, entry.st_gid = same.uid, same.gid
    entry.st_size = size
    entry.st_blksize = BLOCK
    entry.st_blocks = -(-size // BLOCK) * (BLOCK // 512)
    time_ns = same.mtime_ns if mtime_ns is None else mtime_ns
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = time_ns
    entry.entry_timeout = entry.attr_timeout = FOREVER_S
    return entry


def check_name(name: bytes) -> None:
    """Raises FUSEError(ENAMETOOLONG), as the kernel does in its own file systems."""
    if len(name) > LONGEST_NAME:
        raise pyfuse3.FUSEError(errno.ENAMETOOLONG)


async def list_no_attributes(
    _: pyfuse3.Operations, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
) -> Sequence[pyfuse3.XAttrNameT]:
    """The extended attributes of a file: none. Without this method FUSE says that it knows no such attributes."""
    return []


def file_system_size(size: int, files: int) -> pyfuse3.StatvfsData:
    """What statfs shows of a full, read-only file system. size in bytes."""
    answer = pyfuse3.StatvfsData()
    answer.f_bsize = answer.f_frsize = BLOCK
    answer.f_blocks = -(-size // BLOCK)
    answer.f_bfree = answer.f_bavail = 0
    answer.f_files, answer.f_ffree, answer.f_favail = files, 0, 0
    answer.f_namemax = 255
    return answer


def set_read_ahead(mountpoint: Path) -> None:
    """pyfuse3 sets none; without it a cold read of a frame is several round trips. Logs when it may not."""
    mountpoint.stat()  # answered only after INIT, which would set it back
    mount = mountapi.mount_at(mountpoint)
    if mount is None:
        return
    place = Path("/sys/class/bdi") / f"{mount.device[0]}:{mount.device[1]}" / "read_ahead_kb"
    try:
        place.write_text(str(READ_AHEAD_KB))
    except OSError as error:
        log.warning("read-ahead stays small", mountpoint=str(mountpoint), error=str(error))


def _may_allow_other() -> bool:
    try:
        lines = Path("/etc/fuse.conf").read_text(encoding="utf-8").split("\n")
    except OSError:
        lines = []
    return os.geteuid() == 0 or any(line.strip() == "user_allow_other" for line in lines)


async def _write_counters(path: Path, work: Work) -> None:
    written = ""
    while True:
        now = json.dumps(asdict(work.counters))
        if now != written:
            await trio.to_thread.run_sync(write_counters, path, work.counters)
            written = now
        with trio.move_on_after(COUNTERS_EVERY_S):
            await work.changed.wait()
        work.changed = trio.Event()


async def _end_on_signal() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            pyfuse3.terminate()
            return


def _get_ready(mountpoint: Path, ready: int | None) -> None:
    try:
        set_read_ahead(mountpoint)
    except OSError as error:  # unmounted already
        log.warning("the mount went before it was ready", mountpoint=str(mountpoint), error=str(error))
        return
    if ready is not None:
        os.write(ready, b"1")
        os.close(ready)


async def _serve(mountpoint: Path, work: Work) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_on_signal)
        if work.file is not None:
            nursery.start_soon(_write_counters, work.file, work)
        nursery.start_soon(trio.to_thread.run_sync, _get_ready, mountpoint, work.ready)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()
    if work.file is not None and work.file.exists():  # else the view was forgotten
        write_counters(work.file, work.counters)


def serve(operations: pyfuse3.Operations, mountpoint: Path, name: str, work: Work) -> None:
    """Mount, in place of what is there, and answer until a signal or an unmount. name: what `mount` shows as source.

    Raises MountFailed.
    """
    chosen = set(pyfuse3.default_options) | {"ro", f"fsname={name}", "subtype=outlap"}
    if _may_allow_other():
        chosen.add("allow_other")
    mountapi.unmount(mountpoint, lazy=True)  # the daemon before us, which was killed
    try:
        pyfuse3.init(operations, str(mountpoint), chosen)
    except RuntimeError as error:
        raise MountFailed(
            f"{name} at {mountpoint}", f"FUSE refused: {error}", "are /dev/fuse and fusermount3 there?"
        ) from error
    log.info("serving", name=name, mountpoint=str(mountpoint))
    try:
        trio.run(_serve, mountpoint, work)
    finally:
        pyfuse3.close(unmount=True)
    log.info("ended", name=name, mountpoint=str(mountpoint))


def options(program: str, about: str) -> argparse.ArgumentParser:
    """The options of both daemons."""
    parser = argparse.ArgumentParser(prog=program, description=about.split("\n", 1)[0])
    parser.add_argument("--mountpoint", type=Path, required=True)
    parser.add_argument("--counters", type=Path, help="file to keep the counters in")
    parser.add_argument("--ready-fd", type=int, help="descriptor that gets one byte once the mount answers")
    return parser


def run(serve_it: Callable[[], None]) -> int:
    """Set up the log (JSON lines on stderr) and serve. The exit status: 0, or 1 with a line that says why."""
    log_as_json()
    try:
        serve_it()
    except (Explained, OSError) as error:
        log.error("cannot serve", error=str(error))
        return 1
    return 0
