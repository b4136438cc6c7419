"""Reads of packs that are not resident: whole members are fetched, checked and written before a byte of them is given.

The members are those of the pack's own list (one request to the tail of the object, then kept on the node), because the kernel
reads ahead over members that no view asked for, and keeps what it got. Where a version that this node knows says what a
member's content id is, the version is believed. Marks are made in the background: bytes that are written and not yet marked when the
process is killed are fetched again. A reader waits READ_WAIT_S at most, whatever the store does, and then gets an error that says so.

A pack is open for the time of one request, and while bytes of it are written and not yet marked: an open file cannot be evicted
(`packs/lifetimes.py`), and there is no limit to the packs that a node reads.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from cacheengine import intime, metrics, tracing, wanted
from cacheengine.errors import Busy, FetchFailed, NoSpace
from cacheengine.fetching import fetch, giveway
from cacheengine.node import node_store, other_stores, read_node_file, store_opener
from cacheengine.ondemand import readahead
from cacheengine.ondemand.memberlists import all_members, named_members, touches, touching
from cacheengine.ondemand.reader_room import ReaderRoom
from cacheengine.ondemand.reading_holds import ReadingHolds
from cacheengine.packs import disks, memberwrites, packcache
from cacheengine.packs import have as haves
from cacheengine.packs.have import Mask
from cacheengine.packs.memberwrites import PackFile
from cacheengine.packs.packcache import Cache, CacheDir, open_cache
from cacheengine.packs.reserving import Need
from cacheengine.peers import peers
from cacheengine.peers.groupview import Watched
from cacheengine.peers.peers import Peers
from cacheengine.peers.peertls import client_tls
from cacheengine.wanted import PackWant
from lake.config import load_config
from lake.errors import Corrupt, Explained
from lake.stores import Store

FLUSH_EVERY_S = 2.0
FLUSH_BYTES = 64 << 20
READ_WAIT_S = 30.0
AT_ONCE = 32  # fetches of a node's readers, of at most a request (or a long member, in pieces) in memory each
LEAST_AT_ONCE = 4  # of one of its processes
AHEAD_SHARE = 16  # one in so many, or one, may be for read-ahead
AHEAD_STEP = 2 << 20
_TAKEN = "its bytes were taken away as fast as they came"
_NOWHERE: haves.Ints = np.empty((0, 2), np.int64)

log = structlog.get_logger()


class _Writing:
    """A descriptor to write a pack with, closed with its last user. epoch: of the record since then."""

    def __init__(self, fd: int, record: str) -> None:
        self.fd = fd
        self.epoch = haves.read_epoch(record)  # only now: while the file is open nothing is taken from it
        weakref.finalize(self, os.close, fd)


@dataclass(eq=False)
class _Pack:
    """A pack in use. there: members that are on disk, marked or not; pending: written and not yet marked; busy: being fetched.

    path, record: of the pack and of its record; status: of the file. `there` holds while the file is that one and no bytes were
    taken from it (epoch). unknown: regions of which only the pack's own list can tell what they hold. writing: what was pending was
    written through it, so that its sync hears of what the disk refused.
    """

    want: PackWant
    directory: CacheDir
    path: str
    record: str
    status: os.stat_result
    epoch: int
    there: Mask
    pending: Mask
    unknown: haves.Ints
    busy: dict[int, threading.Event] = field(default_factory=dict)
    pending_bytes: int = 0
    writing: _Writing | None = None
    streams: readahead.Streams = field(default_factory=readahead.Streams)


class ReadThrough:
    """All packs of a node for readers in this process; every method may be called from many threads.

    views: the saved rows of versions (see wanted.py). counts: file that tells the agent what was missed; one
    beside it, `.room`, asks it to make room, and one, `.busy`, its warms to give way. wait_s: the longest wait of a reader.
    at_once: fetches under way together.
    """

    def __init__(
        self,
        cache: Cache,
        store: Store,
        views: Path,
        counts: Path | None = None,
        wait_s: float = READ_WAIT_S,
        sources: fetch.Sources = fetch.STORE_ALONE,
        near: Peers | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        self._cache, self._store, self._views, self._counts = cache, store, views, counts
        self._views_path = str(views)
        self._members = views.parent / "members"
        self._members.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._packs: dict[str, _Pack] = {}
        self._loading: dict[str, threading.Lock] = {}
        self._views_seen: int | None = None
        self._known: dict[str, list[tuple[wanted.Want, int]]] = {}
        self._sources, self._near = sources, near
        self._wait_s, self._slots = wait_s, threading.Semaphore(at_once)
        self._ahead_slots = threading.Semaphore(max(1, at_once // AHEAD_SHARE))
        self.missed_bytes = 0
        self._end, self._flush_now = threading.Event(), threading.Event()
        self._room, self._reading = ReaderRoom(cache, counts, wait_s), ReadingHolds(self._hold_ended)
        self._flusher = threading.Thread(target=self._flush_loop, name="readthrough-marks", daemon=True)
        self._flusher.start()

    def open_pack(self, pack_id: str) -> tuple[int, Path]:
        """(size of the whole pack in bytes, its file in the cache, sparse). Raises NotFound, StoreDown, Refused."""
        pack = self._pack(pack_id)
        return pack.want.size, packcache.pack_path(pack.directory, pack_id)

    def size_of(self, pack_id: str) -> int:
        """Bytes of the whole pack; no request where a version of this node names it. Raises as open_pack."""
        self._look_at_views()
        known = self._known.get(pack_id)
        return known[0][0].packs[known[0][1]].size if known else self._pack(pack_id).want.size

    def make_resident(self, pack_id: str, offset: int, length: int) -> None:
        """Return when every member that touches these bytes is on disk and has its hash.

        Two readers of one member make one request. Raises FetchFailed (also when nothing came for wait_s), NotFound, StoreDown,
        NoSpace.
        """
        end = time.monotonic() + self._wait_s
        for _ in range(8):
            pack = self._pack(pack_id, end, (offset, length))
            rows = touching(pack.want, offset, length)
            mine, waits = self._claim(pack, rows)
            if not len(mine) and not waits:
                return
            if len(mine):
                intime.within(
                    self._slots,
                    end,
                    partial(intime.too_slow, pack_id, self._wait_s),
                    partial(self._fetch_claimed, pack, mine, end),
                    partial(self._let_go, pack, mine),
                )
            for event in waits:
                if not event.wait(max(0.0, end - time.monotonic())):
                    raise intime.too_slow(pack_id, self._wait_s)
        raise FetchFailed(f"the pack {pack_id[:12]}", _TAKEN, "make room")

    def _claim(self, pack: _Pack, rows: haves.Ints) -> tuple[haves.Ints, list[threading.Event]]:
        """(rows that the caller must fetch now, what to wait for that others fetch)."""
        with self._lock:
            missing = rows[~pack.there[rows]].tolist()
            waits = [pack.busy[row] for row in missing if row in pack.busy]
            mine = [row for row in missing if row not in pack.busy]
            pack.busy.update(dict.fromkeys(mine, threading.Event()))
        return np.array(mine, np.int64), waits

    def _fetch_claimed(self, pack: _Pack, rows: haves.Ints, end: float) -> None:
        try:
            self._fetch(pack, rows, end)
        finally:
            self._let_go(pack, rows)

    def _let_go(self, pack: _Pack, rows: haves.Ints) -> None:
        with self._lock:
            for event in {pack.busy.pop(row) for row in rows.tolist()}:
                event.set()

    def read(self, pack_id: str, offset: int, length: int) -> bytes:
        """These bytes of a pack, right or an error; what lies between members reads as zeros."""
        for attempt in range(8):
            self._look_at_views()
            pack = self._packs.get(pack_id)  # looked at once, below, where nothing is missing
            if attempt or pack is None or not _is_there(pack, offset, length):
                self.make_resident(pack_id, offset, length)
                pack = self._pack(pack_id, time.monotonic() + self._wait_s)
                if touches(pack.unknown, offset, length):
                    continue
            fd = _open(pack)
            if fd < 0:
                continue
            try:
                data = os.pread(fd, length, offset)
            finally:
                os.close(fd)
            good = _is_there(pack, offset, length)
            if good:
                self._follow(pack, offset, length)
            if good and _holds(pack):
                self._reading.note_read(pack_id, offset, length)
                return data
        raise FetchFailed(f"the pack {pack_id[:12]}", _TAKEN, "make room")

    def read_now(self, pack_id: str, offset: int, into: memoryview, may_wait: bool) -> bool:
        """Fill it with these bytes when they are resident and, unless it may wait for a disk, in the page cache; else False.

        Takes no lock that is held long, and asks nobody. Raises OSError.
        """
        pack = self._packs.get(pack_id)
        if pack is None or self._views_now() != self._views_seen or not _is_there(pack, offset, len(into)):
            return False
        try:
            fd = _open(pack, os.O_NONBLOCK)
            if fd < 0:
                return False
            try:
                got = os.preadv(fd, [into], offset, 0 if may_wait else os.RWF_NOWAIT)
            finally:
                os.close(fd)
        except BlockingIOError:  # it is not in memory, or bytes are being taken from the pack
            return False
        except OSError:
            if may_wait:
                raise
            return False  # a file system that cannot say
        if got != len(into) or not _holds(pack):
            return False
        self._reading.note_read(pack_id, offset, got)
        self._follow(pack, offset, got)
        return True

    def _follow(self, pack: _Pack, offset: int, length: int) -> None:
        """Note a read of what is there, and fetch ahead of it where there is something to fetch."""
        if pack.there.all():
            return
        with self._lock:
            ahead = readahead.follow(pack.streams, offset, length, pack.want.size)
        if ahead is not None:
            self._read_ahead(pack, *ahead)

    def _read_ahead(self, pack: _Pack, start: int, end: int) -> None:
        """Fetch in the background what a reader that goes along the pack will ask for next; not when it would have to wait."""
        if not self._ahead_slots.acquire(blocking=False):
            return

        def run() -> None:
            try:
                for at in range(
                    start, end, AHEAD_STEP
                ):  # in steps: who comes to the first waits for it alone
                    mine, _ = self._claim(pack, touching(pack.want, at, min(AHEAD_STEP, end - at)))
                    if len(mine):
                        self._fetch_claimed(pack, mine, time.monotonic())
                        metrics.ahead_bytes.inc(int(pack.want.length[mine].sum()))
            except (Explained, OSError) as error:
                if not isinstance(error, NoSpace):  # whoever asks for it gets the error
                    metrics.background_failures.labels("readahead").inc()
                    log.warning("readahead_failed", pack=pack.want.pack, error=str(error))
            finally:
                self._ahead_slots.release()

        threading.Thread(target=run, name="readthrough-ahead", daemon=True).start()

    def close(self) -> None:
        """Mark what is pending and let the packs go."""
        self._end.set()
        self._flush_now.set()
        self._flusher.join()
        self._reading.close()
        self.flush()
        with self._lock:
            self._packs.clear()

    def flush(self) -> None:
        """Mark what was fetched, and write the counts."""
        with self._lock:
            packs = [pack for pack in self._packs.values() if pack.pending.any()]
        for pack in packs:
            self._mark(pack)
        if self._counts is not None:
            value = {
                "miss_bytes": self.missed_bytes,
                "store_bytes": metrics.total(metrics.store_bytes),
                "store_requests": metrics.total(metrics.store_requests),
                "peer_bytes": metrics.total(metrics.peer_bytes),
            }
            haves.write_durably(self._counts, json.dumps(value).encode())

    def _hold_ended(self) -> None:
        """Marks keep their packs open: where someone waits for room they are made now."""
        if self._room.is_waited_for():
            self._flush_now.set()

    def _flush_loop(self) -> None:
        written, probed = -1, 0.0
        while not self._end.is_set():
            self._flush_now.wait(FLUSH_EVERY_S)
            self._flush_now.clear()
            if time.monotonic() >= probed + FLUSH_EVERY_S:
                for directory in self._cache.dirs:
                    disks.probe(directory.path)
                probed = time.monotonic()
            if self.missed_bytes == written:
                continue
            written = self.missed_bytes
            try:
                self.flush()
            except (Explained, OSError) as error:
                written = -1
                metrics.background_failures.labels("readthrough").inc()
                log.error("marks_failed", error=str(error))

    def _mark(self, pack: _Pack) -> None:
        with self._lock:
            rows, pack.pending = np.flatnonzero(pack.pending), np.zeros_like(pack.pending)
            pack.pending_bytes = 0
            writing, pack.writing = pack.writing, None
        if writing is None:
            return
        want = pack.want
        new = haves.make(want.offset[rows], want.length[rows], want.head[rows], writing.epoch)
        try:
            packcache.mark(pack.directory, want.pack, want.size, writing.fd, new)
        except Busy:
            log.info("pack_changed", pack=want.pack)  # the next read loads it anew
        except BaseException:
            with self._lock:
                pack.pending[rows] = True
                pack.writing = writing
            raise

    def _fetch(self, pack: _Pack, rows: haves.Ints, end: float) -> None:
        """Make these members resident. end: until when to wait for room (time.monotonic)."""
        want = pack.want.take(rows)
        need = Need(want.pack, want.size, want.offset, want.length)
        pack = _moved(pack, self._room.take(need, end))
        writing = self._write_to(pack)
        if writing is None:
            return  # it went: the next look loads it anew
        bad: list[fetch.Bad] = []
        sources = self._sources
        if self._near is not None:
            with self._lock:
                versions = [known.version for known, _ in self._known.get(want.pack, ())]
            near, last = (peers.for_reader(self._near, versions, last) for last in (False, True))
            sources = replace(sources, near=near, last=last)
        for piece in fetch.plan(want.offset, want.length):
            if self._counts is not None:
                giveway.say(self._counts.with_suffix(giveway.SUFFIX))
            bad += fetch.fetch_piece(self._store, want, piece, PackFile(writing.fd, pack.directory), sources)
        failed = np.isin(want.offset, [one.offset for one in bad])
        size = int(want.length[~failed].sum())
        metrics.miss_bytes.inc(size)
        with self._lock:
            self.missed_bytes += size
            pack.there[rows[~failed]] = True
            pack.pending[rows[~failed]] = True
            pack.pending_bytes += size
            pack.writing = writing
            if pack.pending_bytes >= FLUSH_BYTES:
                self._flush_now.set()
        if self._counts is not None:  # else there is no agent that makes room
            self._reading.hold(want.pack, writing, pack.want.offset + pack.want.length, rows[~failed])
        if self._packs.get(want.pack) is not pack or not _holds(pack):
            # room was made in it while this waited for room
            self._mark(pack)
            self._forget(want.pack)
        if bad:
            raise FetchFailed(
                f"byte {bad[0].offset} of the pack {want.pack[:12]}", bad[0].cause, "sync the version again"
            )

    def _write_to(self, pack: _Pack) -> _Writing | None:
        """To write the pack's file with, which may be another one than it was before room was made; None when it is not there."""
        with self._lock:
            if pack.writing is not None:
                return pack.writing
        try:
            writing = _Writing(os.open(pack.path, os.O_RDWR | os.O_CLOEXEC), pack.record)
        except FileNotFoundError:
            return None
        return writing if os.fstat(writing.fd).st_size == pack.want.size else None

    def _pack(self, pack_id: str, end: float | None = None, wanted_bytes: tuple[int, int] = (0, 0)) -> _Pack:
        """The pack as it is on disk now: loaded anew when bytes were taken from it, when a version was added, or when it is not known
        what the wanted bytes (offset, length) hold."""
        self._look_at_views()
        with self._lock:
            pack = self._packs.get(pack_id)
            loading = self._loading.setdefault(pack_id, threading.Lock())

        def good(found: _Pack | None) -> bool:
            return found is not None and _holds(found) and not touches(found.unknown, *wanted_bytes)

        if pack is not None and good(pack):
            return pack
        end = end or time.monotonic() + self._wait_s
        if not loading.acquire(timeout=max(0.0, end - time.monotonic())):
            raise intime.too_slow(pack_id, self._wait_s)
        try:
            with self._lock:
                current = self._packs.get(pack_id)
            if current is not None and current is not pack and good(current):
                return current
            too_slow = partial(intime.too_slow, pack_id, self._wait_s)
            listed = current is not None and touches(current.unknown, *wanted_bytes)
            if listed and current is not None and current.pending.any():
                self._mark(current)
            intime.within(self._slots, end, too_slow, partial(self._load_into, pack_id, listed))
            if touches(self._packs[pack_id].unknown, *wanted_bytes):
                intime.within(self._slots, end, too_slow, partial(self._load_into, pack_id, True))
            with self._lock:
                return self._packs[pack_id]
        finally:
            loading.release()

    def _load_into(self, pack_id: str, listed: bool) -> None:
        fresh = self._load(pack_id, listed)
        with self._lock:
            known = self._packs.get(pack_id)
            if known is not None and np.array_equal(known.want.offset, fresh.want.offset):
                fresh.busy = known.busy  # what is being fetched is not fetched again
            self._packs[pack_id] = fresh

    def _load(self, pack_id: str, listed: bool) -> _Pack:
        want, unknown = self._members_of(pack_id, listed)
        need = Need(pack_id, want.size, np.empty(0, np.int64), np.empty(0, np.int64))
        home = packcache.find_pack(self._cache, pack_id)
        if home is None:
            home = self._room.take(need, time.monotonic() + self._wait_s)
        fd = packcache.open_pack(home, pack_id, want.size)
        try:
            with packcache.locked(home, pack_id, shared=True):
                known = haves.load(packcache.have_path(home, pack_id), want.size)
            status = os.fstat(fd)
        finally:
            os.close(fd)
        there = haves.contains(known, want.offset, want.length, want.head)
        return _Pack(
            want,
            home,
            str(packcache.pack_path(home, pack_id)),
            str(packcache.have_path(home, pack_id)),
            status,
            known.epoch,
            there,
            np.zeros(len(there), np.bool_),
            unknown,
        )

    def _views_now(self) -> int | None:
        """When rows of versions last came or went; None when there are none."""
        try:
            return os.stat(self._views_path).st_mtime_ns  # noqa: PTH116 (for each read)
        except FileNotFoundError:
            return None

    def _look_at_views(self) -> None:
        """Learn of versions whose rows were saved since: then all packs are loaded anew."""
        now = self._views_now()
        if now is None or now == self._views_seen:
            return
        known: dict[str, list[tuple[wanted.Want, int]]] = {}
        for index in sorted(self._views.glob(f"[0-9a-f]*{wanted.INDEX_SUFFIX}")):
            try:
                want = wanted.read_index(index)
            except (FileNotFoundError, Corrupt) as error:
                log.warning("index_unusable", index=str(index), error=str(error))
                continue
            for place, part in enumerate(want.packs):
                known.setdefault(part.id, []).append((want, place))
        with self._lock:
            changed = {p for p in known.keys() | self._known.keys() if known.get(p) != self._known.get(p)}
            self._known, self._views_seen = known, now
        for pack_id in changed:
            self._forget(pack_id)

    def _forget(self, pack_id: str) -> None:
        with self._lock:
            pack = self._packs.get(pack_id)
        if pack is not None and pack.pending.any():
            self._mark(pack)
        with self._lock:
            self._packs.pop(pack_id, None)

    def _members_of(self, pack_id: str, listed: bool) -> tuple[PackWant, haves.Ints]:
        """(members of the pack, where a version names one, as the version says; regions that may hold others). listed: every member."""
        with self._lock:
            wants = list(self._known.get(pack_id, ()))
        believed = []
        for want, place in wants:
            try:
                believed.append(wanted.read_pack(want, place))
            except FileNotFoundError:
                continue  # freed meanwhile
        named = None if listed else named_members(self._members, believed)
        return named or (all_members(self._store, self._members, pack_id, believed), _NOWHERE)


