"""Leases: who is writing and who is deleting, so that nothing is deleted that a publish, sync or repack has just found to be there.

A writer puts `leases/<random>.json` and then looks for `leases/deleting.json`; whoever deletes puts that one and then looks for the
others. Whoever comes second sees the first: a writer waits, a collector deletes nothing this time, or stops where it is.

A lease is written again every few seconds (`RENEW_PER_LEASE`) by a thread of its holder. Another process holds it for ended when
it has not changed for `LEASE_S`: by the store's clock (its age beside that of an object just written), and then again while the other
watches it by its own monotonic clock. So the clocks of two machines are never compared. Whoever holds a lease for ended *breaks* it
first: a writer's is deleted, a collector's is written over with If-Match. The holder can see that whenever it goes on:

- a writer asks `was_broken` before and after the write that counts (lake/availability.py). That a lease was not broken after it means
  that every deletion that begins later sees what was written.
- a collector deletes an object only with `Deletion.delete` (lake/fenced_deletes.py), in the time in which nobody can have broken its
  lease.

Leases of earlier releases have no `lease_s`; they are never renewed and are held for ended by age alone: a day, a collector's an hour.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Lock, Thread

from lake import stores
from lake.canonical import read_json
from lake.errors import Conflict, Corrupt, LakeError, NotFound
from lake.fenced_deletes import Fence, LeaseLost, delete_fenced
from lake.stores import Info, Store

PREFIX = "leases/"
DELETING = f"{PREFIX}deleting.json"
LEASE_S = 60.0
RENEW_PER_LEASE = 6
WAIT_S = 600.0
OLD_WRITE_S = 24 * 3600
OLD_DELETE_S = 3600
POLLS_PER_LEASE = 20
SENT_WITHIN = 1 / 4  # of a lease, from its renewal: when a delete is sent at the latest
VALID_FOR = 1 / 3  # of a lease: so long the store takes that delete
CLOCKS = "probes/clock-"


@dataclass(frozen=True)
class Found:
    """A lease as an observer read it. lease_s: None in one of an earlier release."""

    info: Info
    what: str
    holder: str
    lease_s: float | None
    ended: bool


def boot_s() -> float:
    """Seconds since the machine started, the time in which it slept too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _read(store: Store, key: str) -> Found | None:
    try:
        data, info = stores.get_with_info(store, key)
    except NotFound:
        return None
    try:
        value = read_json(data, key)
        lease_s = value.get("lease_s")
        ended = bool(value.get("ended", False))
        return Found(
            info, str(value.get("what")), str(value.get("of")), float(lease_s) if lease_s else None, ended
        )
    except (Corrupt, TypeError, ValueError, AttributeError):
        return Found(info, f"something that {key} does not say", "", None, False)  # until it is old enough


