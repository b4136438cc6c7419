"""Bytes from peers: who is asked is decided in sources.py, when not in breaker.py; here they are asked, waited for and checked.

A peer that is slow, busy, gone or wrong costs time and no more: what it did not give right is left to the next one, then to the
store. One that fetches for us, or sends, far more slowly than a store does is left out for a while (fetching/pace.py): the next one
in the order is then the owner of what it should have fetched, so that the store still sends each byte about once. Each warm finds that
out for itself: who was slow in an earlier one may be well again, and fetches its share in any case. Where it is our own link that is
slow, a warm leaves nobody out for it and waits.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import structlog

from cacheengine import metrics
from cacheengine.fetching import pace, progress
from cacheengine.fetching.fetch import REQUEST, Near
from cacheengine.packs import memberwrites
from cacheengine.packs.memberwrites import PackFile, Sink
from cacheengine.peers import breaker, peerclient, peerwire, sources
from cacheengine.peers.breaker import Breaker
from cacheengine.peers.groupview import GroupView
from cacheengine.peers.peerclient import Answer, Connections
from cacheengine.peers.sources import Ask
from cacheengine.wanted import PackWant
from cacheengine.wire import Group, GroupNode, Held

POLL_S = 2  # of a long poll of what is coming: then whether we should end is looked at
STALL_S = 30.0  # a peer whose fetch makes no progress for so long is waited for no more
START_S = 3.0  # from the start of a warm: a peer may not have heard of it yet
BUSY_S = 3.0
SLOW = "it is far slower than the store"
READER_S = 8.0  # all peers together, before a reader's bytes are asked of the store

log = structlog.get_logger()


@dataclass(frozen=True)
class Patience:
    """waits: for a peer that is fetching what we want. began: when the warm did (monotonic seconds). until: of all asking.
    stopped: whether to give up. under_way: bytes that a node may have asked of a store and not counted yet, cap: bytes a second that it
    may fetch; of others as of us. last: peers that are too slow are asked too, there is nobody else."""

    waits: bool
    began: float
    until: float
    stopped: Callable[[], bool] = lambda: False
    under_way: int = 0
    cap: Callable[[], float | None] = lambda: None
    last: bool = False


@dataclass
class Peers:
    """All that one process of a node knows of its peers. Every function may be called from many threads.

    slow: when (monotonic seconds) a node was last found to be too slow. holders: of versions, for the group of `revision` (its
    generation and revision)."""

    me: str
    view: Callable[[], GroupView]
    connections: Connections = field(default_factory=Connections)
    breakers: dict[str, Breaker] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    holders: dict[Held, list[GroupNode]] = field(default_factory=dict)
    revision: tuple[int, int] = (-1, -1)
    lock: threading.Lock = field(default_factory=threading.Lock)


def open_peers(me: str, view: Callable[[], GroupView], tls: ssl.SSLContext | None = None) -> Peers:
    return Peers(me, view, Connections(tls))


def for_warm(
    peers: Peers,
    held: Held,
    stopped: Callable[[], bool],
    under_way: int = 0,
    cap: Callable[[], float | None] = lambda: None,
    last: bool = False,
) -> Near:
    """What a warm of a version takes from peers: it waits for what they are fetching. under_way, cap, last: see Patience."""
    patience = Patience(not last, time.monotonic(), float("inf"), stopped, under_way, cap, last)

    def near(want: PackWant, rows: list[int], pack: PackFile) -> list[int]:
        group = peers.view().current
        others = [] if group is None else sources.beside(group, held, want.pack)
        return take(peers, [held, *others], want, rows, pack, patience)

    return near


def for_reader(peers: Peers, versions: Sequence[str], last: bool = False) -> Near:
    """What a reader takes from peers: of those that hold one of these versions, from who has it now."""

    def near(want: PackWant, rows: list[int], pack: PackFile) -> list[int]:
        group = peers.view().current
        if group is None:
            return rows
        known = [held for held in group.held if held.version in versions]
        now = time.monotonic()
        patience = Patience(False, now, now + READER_S, last=last)
        return take(peers, known or [Held(version="")], want, rows, pack, patience)

    return near


def take(
    peers: Peers,
    helds: Sequence[Held],
    want: PackWant,
    rows: list[int],
    pack: PackFile,
    patience: Patience,
) -> list[int]:
    """Take members from peers, checked and written; the rows that are left. Only those of the first of `helds` are waited for.

    Raises OSError when the disk fails.
    """
    group = peers.view().current
    if group is None or len(group.nodes) < 2:
        return rows
    asked: set[str] = set()
    for place, held in enumerate(helds):
        alive = _alive(peers, group, held)
        for ask in sources.order_among(alive, peers.me, held, want.pack):
            if not rows or patience.stopped():
                return rows
            if ask.node not in asked:
                asked.add(ask.node)
                waits = ask.waits and place == 0
                rows = _take_from(peers, replace(ask, waits=waits), want, rows, pack, patience)
    return rows


def _alive(peers: Peers, group: Group, held: Held) -> list[GroupNode]:
    """Nodes that hold a version and are alive: worked out once for each revision of a group of a thousand."""
    with peers.lock:
        if peers.revision != (group.generation, group.revision):
            peers.revision, peers.holders = (group.generation, group.revision), {}
        if held not in peers.holders:
            peers.holders[held] = [node for node in sources.holders(group, held) if node.alive]
        return peers.holders[held]


def _take_from(
    peers: Peers, ask: Ask, want: PackWant, rows: list[int], pack: PackFile, patience: Patience
) -> list[int]:
    waits = patience.waits and ask.waits
    began = time.monotonic()
    watched: _Watched | None = None
    while not patience.stopped():
        now = time.monotonic()
        if now >= patience.until or not _admitted(peers, ask.node, now, patience):
            return rows
        answer, left = _exchange(peers, ask, want, rows, pack, POLL_S if waits else 0, patience)
        metrics.peer_asked.labels(answer.kind).inc()
        if answer.kind == "sent":
            return left
        now = time.monotonic()
        if answer.kind == "coming" and waits:
            watched = watched or _Watched(answer.progress, now, answer.progress, now, pace.mark(pace.SENDERS))
            why = _given_up(watched, answer.progress, now, patience)
            if why is not None:
                log.warning("peer_left_out", peer=ask.node, pack=want.pack, why=why)
                if why == SLOW:
                    _leave_out(peers, ask.node, now)
                return rows
        elif answer.kind == "absent" and waits and now - patience.began < START_S:
            time.sleep(0.1)
        elif answer.kind == "busy" and now - began < BUSY_S * (1 if waits else 0.1):
            time.sleep(random.uniform(0.02, 0.2))  # noqa: S311 (not for secrets)
        else:
            if answer.kind == "slow" and patience.until - began > pace.ANSWER_S:
                log.warning("peer_left_out", peer=ask.node, pack=want.pack, why=answer.why)
                _leave_out(peers, ask.node, now)
            return rows
    return rows


@dataclass
class _Watched:
    """A peer that is waited for: its progress when we began to look, and when it last moved. ours: what had come to us by then."""

    first: int
    began: float
    last: int
    moved: float
    ours: pace.Mark


def _given_up(watched: _Watched, progress: int, now: float, patience: Patience) -> str | None:
    """Why a peer that is fetching what we want is waited for no longer; None: it is."""
    if progress != watched.last:
        watched.last, watched.moved = progress, now
    ours = pace.rate(pace.STORES)
    if ours is not None:
        limits = (ours, patience.cap(), pace.rate_since(pace.SENDERS, watched.ours))
        ours = min(limit for limit in limits if limit)
    if pace.is_far_slower(progress - watched.first, now - watched.began, patience.under_way, ours):
        return SLOW
    stalls_s = max(STALL_S, 2 * patience.under_way / ours) if ours else STALL_S
    return "it makes no progress" if now - watched.moved > stalls_s else None


def _leave_out(peers: Peers, node: str, now: float) -> None:
    with peers.lock:
        peers.slow[node] = now


def _exchange(
    peers: Peers, ask: Ask, want: PackWant, rows: list[int], pack: PackFile, wait_s: int, patience: Patience
) -> tuple[Answer, list[int]]:
    part = want.take(np.array(rows, np.int64))
    size = int(part.length.sum())
    came = progress.Piece(lambda count, members: pack.came(count), size, size)

    def send(sink: Sink | None = None) -> Answer:
        return peerclient.ask(
            peers.connections,
            ask.address,
            peers.view().secret,
            want.pack,
            want.size,
            (part.offset, part.length, part.head),
            wait_s,
            min(patience.until - time.monotonic(), 3600.0),
            sink,
            lambda: patience.until == float("inf") and not patience.stopped(),
            came.add,
        )

    left = list(rows)
    if len(rows) == 1 and part.length[0] > REQUEST:
        answer, is_right = _take_long(send, part, pack)
        left = [] if is_right else left
    else:
        answer = send()
        if answer.kind == "sent":
            left = _write_spans(want, rows, answer.data, pack)
    came.settle(size - int(want.length[left].sum()))
    if answer.kind == "sent":
        if left:
            metrics.members_bad.inc(len(left))
            answer = replace(answer, kind="broken", why=f"{len(left)} members do not have their content id")
            log.warning("peer_sent_wrong_bytes", peer=ask.node, pack=want.pack, members=len(left))
        metrics.peer_bytes.inc(size - int(want.length[left].sum()))
    _note(peers, ask.node, answer, patience)
    return (replace(answer, kind="sent"), left) if len(left) < len(rows) else (answer, left)


def _take_long(send: Callable[[Sink], Answer], part: PackWant, pack: PackFile) -> tuple[Answer, bool]:
    """(what the peer answered, whether the member was right and is written). Raises OSError when the disk fails."""
    answers: list[Answer] = []

    def pour(sink: Sink) -> bool:
        failures: list[OSError] = []

        def guarded(data: memoryview) -> None:
            try:
                sink(data)
            except OSError as error:  # ours, not one of the connection
                failures.append(error)
                raise

        answers.append(send(guarded))
        if failures:
            raise failures[0]
        return answers[-1].kind == "sent"

    is_right = memberwrites.write_long(part, 0, pour, pack)
    return answers[-1], is_right


def _write_spans(want: PackWant, rows: list[int], data: memoryview, pack: PackFile) -> list[int]:
    """Check and write the members of an answer; the rows that are wrong."""
    part = want.take(np.array(rows, np.int64))
    spans = peerwire.spans(part.offset, part.length)
    within = np.searchsorted(spans[:, 0], part.offset, "right") - 1
    left, at = [], 0
    for place, (start, end) in enumerate(spans.tolist()):
        inside = [rows[each] for each in np.flatnonzero(within == place)]
        left += memberwrites.write_members(want, inside, data[at : at + end - start], base=start, pack=pack)
        at += end - start
    return left


def _is_left_out(peers: Peers, node: str, now: float, patience: Patience) -> bool:
    """Whether it was too slow of late. A warm asks it once more: it may be well again, and what it fetches for itself would else come
    from the store twice."""
    found = peers.slow.get(node)
    if found is None or patience.last or now >= found + pace.OUT_S:
        return False
    return not patience.waits or found >= patience.began


def _admitted(peers: Peers, node: str, now: float, patience: Patience) -> bool:
    with peers.lock:
        if _is_left_out(peers, node, now, patience):
            metrics.peer_asked.labels("left out").inc()
            return False
        found = breaker.admit(peers.breakers.get(node, Breaker()), now)
        if found is None:
            metrics.peer_asked.labels("open").inc()
            return False
        peers.breakers[node] = found
        return True


def _note(peers: Peers, node: str, answer: Answer, patience: Patience) -> None:
    now = time.monotonic()
    # a warm leaves out who is slow, and so does not go on asking
    is_failure = answer.kind in ("broken", "refused") or (answer.kind == "slow" and not patience.waits)
    with peers.lock:
        before = peers.breakers.get(node, Breaker())
        after = breaker.failed(before, now) if is_failure else breaker.succeeded(before)
        peers.breakers[node] = after
        states = breaker.state(before, now), breaker.state(after, now)
    metrics.peer_state.labels(node).set(breaker.RANK[states[1]])
    if states[0] != states[1]:
        why = answer.why or answer.kind
        log.warning("peer_breaker", peer=node, state=states[1], why=why[:200])
