"""Fetch: missing members of packs → few ranged requests → each member's hash checked → written → synced → marked.

Bytes are checked before they are written (packs/memberwrites.py), so a wrong byte never reaches a pack. Near members come in one
request (gaps up to GAP, at most REQUEST bytes); a member longer than that comes in several and is gathered outside of the pack. At
most `concurrency` requests, and what memberwrites.MAX_MEMORY says of long members, are in memory.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from cacheengine import crashpoints, metrics
from cacheengine.errors import Busy, FetchFailed
from cacheengine.fetching import pace, progress
from cacheengine.fetching.progress import Came, nobody
from cacheengine.packs import assembled, disks, memberwrites, packcache
from cacheengine.packs.have import Ints, make
from cacheengine.packs.memberwrites import PackFile, Sink
from cacheengine.packs.packcache import CacheDir
from cacheengine.wanted import PackWant
from lake import stores
from lake.assemblies import OpenNamed
from lake.errors import Explained, NotFound, StoreDown
from lake.packs import pack_key
from lake.reading import no_other_store
from lake.stores import Store

GAP = 256 << 10
REQUEST = 8 << 20
TRIES = 3
MARK_EVERY_S = 2.0
MARK_EVERY_BYTES = 256 << 20


@dataclass(frozen=True)
class Piece:
    """One request: bytes [offset, offset + length) with the members [first, last) in them."""

    offset: int
    length: int
    first: int
    last: int


@dataclass(frozen=True)
class PackJob:
    """Members to fetch of one pack (each offset once, ascending), and the directory where space is reserved."""

    want: PackWant
    directory: CacheDir


@dataclass(frozen=True)
class Bad:
    """A member that could not be made resident, by pack and offset."""

    pack: str
    offset: int
    cause: str


def plan(offset: Ints, length: Ints, gap: int = GAP, most: int = REQUEST) -> list[Piece]:
    """Requests for members in ascending order of offset: near ones together, none longer than `most` but for a single member."""
    if not len(offset):
        return []
    pieces: list[Piece] = []
    first, start, end = 0, int(offset[0]), int(offset[0] + length[0])
    for row, (at, size) in enumerate(zip(offset.tolist(), length.tolist(), strict=True)):
        if at - end > gap or max(end, at + size) - start > most:
            if row > first:
                pieces.append(Piece(start, end - start, first, row))
            first, start, end = row, at, at + size
        end = max(end, at + size)
    pieces.append(Piece(start, end - start, first, len(offset)))
    return pieces


def bytes_of_requests(offset: Ints, length: Ints) -> int:
    """About how many bytes requests for these members ask for, ascending by offset: with what lies between near ones."""
    between = offset[1:] - (offset[:-1] + length[:-1])
    return int(length.sum() + between[(between > 0) & (between <= GAP)].sum())


def _timed(
    store: Store, key: str, offset: int, length: int, came: Callable[[int], None]
) -> bytes | memoryview:
    count = 0

    def received(size: int) -> None:
        nonlocal count
        count += size
        came(size)

    with pace.request(pace.STORES), pace.sending(pace.SENDERS, pace.STORE, lambda: count):
        try:
            return stores.get_range(store, key, offset, length, received)
        except BaseException:
            came(-count)
            raise


def _get(store: Store, key: str, offset: int, length: int, came: Callable[[int], None]) -> bytes | memoryview:
    """A range, tried again when the store is away for a moment. Raises NotFound, StoreDown."""
    for attempt in range(TRIES):
        try:
            data = _timed(store, key, offset, length, came)
        except StoreDown:
            if attempt + 1 == TRIES:
                raise
            metrics.store_retries.inc()
            time.sleep(0.2 * 4**attempt)
            continue
        finally:
            metrics.store_requests.inc()
        metrics.store_bytes.inc(len(data))
        pace.add(pace.STORES, len(data))
        return data
    raise AssertionError


Near = Callable[[PackWant, list[int], PackFile], list[int]]


def no_peer(want: PackWant, rows: list[int], pack: PackFile) -> list[int]:
    return rows


@dataclass(frozen=True)
class Sources:
    """Where bytes come from besides the store. near: takes rows of a want from peers, checked and written, and gives those that are
    left. last: the same, of peers that were left out as too slow, where no store has the bytes. open_named: stores of objects that
    were published in place. others: stores of other IDCs, asked after ours. told(source, pack, first byte, bytes, seconds): hears
    where each request's bytes came from."""

    near: Near = no_peer
    last: Near = no_peer
    open_named: OpenNamed = no_other_store
    others: Callable[[], Sequence[Store]] = lambda: ()
    told: Callable[[str, str, int, int, float], None] = lambda source, pack, at, size, seconds: None


STORE_ALONE = Sources()


