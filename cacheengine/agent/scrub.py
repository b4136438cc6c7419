"""What keeps resident bytes right: a scrubber that hashes them again, and a look at the files that mounted views stand on.

A damaged member is un-marked and counted; views that show its pack get it through fetchfs, which fetches and checks, and the
versions that want it fetch it again. Right bytes are written over the wrong ones: a pack's id fixes what belongs at an offset.
A file descriptor that was open before the view was replaced keeps the pages that the kernel has of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import structlog
from blake3 import blake3

from cacheengine import metrics
from cacheengine import wanted as wants
from cacheengine.agent.state import MountRecord, Node, saved_wants
from cacheengine.fetching import giveway
from cacheengine.packs import disks, packcache
from cacheengine.packs import have as haves
from cacheengine.packs.have import Have
from cacheengine.packs.packcache import CacheDir
from lake.errors import Explained

IDLE_NS = 60 * 10**9
PIECE = 8 << 20

log = structlog.get_logger()


def damaged_members(directory: CacheDir, pack: str, rate: int, node: Node | None = None) -> Have:
    """Resident members whose bytes on disk do not have the first 8 bytes of their content id. rate: bytes a second.

    Read from the disk, not from the page cache. Raises OSError, FileNotFoundError.
    """
    with packcache.locked(directory, pack, shared=True):
        path = packcache.pack_path(directory, pack)
        known = haves.load(packcache.have_path(directory, pack), path.stat().st_size)
    bad = np.zeros(len(known), np.bool_)
    _forget_pages(path)
    columns = zip(known.offset.tolist(), known.size.tolist(), known.head.tolist(), strict=True)
    started, done = time.monotonic(), 0
    for row, (offset, size, head) in enumerate(columns):
        digest = _digest(directory, pack, offset, size, known.epoch)
        if digest is None:
            break  # bytes were taken from it meanwhile: the next round looks at what is left
        bad[row] = int.from_bytes(digest[:8], "little") != head
        metrics.scrubbed_bytes.inc(size)
        done += size
        if node is not None:
            if node.ending.wait(max(0.0, done / rate - (time.monotonic() - started))):
                break
            giveway.to_readers(node.config.state_dir / "counts", node.ending)()
    _forget_pages(path)
    return Have(known.offset[bad], known.size[bad], known.head[bad], known.epoch)


def _digest(directory: CacheDir, pack: str, offset: int, size: int, epoch: int) -> bytes | None:
    """The hash of a member's bytes; None when bytes were taken from the pack since.

    The pack is open for one member at a time: an open one cannot be freed.
    """
    try:
        fd = os.open(packcache.pack_path(directory, pack), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if packcache.epoch(directory, pack) != epoch:
            return None
        digest = blake3()
        for piece in _pieces(fd, offset, size):
            digest.update(piece)
        return digest.digest()
    except OSError as error:  # a bad sector: the member is lost, the others are not
        disks.note(directory.path, error)
        return blake3(b"unreadable").digest()
    finally:
        os.close(fd)


def _forget_pages(path: Path) -> None:
    """Have what comes next read from the disk."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _pieces(fd: int, offset: int, size: int) -> Iterator[bytes]:
    for at in range(offset, offset + size, PIECE):
        yield os.pread(fd, min(PIECE, offset + size - at), at)


def scrub_pack(node: Node, directory: CacheDir, pack: str) -> int:
    """Hash a pack again; how many of its members were damaged. They are un-marked, and whoever needs them is told."""
    bad = damaged_members(directory, pack, int(node.config.scrub_rate), node)
    if len(bad):
        packcache.unmark(directory, pack, bad)
        metrics.scrubbed_bad.inc(len(bad))
        log.error(
            "damaged_on_disk", pack=pack, dir=str(directory.path), members=len(bad), bytes=int(bad.size.sum())
        )
        pack_lost(node, pack)
    return len(bad)