class Lease:
    """A lease that we hold. A thread renews it; `was_broken` asks the store whether another process has broken it."""

    def __init__(self, store: Store, what: str, key: str) -> None:
        self.store, self.what, self.key = store, what, key
        self.renewed_s = 0.0  # boot_s just before the last renewal that was confirmed
        self._holder = secrets.token_hex(16)
        self._count = self._taken_ns = 0
        self._etag: str | None = None
        self._broken = False
        self._taken_s = 0.0
        self._lock, self._stop = Lock(), Event()

    def _text(self) -> bytes:
        """until_ns is for processes of an earlier release, which compare it with their clock."""
        self._count += 1
        old_s = OLD_DELETE_S if self.key == DELETING else OLD_WRITE_S
        value = {
            "what": self.what,
            "of": self._holder,
            "lease_s": LEASE_S,
            "renewed": self._count,
            "until_ns": time.time_ns() + int(old_s * 1e9),
        }
        return json.dumps(value).encode()

    def take(self, over: str | None = None) -> None:
        """Write the lease and renew it from now on. over: the etag of what it replaces. Raises Conflict."""
        sent_s = boot_s()
        if over is not None:
            stores.compare_and_swap(self.store, self.key, self._text(), over)
        elif not stores.put_if_absent(self.store, self.key, self._text()):
            raise Conflict(self.what, "another process was first", "run it again")
        self._taken_s = boot_s()
        found = _read(self.store, self.key)
        if found is None or found.holder != self._holder:
            raise LeaseLost(self.what, "its lease went while it was taken", "run it again")
        self._etag, self._taken_ns = found.info.etag, found.info.modified_ns
        self.renewed_s, self._broken, self._stop = sent_s, False, Event()
        Thread(target=self._renew_on, args=(self._stop,), name="lease", daemon=True).start()

    def store_now_ns(self) -> int:
        """The store's clock now, from what it said when the lease was taken and the time since."""
        return int(self._taken_ns + (boot_s() - self._taken_s) * 1e9)

    def clock_ahead_s(self) -> float:
        """What the clock on our wall is before the store's, at most; negative when it is behind."""
        return time.time() - self.store_now_ns() / 1e9

    def _renew_on(self, stop: Event) -> None:
        while not stop.wait(LEASE_S / RENEW_PER_LEASE):
            with suppress(
                LakeError
            ):  # the store does not answer: again next time; whoever counts on the lease asks
                if not self.renew():
                    return

    def renew(self) -> bool:
        """Write the lease again; False when another process broke it. Raises StoreDown."""
        with self._lock:
            if self._broken or self._stop.is_set():
                return not self._broken
            sent_s = boot_s()
            try:
                self._etag = stores.compare_and_swap(self.store, self.key, self._text(), self._etag or "")
                self.renewed_s = sent_s
            except (Conflict, NotFound):
                found = _read(self.store, self.key)
                if found is None or found.holder != self._holder:
                    self._broken = True
                else:  # a renewal of ours whose answer was lost: what is sent next goes by it
                    self._etag = found.info.etag
            return not self._broken

    def was_broken(self) -> bool:
        """Whether another process has broken the lease, as the store says now. Raises StoreDown."""
        if not self._broken:
            found = _read(self.store, self.key)
            self._broken = found is None or found.holder != self._holder
        return self._broken

    def stop(self) -> None:
        """Renew it no more: no renewal is under way after this."""
        self._stop.set()
        with self._lock:
            pass


class Writing(Lease):
    """A writer's lease: while it is not broken, nothing is deleted that was there when it was taken."""

    def __init__(self, store: Store, what: str) -> None:
        super().__init__(store, what, "")

    def begin(self) -> None:
        """Take it, and wait until nobody deletes. Raises Conflict when a collector goes on for WAIT_S."""
        self.key = f"{PREFIX}{secrets.token_hex(16)}.json"
        self.take()
        try:
            _wait_for_deletion(self)
        except BaseException:
            self.end()
            raise

    def take_again(self) -> None:
        """A new one in place of one that was broken: what was found to be there before is to be asked for again."""
        self.end()
        self.begin()

    def end(self) -> None:
        self.stop()
        with suppress(LakeError):  # it ends by itself
            stores.delete(self.store, self.key)


class Deletion(Lease):
    """The lease of whoever deletes. writers: what was being written when it was taken (then delete nothing)."""

    def __init__(self, store: Store, what: str) -> None:
        super().__init__(store, what, DELETING)
        self.writers: list[str] = []
        self._looked_s = 0.0

    def sure_s(self) -> float:
        """Seconds in which a delete may be sent, above 0: the lease is renewed before. Raises LeaseLost, StoreDown."""
        for _ in range(2):
            left = self.renewed_s + LEASE_S * SENT_WITHIN - boot_s()
            if left > 0 and not self._broken:
                return left
            if not self.renew():
                break
        why = "another process held its lease for ended, or the store took too long to renew it; it deletes nothing more"
        raise LeaseLost(self.what, why, "run it again")

    def delete(self, key: str, judged: Info | None = None) -> bool:
        """Delete an object while the lease surely holds; False when it is gone, or no longer the one that was judged.

        Args:
            key: of the object.
            judged: what a listing or `stores.head` said of the object that may go; None: whatever is there.

        Raises:
            LeaseLost: then it deletes nothing more.
            StoreDown
        """
        fence = Fence(self._is_mine, self.sure_s, self.clock_ahead_s, LEASE_S * VALID_FOR)
        return delete_fenced(self.store, key, judged, fence)

    def _is_mine(self) -> bool:
        return not self.was_broken()

    def waiting(self) -> list[str]:
        """What waits until this ends; asked of the store every two seconds at most."""
        if boot_s() < self._looked_s:
            return []
        self._looked_s = boot_s() + 2
        return [found.what for found in _other_leases(self.store)]

    def end(self) -> None:
        with suppress(LakeError):  # it ends by itself
            self.sure_s()
            self.stop()
            self.delete(self.key)
        self.stop()