def fetch_piece(
    store: Store, want: PackWant, piece: Piece, pack: PackFile, sources: Sources = STORE_ALONE
) -> list[Bad]:
    """Fetch one request's members, check and write them; those whose bytes are wrong twice. Raises NotFound, StoreDown, OSError."""
    # who has only an etag to go by cannot check what a peer sends
    rows, started = list(range(piece.first, piece.last)), time.monotonic()
    if want.hashed:
        rows = sources.near(want, rows, pack)
        taken = (
            piece.length if not rows else sum(want.length[piece.first : piece.last]) - sum(want.length[rows])
        )
        if taken:
            sources.told("peer", want.pack, piece.offset, int(taken), time.monotonic() - started)
    if not rows:
        return []
    left = want.take(np.array(rows, np.int64))
    bad: list[Bad] = []
    for part in plan(left.offset, left.length):
        bad += _from_stores(store, left, part, pack, sources)
    return bad


def _from_stores(store: Store, want: PackWant, piece: Piece, pack: PackFile, sources: Sources) -> list[Bad]:
    failure: Explained | None = None
    bad: list[Bad] = []
    started = time.monotonic()
    try:
        bad = _from_store(store, want, piece, pack, sources.open_named)
        sources.told(f"store {store.name}", want.pack, piece.offset, piece.length, time.monotonic() - started)
        if not bad:
            return []
    except (NotFound, StoreDown) as error:
        failure = error
    for other in () if want.assembled else sources.others():
        try:
            if not _from_store(other, want, piece, pack, sources.open_named):
                metrics.other_store_bytes.inc(piece.length)
                seconds = time.monotonic() - started
                sources.told(f"store {other.name}", want.pack, piece.offset, piece.length, seconds)
                return []
        except (NotFound, StoreDown):
            continue
    if failure is not None:
        rows = list(range(piece.first, piece.last))
        if not want.hashed or sources.last(want, rows, pack):
            raise failure
        sources.told("peer", want.pack, piece.offset, piece.length, time.monotonic() - started)
    return bad


def _from_store(
    store: Store, want: PackWant, piece: Piece, pack: PackFile, open_named: OpenNamed
) -> list[Bad]:
    if want.assembled:
        failed = assembled.fetch_members(
            store, want, range(piece.first, piece.last), pack=pack, open_named=open_named
        )
        return [Bad(want.pack, int(want.offset[row]), cause) for row, cause in failed]
    if piece.last - piece.first == 1 and piece.length > REQUEST:
        return _fetch_long(store, want, piece.first, pack)
    rows = list(range(piece.first, piece.last))
    for _ in range(2):
        data = memoryview(_get(store, pack_key(want.pack), piece.offset, piece.length, pack.came))
        rows = memberwrites.write_members(want, rows, data, base=piece.offset, pack=pack)
        if not rows:
            return []
        pack.came(-piece.length)
        metrics.store_retries.inc()  # it may have been the way, not the store: once more
    metrics.members_bad.inc(len(rows))
    return [_bad(store, want, row) for row in rows]


def _bad(store: Store, want: PackWant, row: int) -> Bad:
    cause = f"its bytes in {pack_key(want.pack)} of store {store.name} do not have its content id"
    return Bad(want.pack, int(want.offset[row]), cause)


def _fetch_long(store: Store, want: PackWant, row: int, pack: PackFile) -> list[Bad]:
    offset, length = int(want.offset[row]), int(want.length[row])

    def pour(sink: Sink) -> bool:
        for at in range(0, length, REQUEST):
            data = _get(store, pack_key(want.pack), offset + at, min(REQUEST, length - at), pack.came)
            sink(memoryview(data))
        return True

    for _ in range(2):
        if memberwrites.write_long(want, row, pour, pack):
            return []
        pack.came(-length)
        metrics.store_retries.inc()
    metrics.members_bad.inc()
    return [_bad(store, want, row)]


Marked = Callable[[PackWant, Ints], None]


@dataclass
class _Session:
    """A pack being fetched. pending: rows written and not marked yet; left: requests that have not ended."""

    job: PackJob
    fd: int
    epoch: int
    left: int
    marked: Marked
    came: Came = nobody
    pending: list[Ints] = field(default_factory=list)
    bytes_pending: int = 0
    last_mark: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)
    marking: threading.Lock = field(default_factory=threading.Lock)

    def ended(self, rows: Ints, size: int) -> None:
        """A request ended and these rows are written: mark when it was the last one, or when enough has come together."""
        with self.lock:
            self.pending.append(rows)
            self.bytes_pending += size
            self.left -= 1
            is_last = self.left == 0
            due = self.bytes_pending >= MARK_EVERY_BYTES or time.monotonic() - self.last_mark >= MARK_EVERY_S
        try:
            if is_last or due:
                self.mark()
        finally:
            if is_last:
                os.close(self.fd)

    def mark(self) -> None:
        with self.marking:
            with self.lock:
                taken, self.pending = self.pending, []
                self.bytes_pending, self.last_mark = 0, time.monotonic()
            rows = np.concatenate([np.empty(0, np.int64), *taken])
            if len(rows):
                want = self.job.want
                new = make(want.offset[rows], want.length[rows], want.head[rows], self.epoch)
                try:
                    packcache.mark(self.job.directory, want.pack, want.size, self.fd, new)
                except BaseException:
                    self.came(0, -int(want.length[rows].sum()))
                    raise
                self.marked(want, rows)


