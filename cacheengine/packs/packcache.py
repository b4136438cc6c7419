"""Cached packs: sparse files in several directories, each with a quota that the disk itself tells (allocated blocks).

    <dir>/packs/<2 hex>/<pack>.tar      the pack; holes where nothing was wanted
    <dir>/packs/<2 hex>/<pack>.have     which members are resident (see have.py)
    <dir>/packs/<2 hex>/.lock           held while records of these packs change; several processes write packs
    <dir>/retired/                      files that were replaced and that somebody still reads (see lifetimes.py)
    <dir>/views/<version>.erofs         images

Usage is what the disk has allocated (see reserving.py).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from blake3 import blake3

from cacheengine import crashpoints, metrics
from cacheengine.errors import Busy
from cacheengine.node import CacheDirConfig
from cacheengine.packs import directory_identity, disks, lifetimes
from cacheengine.packs import have as haves
from cacheengine.packs.have import Have, Mask
from cacheengine.wanted import PackWant
from cacheengine.wire import DirReport, Medium
from lake.canonical import is_hash
from lake.errors import Refused

BLOCK = 4096
INODES_KEPT = 1000
_NEW = ".new"
_EMPTY = int.from_bytes(blake3(b"").digest()[:8], "little")
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True)
class CacheDir:
    """quota in bytes; high and low are shares of it."""

    path: Path
    medium: Medium
    quota: int
    high: float
    low: float


@dataclass(frozen=True)
class Cache:
    dirs: tuple[CacheDir, ...]


def open_cache(dirs: Iterable[CacheDirConfig], state_dir: Path | None = None) -> Cache:
    """Take the directories into use; one whose own file system is not there is down from the start.

    Args:
        dirs: The node's cache_dirs.
        state_dir: Remembers which file system each directory belongs to; None: this process alone does.

    Raises:
        Refused: A directory cannot be made.
    """
    opened = []
    for config in dirs:
        path = config.path.absolute()
        try:
            directory_identity.take_into_use(path, state_dir)
        except directory_identity.WrongFileSystem as error:
            disks.note(path, error)
        except OSError as error:
            raise Refused(
                f"the cache directory {path}", error.strerror or str(error), "correct the node's cache_dirs"
            ) from error
        opened.append(CacheDir(path, config.medium, int(config.quota), config.high, config.low))
    return Cache(tuple(opened))


@lru_cache(1024)  # a peer asks for members of one pack thousands of times
def pack_path(directory: CacheDir, pack: str) -> Path:
    """Raises Refused when this is no pack id: it becomes a path."""
    if not is_hash(pack):
        raise Refused(f"the pack {pack[:80]!r}", "its id is not 64 hex digits")
    return directory.path / "packs" / pack[:2] / f"{pack}.tar"


@lru_cache(1024)
def have_path(directory: CacheDir, pack: str) -> Path:
    return pack_path(directory, pack).with_suffix(".have")


def find_pack(cache: Cache, pack: str) -> CacheDir | None:
    """The directory that holds the pack, or a part of it; of several the one whose disk is best. Disks that are down have none."""
    there = [d for d in cache.dirs if disks.is_up(d.path) and pack_path(d, pack).exists()]
    return min(there, key=lambda d: disks.rank(d.path), default=None)


@contextmanager
def locked(directory: CacheDir, pack: str, *, shared: bool = False) -> Iterator[None]:
    """Hold the records of packs with this prefix still, against all threads and processes."""
    path = pack_path(directory, pack).parent / ".lock"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a disk that became read-only can still be read
    except FileNotFoundError:
        fd = _open_in(directory, path, os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def load_have(cache: Cache, pack: str, size: int | None = None) -> Have:
    """What is resident of a pack; nothing when its file is gone or not as long as it should be."""
    directory = find_pack(cache, pack)
    if directory is None:
        return haves.NOTHING
    if size is not None and pack_path(directory, pack).stat().st_size != size:
        return haves.NOTHING
    return haves.load(have_path(directory, pack), size)


def resident(cache: Cache, want: PackWant) -> Mask:
    """For each row of the want, whether it is resident and checked. An empty file has no bytes to miss."""
    found = haves.contains(load_have(cache, want.pack, want.size), want.offset, want.length, want.head)
    mask: Mask = found | ((want.length == 0) & (want.head == _EMPTY))
    return mask


def _open_in(directory: CacheDir, path: Path, flags: int) -> int:
    """Open a file of the directory, `packs/<2 hex>/<file>`, to read and write; its folder is made when it is not there.

    Never on another disk than the directory's own. Raises WrongFileSystem, OSError.
    """
    try:
        root = directory_identity.open_directory(directory.path)
    except directory_identity.WrongFileSystem as error:
        disks.note(directory.path, error)
        raise
    try:
        name = path.relative_to(directory.path)
        with suppress(FileExistsError):
            os.mkdir(name.parent, dir_fd=root)
        return os.open(name, os.O_RDWR | os.O_CLOEXEC | flags, 0o644, dir_fd=root)
    finally:
        os.close(root)


def open_pack(directory: CacheDir, pack: str, size: int) -> int:
    """A descriptor to read and write the pack's file, which is made, sparse, when it is not there. Caller closes.

    A file of another size is none of the pack (it was cut short, or made by something else): who reads it keeps it as it is, and
    a new one takes its place.
    """
    path = pack_path(directory, pack)
    with locked(directory, pack):
        try:
            fd = _open_in(directory, path, 0)
        except FileNotFoundError:
            return _new_pack(directory, pack, size)
        if os.fstat(fd).st_size == size:
            return fd
        os.close(fd)
        have_path(directory, pack).unlink(missing_ok=True)
        lifetimes.retire(directory.path, path)
        return _new_pack(directory, pack, size)


def _new_pack(directory: CacheDir, pack: str, size: int) -> int:
    """Make the file, of its full size from the first moment. Caller holds the lock of the pack.

    Its record begins at an epoch that no file of this pack had: a file system gives the inode number of a file that went to the
    next one, so that is no way to tell two apart.
    """
    path = pack_path(directory, pack)
    made = path.with_name(f".{pack}{_NEW}")
    fd = _open_in(directory, made, os.O_CREAT | os.O_TRUNC)
    try:
        os.ftruncate(fd, size)
        haves.begin(have_path(directory, pack), secrets.randbits(62), size)
        made.replace(path)
    except BaseException:
        os.close(fd)
        made.unlink(missing_ok=True)
        raise
    return fd


def drop_half_made(directory: CacheDir) -> None:
    """Remove what a kill left of packs that were just being made."""
    for path in (directory.path / "packs").glob(f"??/.*{_NEW}"):
        with locked(directory, path.name[1 : -len(_NEW)]):
            path.unlink(missing_ok=True)


def epoch(directory: CacheDir, pack: str) -> int:
    """To be taken before bytes are written, and given to `mark` after."""
    return haves.read_epoch(have_path(directory, pack))


def mark(directory: CacheDir, pack: str, size: int, fd: int, new: Have) -> None:
    """Say that these members, written through `fd` and checked, are resident: data to disk first, then the record.

    new.epoch: as it was before they were written. Raises Busy when bytes were taken from the pack meanwhile, or it was replaced.
    """
    os.fdatasync(fd)
    crashpoints.reach("mark.synced")
    with locked(directory, pack):
        known = haves.load(have_path(directory, pack), size)
        try:
            same = os.path.samestat(pack_path(directory, pack).stat(), os.fstat(fd))
        except FileNotFoundError:
            same = False
        if not same or known.epoch != new.epoch:
            raise Busy(f"the pack {pack[:12]}", "room was made in it while it was written", "fetch it again")
        haves.save(have_path(directory, pack), haves.union(known, new), size)
    metrics.members_marked.inc(len(new))


def unmark(directory: CacheDir, pack: str, bad: Have) -> None:
    """Say that these members are not resident any more; their bytes stay where they are until right ones are written over them."""
    record = have_path(directory, pack)
    with locked(directory, pack):
        size = pack_path(directory, pack).stat().st_size
        known = haves.load(record, size)
        keep = ~haves.contains(bad, known.offset, known.size, known.head)
        kept = Have(known.offset[keep], known.size[keep], known.head[keep], known.epoch + 1)
        haves.save(record, kept, size)


@dataclass(frozen=True)
class Released:
    """What came of taking members away. freed: bytes that went back to the disk. held: bytes that did not, for somebody reads the
    pack; it was left whole, and its record too."""

    freed: int = 0
    held: int = 0


def release(directory: CacheDir, pack: str, keep: Have) -> Released:
    """Take away all but the resident members of `keep`, unless somebody reads the pack. Record first, then the bytes.

    Args:
        directory: Where the pack lies.
        pack: Its id.
        keep: Members that stay, as far as they are resident.
    """
    path, record = pack_path(directory, pack), have_path(directory, pack)
    with locked(directory, pack):
        try:
            before = path.stat()
        except FileNotFoundError:
            record.unlink(missing_ok=True)
            return Released()
        known = haves.load(record, before.st_size)
        kept = haves.common(known, keep)
        taken, stays = before.st_blocks * 512, _blocks_of(kept)
        if len(kept) == len(known) and len(kept) and taken <= stays:
            return Released()
        with lifetimes.exclusive(path) as fd:
            if fd is None:
                return Released(held=max(0, taken - stays))
            if not len(kept):
                record.unlink(missing_ok=True)
                crashpoints.reach("evict.record")
                path.unlink(missing_ok=True)
                crashpoints.reach("evict.done")
                return Released(taken)
            haves.save(record, Have(kept.offset, kept.size, kept.head, known.epoch + 1), before.st_size)
            crashpoints.reach("trim.record")
            for start, end in _holes(kept, before.st_size):
                lifetimes.punch(fd, start, end)
                crashpoints.reach("trim.hole")
            return Released(max(0, before.st_blocks - os.fstat(fd).st_blocks) * 512)


def keep_only(directory: CacheDir, pack: str, keep: Have) -> int:
    """As `release`; what that freed, in bytes."""
    return release(directory, pack, keep).freed


def _blocks_of(members: Have) -> int:
    """Bytes that these members take on disk."""
    return int((-(-members.size // BLOCK) * BLOCK).sum())


def _holes(kept: Have, size: int) -> Iterator[tuple[int, int]]:
    """Block-aligned (start, end) of all that no kept member touches."""
    position = 0
    for start, length in zip(kept.offset.tolist(), kept.size.tolist(), strict=True):
        if start // BLOCK * BLOCK > position:
            yield position, start // BLOCK * BLOCK
        position = max(position, -(-(start + length) // BLOCK) * BLOCK)
    if position < size:
        yield position, size


def allocate(fd: int, start: int, end: int) -> bool:
    """Take the blocks of [start, end); False where the file system cannot do that. Raises OSError when the disk is full."""
    if _LIBC.fallocate(fd, 0, start, end - start) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code))


def packs_on_disk(directory: CacheDir) -> dict[str, tuple[int, int]]:
    """pack → (allocated bytes, when its record last changed in ns) of all packs of a directory."""
    found: dict[str, tuple[int, int]] = {}
    for path in (directory.path / "packs").glob("??/*.tar"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        try:
            changed = path.with_suffix(".have").stat().st_mtime_ns
        except FileNotFoundError:
            changed = status.st_mtime_ns
        if is_hash(path.stem):
            found[path.stem] = (status.st_blocks * 512, changed)
    return found


def used(directory: CacheDir) -> int:
    """Allocated bytes of everything below the directory."""
    total, folders = 0, [directory.path]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except FileNotFoundError:
            continue
        for entry in entries:
            try:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
            except FileNotFoundError:
                continue
    return total


def disk_left(directory: CacheDir) -> tuple[int, bool]:
    """(bytes that may still be taken from the disk, whether it has inodes): a share of every disk is left alone."""
    status = os.statvfs(directory.path)
    return (
        max(0, status.f_bavail * status.f_frsize - _left_alone(status)),
        not status.f_files or status.f_favail > INODES_KEPT,
    )


def disk_size(directory: CacheDir) -> int:
    """Bytes of the whole disk that may be taken when nothing is on it."""
    status = os.statvfs(directory.path)
    return status.f_blocks * status.f_frsize - _left_alone(status)


def _left_alone(status: os.statvfs_result) -> int:
    return min(256 << 20, status.f_blocks * status.f_frsize // 50)


def room(directory: CacheDir, taken: int | None = None) -> int:
    """Bytes that still fit: by quota and by the disk. taken: what is used of the quota, when that is known."""
    free, has_inodes = disk_left(directory)
    left = directory.quota - (used(directory) if taken is None else taken)
    return max(0, min(left, free)) if has_inodes else 0


def report(directory: CacheDir) -> DirReport:
    """What heartbeats and metrics say of a directory; of one whose disk does not answer, its state."""
    state = disks.disk_of(directory.path).state
    metrics.cache_state.labels(str(directory.path)).set(disks.RANK[state])
    try:
        os.close(directory_identity.open_directory(directory.path))  # of no other disk
        taken, free = used(directory), disk_left(directory)[0]
    except OSError as error:
        disks.note(directory.path, error)
        taken, free = 0, 0
    metrics.cache_used.labels(str(directory.path)).set(taken)
    metrics.cache_quota.labels(str(directory.path)).set(directory.quota)
    return DirReport(
        path=str(directory.path),
        medium=directory.medium,
        quota=directory.quota,
        used=taken,
        free_on_disk=free,
        state=state,
    )


def drop_unfilled(directory: CacheDir, pack: str) -> int:
    """Give back what was reserved or written and never marked; bytes freed.

    While somebody reads the pack only blocks go that were never written. The rest goes when it is looked at again.
    """
    path, record = pack_path(directory, pack), have_path(directory, pack)
    allocated = path.stat().st_blocks * 512
    known = haves.load(record)
    if allocated <= _blocks_of(known):
        return 0
    done = release(directory, pack, known)
    if not done.held:
        return done.freed
    with locked(directory, pack):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            before = os.fstat(fd)
            known = haves.load(record, before.st_size)
            # whoever writes into such blocks just now cannot mark them
            haves.save(record, Have(known.offset, known.size, known.head, known.epoch + 1), before.st_size)
            for start, end in _holes(known, before.st_size):
                lifetimes.punch_never_written(fd, start, end, BLOCK)
            return max(0, before.st_blocks - os.fstat(fd).st_blocks) * 512
        finally:
            os.close(fd)