def pack_lost(node: Node, pack: str) -> None:
    """A pack lacks members that it had: versions that want it look again, views that show it are replaced."""
    holding = {key for key, want in saved_wants(node).items() if any(part.id == pack for part in want.packs)}
    with node.lock:
        node.damaged.add(pack)
        for key, status in node.statuses.items():
            if key in holding and status.state == "resident":
                status.state = "waiting"
    node.wake.set()


def _unhashed(node: Node) -> set[str]:
    """Packs whose content ids are no hashes (objects published in place by their etag)."""
    return {
        part.id for want in saved_wants(node).values() if want.identity != "content" for part in want.packs
    }


def scrub_some(node: Node, most: int = 1 << 30) -> bool:
    """Go on with the round where it was, over idle packs in the order of their ids; False when none is due."""
    place = node.config.state_dir / "scrub.json"
    try:
        value = json.loads(place.read_bytes())
        last, began = str(value["last"]), float(value["began"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        last, began = "", 0.0
    now = time.time()
    if not last and 0 <= now - began < node.config.scrub_every_s:
        return False
    began = began if last else now
    skip, done = _unhashed(node), 0
    packs = sorted(
        (pack, place, changed)
        for place, directory in enumerate(node.cache.dirs)
        if disks.is_up(directory.path)
        for pack, (_, changed) in packcache.packs_on_disk(directory).items()
        if pack > last and pack not in skip
    )
    for pack, number, changed in packs:
        if node.ending.is_set() or done > most:
            break
        busy = 0 <= time.time_ns() - changed < IDLE_NS  # one from the future is of a clock that was set back
        if not busy or node.config.scrub_every_s < IDLE_NS / 1e9:
            with suppress(FileNotFoundError):  # evicted meanwhile
                scrub_pack(node, node.cache.dirs[number], pack)
        last, done = pack, done + 1
    else:
        last = ""
    haves.write_durably(place, json.dumps({"last": last, "began": began}).encode())
    return True


def run(node: Node) -> None:
    """Scrub until the node ends."""
    while node.config.scrub_every_s and not node.ending.wait(min(60.0, node.config.scrub_every_s)):
        try:
            scrub_some(node)
            node.works("scrub")
        except (Explained, OSError) as error:
            node.failed("scrub", error)
        except Exception as error:
            log.exception("unexpected", part="scrub")
            node.failed("scrub", error)


def why_replace(node: Node, record: MountRecord) -> str | None:
    """Why a view must be mounted anew: a pack that it shows lost members, or its file is another one, or shorter, than it was.

    A reader past the end of a file that became shorter gets an error until the next look, every two seconds.
    """
    target = record.report.target
    with node.lock:
        damaged = sorted(node.damaged.intersection(record.held) - set(record.remote))
        known = node.files_seen.get(target)
    if damaged:
        return f"the pack {damaged[0][:12]} was damaged on disk"
    if known is None:
        known = remember_files(node, record)
    for path, (inode, size) in known.items():
        try:
            status = path.stat()
        except FileNotFoundError:
            return _lost(node, path, "is gone")
        except OSError as error:
            disks.note(path.parents[2], error)
            continue
        if status.st_size < size:
            return _lost(node, path, f"has {status.st_size} bytes of {size}")
        if status.st_ino != inode:
            return f"the pack {path.stem[:12]} is another file"
    return None


def _lost(node: Node, path: Path, what: str) -> str:
    pack_lost(node, path.stem)
    log.error("pack_lost", pack=path.stem, path=str(path), what=what)
    return f"the pack {path.stem[:12]} {what}"


def remember_files(node: Node, record: MountRecord) -> dict[Path, tuple[int, int]]:
    """Note the files that a view stands on, with inode and size."""
    want = wants.load_want(node.config.views, record.report.version)
    found: dict[Path, tuple[int, int]] = {}
    for part in want.packs if want is not None else ():
        directory = packcache.find_pack(node.cache, part.id)
        if part.id not in record.remote and directory is not None:
            path = packcache.pack_path(directory, part.id)
            found[path] = (path.stat().st_ino, part.size)
    with node.lock:
        node.files_seen[record.report.target] = found
        node.damaged.difference_update(record.remote)
    return found