def _moved(pack: _Pack, home: CacheDir) -> _Pack:
    """The pack, or what it is in another directory, where its space was taken because its file went from the first one."""
    if home == pack.directory:
        return pack
    return replace(
        pack,
        directory=home,
        path=str(packcache.pack_path(home, pack.want.pack)),
        record=str(packcache.have_path(home, pack.want.pack)),
        there=pack.there.copy(),
        pending=np.zeros_like(pack.pending),
        pending_bytes=0,
        writing=None,
    )


def _is_there(pack: _Pack, offset: int, length: int) -> bool:
    """Whether it is known what these bytes hold, and every member of them is on disk."""
    if len(pack.unknown) and touches(pack.unknown, offset, length):
        return False
    if pack.there.all():  # far fewer bytes to look at than numbers
        return True
    return bool(pack.there[touching(pack.want, offset, length)].all())


def _open(pack: _Pack, flags: int = 0) -> int:
    """A descriptor of the pack's file for one read; -1 when it is another file by now. Raises BlockingIOError (O_NONBLOCK), OSError."""
    try:
        fd = os.open(pack.path, os.O_RDONLY | os.O_CLOEXEC | flags)
    except FileNotFoundError:
        return -1
    if os.path.samestat(os.fstat(fd), pack.status):
        return fd
    os.close(fd)
    return -1