class _Abort:
    """Why all of it ends early. kept to the first reason."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop, self.reason = stop, ""

    def __call__(self, reason: str) -> None:
        self.reason = self.reason or reason

    @property
    def now(self) -> bool:
        return bool(self.reason) or self.stop.is_set()


def fetch(
    store: Store,
    jobs: Iterable[PackJob],
    concurrency: int,
    marked: Marked = lambda want, rows: None,
    stop: threading.Event | None = None,
    give_way: Callable[[], None] = lambda: None,
    sources: Sources = STORE_ALONE,
    throttle: Callable[[int], None] = lambda count: None,
    came: Came = nobody,
) -> list[Bad]:
    """Make the members of all jobs resident; those that could not be. Space must be reserved before.

    marked(want, rows): called from worker threads after rows of a job's want were marked. stop: ends it early; what was marked stays.
    give_way: called before each request; waits while readers should go first. throttle: called before it with its bytes.
    came: hears of bytes as they come, before they are checked (see progress.Came).
    Raises FetchFailed when the store is away (what was marked stays), or the disk fails.
    """
    abort = _Abort(stop or threading.Event())
    bad: list[Bad] = []
    gate = threading.Semaphore(concurrency + 2)

    def run(session: _Session, piece: Piece) -> None:
        want, rows = session.job.want, np.empty(0, np.int64)
        members = int(want.length[piece.first : piece.last].sum())
        coming = progress.Piece(came, piece.length, members)
        pack = PackFile(session.fd, session.job.directory, coming.add)
        try:
            give_way()
            throttle(piece.length)
            if not abort.now:
                wrong = fetch_piece(store, want, piece, pack, sources)
                crashpoints.reach("warm.written")
                bad.extend(wrong)
                rows = np.arange(piece.first, piece.last)
                rows = rows[~np.isin(want.offset[rows], [one.offset for one in wrong])]
        except NotFound as error:
            bad.extend(Bad(want.pack, int(at), str(error)) for at in want.offset[piece.first : piece.last])
        except Explained as error:
            abort(str(error))
        except OSError as error:
            disks.note(session.job.directory.path, error)
            abort(f"{session.job.directory.path}: {error.strerror}")
        finally:
            coming.settle(int(want.length[rows].sum()))
            try:
                session.ended(rows, piece.length)
            except Busy as error:
                bad.extend(Bad(want.pack, int(at), str(error)) for at in want.offset[rows])
            except OSError as error:
                disks.note(session.job.directory.path, error)
                abort(f"{session.job.directory.path}: {error.strerror}")
            gate.release()

    with ThreadPoolExecutor(concurrency, thread_name_prefix="fetch") as pool:
        for session, piece in _pieces(jobs, marked, came, abort):
            gate.acquire()
            pool.submit(run, session, piece)
    if abort.reason:
        raise FetchFailed(
            "fetch", abort.reason, "what is there stays; the node goes on when it answers again"
        )
    return bad


def _pieces(
    jobs: Iterable[PackJob], marked: Marked, came: Came, abort: _Abort
) -> Iterator[tuple[_Session, Piece]]:
    for job in jobs:
        if abort.now:
            return
        pieces = plan(job.want.offset, job.want.length)
        if not pieces:
            continue
        fd = packcache.open_pack(job.directory, job.want.pack, job.want.size)
        before = packcache.epoch(job.directory, job.want.pack)
        session = _Session(job, fd, before, len(pieces), marked, came)
        for piece in pieces:
            yield session, piece


def unique_members(want: PackWant) -> tuple[PackWant, Ints]:
    """The members of a want, each once, ascending, and how many rows each stands for.

    Rows at one offset that disagree about its bytes cannot all be right: each (offset, length, content id) is kept, in order, and those
    that are wrong fail their check.
    """
    order = np.lexsort((want.head, want.length, want.offset))
    sorted_want = want.take(order)
    if len(order) == 0:
        return sorted_want, np.empty(0, np.int64)
    new = np.ones(len(order), np.bool_)
    new[1:] = (
        (np.diff(sorted_want.offset) != 0)
        | (np.diff(sorted_want.length) != 0)
        | (sorted_want.head[1:] != sorted_want.head[:-1])
    )
    starts = np.append(np.flatnonzero(new), len(order))
    counts = np.diff(starts)
    return sorted_want.take(new), counts