def _wait_for_deletion(lease: Writing) -> None:
    """Wait for a collector; break the lease of one that renews it no more."""
    end, known, since = boot_s() + WAIT_S, "", boot_s()
    while True:
        found = _read(lease.store, DELETING)
        if found is None or found.ended:
            return
        if found.info.etag != known:
            known, since = found.info.etag or "", boot_s()
        is_old = found.lease_s is None and _is_fresh(found, lease.store_now_ns(), OLD_DELETE_S)
        if not is_old and boot_s() - since >= (found.lease_s or LEASE_S):
            ended = {"what": found.what, "of": secrets.token_hex(16), "ended": True, "until_ns": 0}
            with suppress(Conflict, NotFound):
                stores.compare_and_swap(lease.store, DELETING, json.dumps(ended).encode(), found.info.etag)
                return
            continue
        if boot_s() > end:
            why = f"{found.what} is deleting in this store"
            raise Conflict(lease.what, why, "run it again in a while")
        time.sleep(min(0.5, LEASE_S / POLLS_PER_LEASE))


def _is_fresh(found: Found, store_now_ns: int, old_s: float) -> bool:
    """Whether a lease is too young to have ended, by the store's clock."""
    return store_now_ns - found.info.modified_ns < (found.lease_s or old_s) * 1e9


def _other_leases(store: Store) -> list[Found]:
    keys = [info.key for info in stores.list_objects(store, PREFIX) if info.key != DELETING]
    return [found for key in keys if (found := _read(store, key)) is not None and not found.ended]


def _running_writers(lease: Deletion) -> list[str]:
    """What is being written. Leases that are old by the store's clock are watched, and broken when they do not change."""
    found = _other_leases(lease.store)
    fresh = [one.what for one in found if _is_fresh(one, lease.store_now_ns(), OLD_WRITE_S)]
    if fresh or not found:
        return fresh
    known = {one.info.key: one for one in found}
    end = boot_s() + max(one.lease_s or LEASE_S for one in found)
    while boot_s() < end:
        time.sleep(LEASE_S / POLLS_PER_LEASE)
        for now in _other_leases(lease.store):
            before = known.get(now.info.key)
            if before is None or before.info.etag != now.info.etag:
                return [now.what]
    for one in found:
        stores.delete(lease.store, one.info.key)
    return []


def _refuse_running(store: Store, what: str, running: Found) -> None:
    """Raise Conflict while another process deletes; return when it renews its lease no more."""
    clock = f"{CLOCKS}{secrets.token_hex(16)}"
    stores.put(store, clock, b"")
    now = stores.head(store, clock)
    stores.delete(store, clock)
    fresh = now is None or _is_fresh(running, now.modified_ns, OLD_DELETE_S)
    end = boot_s() + (running.lease_s or LEASE_S)
    while not fresh and boot_s() < end:
        time.sleep(LEASE_S / POLLS_PER_LEASE)
        found = _read(store, DELETING)
        fresh = found is not None and not found.ended and found.info.etag != running.info.etag
    if fresh:
        raise Conflict(what, f"another one ({running.what}) is deleting in this store", "wait for it")


def writers(store: Store) -> list[str]:
    """What leases say is being written, those included that nobody renews any more."""
    return [found.what for found in _other_leases(store)]


@contextmanager
def writing(store: Store, what: str) -> Iterator[Writing]:
    """Hold a writer's lease, renewed while this goes on.

    Args:
        store: the store that is written to.
        what: what is being done, as `the publish of NAME`.

    Raises:
        Conflict: a collector goes on for WAIT_S.
        Refused: the store lacks conditional writes.
    """
    lease = Writing(store, what)
    lease.begin()
    try:
        yield lease
    finally:
        lease.end()


@contextmanager
def deleting(store: Store, what: str = "garbage collection") -> Iterator[Deletion]:
    """Hold the lease of whoever deletes: no writer starts. Delete nothing when it names `writers`; stop when some are `waiting`.

    Args:
        store: the store in which objects are to be deleted.
        what: what is being done.

    Raises:
        Conflict: another process deletes.
    """
    lease = Deletion(store, what)
    running = _read(store, DELETING)
    if running is not None and not running.ended:
        _refuse_running(store, what, running)
        running = _read(store, DELETING)
    try:
        lease.take(running.info.etag if running is not None else None)
    except NotFound as error:  # it went between
        raise Conflict(what, "another one ended just now", "run it again") from error
    try:
        lease.writers = _running_writers(lease)
        yield lease
    finally:
        lease.end()