def _holds(pack: _Pack) -> bool:
    """Whether what we know of the pack is still true: same file, nothing taken away."""
    try:
        same = os.path.samestat(os.stat(pack.path), pack.status)  # noqa: PTH116 (for each read)
    except FileNotFoundError:
        return False
    return same and haves.read_epoch(pack.record) == pack.epoch


def open_readthrough(node_file: Path, name: str = "fetchfs") -> ReadThrough:
    """For a process that the agent starts with `--node-config`: settings from its file, stores from the configuration."""
    node, config = read_node_file(node_file), load_config()
    cache, store = open_cache(node.cache_dirs, node.state_dir), node_store(config, node)
    folder = node.state_dir / "counts"
    folder.mkdir(parents=True, exist_ok=True)
    told = tracing.told(folder)
    sources = fetch.Sources(
        open_named=store_opener(config, node), others=other_stores(config, node), told=told
    )
    near = peers.open_peers(node.name, Watched(node.state_dir), client_tls(node))
    at_once = max(LEAST_AT_ONCE, AT_ONCE // node.fetchfs_processes)
    memberwrites.MEMORY.limit = memberwrites.MAX_MEMORY // node.fetchfs_processes
    return ReadThrough(
        cache, store, node.views, folder / f"{name}.json", node.read_wait_s, sources, near, at_once
    )
