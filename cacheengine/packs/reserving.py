"""Space is taken before the first byte: all of a request or nothing, over all threads and processes of a node.

What a disk has allocated is what is used, so a reservation by one process counts for all.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cacheengine import metrics
from cacheengine.errors import NoSpace
from cacheengine.packs import directory_identity, disks
from cacheengine.packs.have import Ints
from cacheengine.packs.packcache import (
    BLOCK,
    Cache,
    CacheDir,
    allocate,
    disk_size,
    drop_unfilled,
    find_pack,
    open_pack,
    room,
    used,
)
from cacheengine.wire import Medium

ALLOCATE_AT_ONCE = 4
_RANK: Mapping[Medium, int] = {"mem": 0, "nvme": 1, "ssd": 2, "hdd": 3}


@dataclass(frozen=True)
class Need:
    """What is missing of one pack: members as offsets and sizes (bytes), ascending. size: of the whole pack."""

    pack: str
    size: int
    offset: Ints
    length: Ints


def blocks_of(need: Need) -> int:
    """Bytes that the missing members take on disk."""
    return int((-(-need.length // BLOCK) * BLOCK).sum())


def reserve(
    cache: Cache,
    needs: Sequence[Need],
    what: str,
    make_room: Callable[[int], bool],
    advice: Callable[[], str],
) -> dict[str, CacheDir]:
    """Take the space of all needs before the first byte; pack → directory.

    what: who asks, for the error. make_room(bytes): asked to evict at least so much of what may go; False when nothing is left
    to evict. advice: what a person could do. Raises NoSpace, and then nothing stays reserved.
    """
    with _cache_locked(cache) as fd:
        known = _recall(cache, fd)
        while True:
            at, usage = known or (time.monotonic(), {d.path: used(d) for d in _up(cache)})
            placed, short, available = _place(cache, needs, usage)
            if not short:
                break
            if known is not None:
                known = None  # it may be less by now
            elif not make_room(short):
                metrics.no_space.inc()
                total = sum(blocks_of(need) for need in needs)
                raise NoSpace(
                    what,
                    f"it needs {total} bytes, {available} are available in "
                    + ", ".join(_in_words(d) for d in cache.dirs),
                    advice(),
                )
        error = _allocate_all(placed, needs)
        if error is not None:
            metrics.no_space.inc()
            raise NoSpace(what, f"the disk said: {error.strerror}", advice()) from error
        _remember(cache, fd, at, usage)
    return placed


def capacity(cache: Cache) -> int | None:
    """Bytes that the largest directory takes when all else is gone from it; None when no directory is up."""
    sizes = []
    for directory in _up(cache):
        try:
            sizes.append(min(directory.quota, disk_size(directory)))
        except OSError as error:
            disks.note(directory.path, error)
    return max(sizes, default=None)


def _up(cache: Cache) -> list[CacheDir]:
    return [directory for directory in cache.dirs if disks.is_up(directory.path)]


def _in_words(directory: CacheDir) -> str:
    disk = disks.disk_of(directory.path)
    trouble = "" if disk.state == "normal" else f", {disk.state}: {disk.cause}"
    return f"{directory.path} (quota {directory.quota}{trouble})"


def give_back(directory: CacheDir, pack: str) -> None:
    """What was reserved and not filled goes back, where the disk lets it."""
    try:
        drop_unfilled(directory, pack)
    except OSError as error:  # what is left is given back at the next start
        disks.note(directory.path, error)


# cache → (stamp of its last reservation, when its usage was counted, usage by directory): counting walks all folders
_counted: dict[Cache, tuple[int, float, dict[Path, int]]] = {}
COUNT_EVERY_S = 5.0


def _recall(cache: Cache, fd: int) -> tuple[float, dict[Path, int]] | None:
    """(when it was counted, usage as after our own last reservation), while nobody else has made one; else None."""
    stamp, at, usage = _counted.get(cache, (0, 0.0, {}))
    fresh = os.fstat(fd).st_mtime_ns == stamp and time.monotonic() - at < COUNT_EVERY_S
    return (at, dict(usage)) if fresh else None


def _remember(cache: Cache, fd: int, at: float, usage: dict[Path, int]) -> None:
    os.utime(fd, ns=(time.time_ns(), time.time_ns()))
    _counted[cache] = (os.fstat(fd).st_mtime_ns, at, usage)


@contextmanager
def _cache_locked(cache: Cache) -> Iterator[int]:
    """One reservation at a time, over all processes that see the same disks up. Raises NoSpace when none is."""
    fd = -1
    for directory in sorted(cache.dirs, key=lambda d: disks.rank(d.path)):
        try:
            root = directory_identity.open_directory(directory.path)
            try:
                fd = os.open(".reserve", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=root)
            finally:
                os.close(root)
            break
        except OSError as error:
            disks.note(directory.path, error)
    if fd < 0:
        raise NoSpace(
            "the cache",
            "no cache directory can be written: " + ", ".join(_in_words(d) for d in cache.dirs),
            "repair the disk, or give the node another cache directory",
        )
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _place(
    cache: Cache, needs: Sequence[Need], usage: dict[Path, int]
) -> tuple[dict[str, CacheDir], int, int]:
    """(pack → directory, bytes that found no place, bytes there were): where the pack lies, else the fastest with room.

    usage: bytes used of each directory; what is placed is added.
    """
    left = {directory.path: room(directory, usage.get(directory.path)) for directory in _up(cache)}
    available, short = sum(left.values()), 0
    placed: dict[str, CacheDir] = {}
    for need in needs:
        home = find_pack(cache, need.pack)
        # the record grows by 24 bytes a member; a new pack has a folder and a record of its own
        records = -(-24 * len(need.offset) // BLOCK) * BLOCK
        size = blocks_of(need) + records + (3 * BLOCK if home is None else 0)
        if home is not None:
            fitting = [home] if left[home.path] >= size else []
        else:
            fitting = [d for d in _up(cache) if not disks.rank(d.path) and left[d.path] >= size]
        if not fitting:
            short += size
            continue
        chosen = min(fitting, key=lambda d: (_RANK[d.medium], -left[d.path]))
        left[chosen.path] -= size
        usage[chosen.path] = usage.get(chosen.path, 0) + size
        placed[need.pack] = chosen
    return placed, short, available


def _runs(need: Need) -> Iterator[tuple[int, int]]:
    """(start, end) of the missing members in whole blocks, near ones joined."""
    start = end = -1
    for offset, length in zip(need.offset.tolist(), need.length.tolist(), strict=True):
        first, last = offset // BLOCK * BLOCK, min(need.size, -(-(offset + length) // BLOCK) * BLOCK)
        if first <= end:
            end = max(end, last)
            continue
        if end > start:
            yield start, end
        start, end = first, last
    if end > start:
        yield start, end


def _allocate_all(placed: Mapping[str, CacheDir], needs: Sequence[Need]) -> OSError | None:
    """The first error of a disk, and then everything is given back.

    Several packs at a time: on tmpfs the kernel clears memory for as long as it would take to write it.
    """
    begun: list[Need] = []
    errors: list[OSError] = []

    def take(need: Need) -> None:
        if errors:
            return
        begun.append(need)
        try:
            _allocate(placed[need.pack], need)
        except OSError as error:
            disks.note(placed[need.pack].path, error)
            errors.append(error)

    with ThreadPoolExecutor(ALLOCATE_AT_ONCE, thread_name_prefix="reserve") as pool:
        list(pool.map(take, needs))
    for need in begun if errors else ():
        give_back(placed[need.pack], need.pack)
    return errors[0] if errors else None


def _allocate(directory: CacheDir, need: Need) -> None:
    fd = open_pack(directory, need.pack, need.size)
    try:
        for start, end in _runs(need):
            if not allocate(fd, start, end):
                return  # the quota has been checked, and the disk will tell
    finally:
        os.close(fd)
