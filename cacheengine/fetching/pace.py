"""How fast bytes come to this process: whether a peer that fetches for us is far slower than a store, and who is to blame for an
answer that comes too slowly, the peer that sends it or our own link.

A peer that fetches counts as we do: it says how many bytes came to it so far. Bytes count as they come.
What a store gave before there was so much to do is no measure of a busy hour: a peer is held against what came to us meanwhile, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

FAR = 8.0  # so many times slower than we are is too slow
LOOK_S = 3.0  # no judgement before that
OUT_S = 60.0  # who is too slow is left out for so long
KEPT_S = 60.0  # busy seconds after which what was before counts half
BURST_S = 1.0  # busy seconds in which nothing came, counted on top: a short burst says little of how fast a store is
ANSWER_S = 5.0  # for the first byte, and what is added to the time of the bytes
LEAST_BPS = 2 << 20  # who sends slower than that is no help
MEASURED = 256 << 10  # bytes; shorter answers say more of latency than of a rate


@dataclass
class Meter:
    """Bytes, and the seconds in which at least one request was under way. May be used from many threads."""

    running: int = 0
    since: float = 0.0
    busy_s: float = 0.0
    bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Senders:
    """Who sends to us, by address. begun: when the answers that are under way began; ended: when the last one that was measured
    did end, and its bytes a second. came: how far those that are under way are. bytes, busy_s: of answers that ended, and the seconds
    in which at least one was coming, up to `since`. May be used from many threads."""

    begun: dict[str, list[float]] = field(default_factory=dict)
    ended: dict[str, tuple[float, float]] = field(default_factory=dict)
    came: list[Callable[[], int]] = field(default_factory=list)
    bytes: int = 0
    busy_s: float = 0.0
    since: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Mark:
    """What had come of all senders together at a moment, in how many busy seconds."""

    bytes: int
    busy_s: float


STORES = Meter()
SENDERS = Senders()
STORE = ""  # among the senders: any store


@contextmanager
def request(meter: Meter) -> Iterator[None]:
    """A request that is under way."""
    with meter.lock:
        _pass(meter, time.monotonic())
        meter.running += 1
    try:
        yield
    finally:
        with meter.lock:
            _pass(meter, time.monotonic())
            meter.running -= 1


def add(meter: Meter, count: int) -> None:
    with meter.lock:
        meter.bytes += count


def rate(meter: Meter) -> float | None:
    """Bytes a second while it was busy, and BURST_S; None before anything came."""
    with meter.lock:
        _pass(meter, time.monotonic())
        return meter.bytes / (meter.busy_s + BURST_S) if meter.bytes else None


def _pass(meter: Meter, now: float) -> None:
    if meter.running:
        meter.busy_s += now - meter.since
    meter.since = now
    if meter.busy_s > KEPT_S:
        meter.busy_s, meter.bytes = meter.busy_s / 2, meter.bytes // 2


def is_far_slower(gained: int, seconds: float, uncounted: int, ours: float | None) -> bool:
    """Whether a peer that took so many bytes in so many seconds is no help to us. uncounted: bytes that it may have under way on top;
    ours: bytes a second, None when we have no measure, and nobody is too slow."""
    return ours is not None and seconds >= LOOK_S and gained + uncounted < ours * seconds / FAR


def limit_s(count: int) -> float:
    """Seconds in which an answer of so many bytes should be here."""
    return ANSWER_S + count / LEAST_BPS


@contextmanager
def sending(senders: Senders, sender: str, came: Callable[[], int]) -> Iterator[None]:
    """An answer that is under way. came: how many bytes of it did so far."""
    began = time.monotonic()
    with senders.lock:
        _count(senders, began)
        senders.came.append(came)
        senders.begun.setdefault(sender, []).append(began)
    try:
        yield
    finally:
        now, count = time.monotonic(), came()
        with senders.lock:
            _count(senders, now)
            senders.came.remove(came)
            senders.bytes += count
            senders.begun[sender].remove(began)
            if not senders.begun[sender]:
                del senders.begun[sender]
            if count >= MEASURED or (count and now - began >= ANSWER_S):
                senders.ended[sender] = (now, count / max(1e-6, now - began))


def _count(senders: Senders, now: float) -> None:
    if senders.came:
        senders.busy_s += now - senders.since
    senders.since = now


def mark(senders: Senders) -> Mark:
    """Now, to measure from."""
    with senders.lock:
        _count(senders, time.monotonic())
        return Mark(senders.bytes + sum(came() for came in senders.came), senders.busy_s)


def rate_since(senders: Senders, before: Mark) -> float | None:
    """Bytes a second that came while anything was coming, with BURST_S on top; None when it was too little for a measure."""
    now = mark(senders)
    came, busy_s = now.bytes - before.bytes, now.busy_s - before.busy_s
    return came / (busy_s + BURST_S) if came >= MEASURED else None


def is_to_blame(senders: Senders, sender: str, count: int, began: float, now: float) -> bool:
    """Whether it is the sender's doing that only so many bytes of its answer came since `began` (monotonic seconds), too few.

    It is where somebody else's answer came far faster meanwhile. Where others are as slow, it is our own link. Where nobody else was
    asked of late, nothing speaks for the sender.
    """
    with senders.lock:
        others = [seen for name, seen in senders.ended.items() if name != sender]
        waited_for = [at for name, begun in senders.begun.items() if name != sender for at in begun]
    meanwhile = [bps for at, bps in others if at >= began]
    if meanwhile:
        return max(meanwhile) > FAR * count / max(1e-6, now - began)
    are_slow = any(at >= now - OUT_S and bps < LEAST_BPS for at, bps in others)
    return not are_slow and not any(at <= now - ANSWER_S for at in waited_for)
