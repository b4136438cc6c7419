"""What this instance knows of the nodes, in memory: heartbeats change it, long polls and jobs read it, the database follows.

Only the event loop changes a board; threads take snapshots (`heard`), whose values never change. What a heartbeat brought is written
by `nodestore.flush` a moment later; what other instances wrote comes in by `nodestore.read` and `apply`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cacheengine.control.jobs import Heard, Spec
from cacheengine.reporting import Key, joined, key_of
from cacheengine.wire import Heartbeat, VersionReport

MOST_SHARED = 100_000


class Lease(NamedTuple):
    """A version that a node has mounted at `target`."""

    target: str
    dataset: str
    tag: str
    version: str


class Known(NamedTuple):
    """A node. generation: of what it should hold. stored: session and number that the database has of it."""

    heard: Heard
    generation: int
    stored: tuple[str, int]


class Row(NamedTuple):
    """A node as the database has it. reports: those that changed since the last look (None: no longer reported), or all (`whole`)."""

    heartbeat: Heartbeat
    seen_ns: int
    generation: int
    reports: Mapping[Key, VersionReport | None]
    whole: bool = False


@dataclass
class Board:
    """dirty: node → keys of reports that are not written yet. whole: nodes of which all is to be written, because another instance
    wrote between. leased: what the database says that each node has mounted; seen: what it had mounted since that was written.
    shared: nodes that hold the same say the same, which is kept once.

    bells: ring once when the generation of their node changes, or the node comes. last_ns: when any node was last heard.
    """

    started_ns: int
    nodes: dict[str, Known] = field(default_factory=dict)
    dirty: dict[str, set[Key]] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    shared: dict[VersionReport, VersionReport] = field(default_factory=dict)
    leased: dict[str, frozenset[Lease]] = field(default_factory=dict)
    seen: dict[str, set[Lease]] = field(default_factory=dict)
    bells: dict[str, asyncio.Event] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    last_ns: int = 0

    def __post_init__(self) -> None:
        self.last_ns = max(self.last_ns, self.started_ns)


def heard(board: Board, only: Iterable[str] | None = None) -> dict[str, Heard]:
    """Last heartbeats by node, as of now. None is older than the start of this service: what it did not hear proves nothing."""
    nodes = dict(board.nodes)
    names = nodes if only is None else only
    return {name: nodes[name].heard for name in names if name in nodes}


def heard_of(board: Board, spec: Spec) -> dict[str, Heard]:
    """Heartbeats that decide over a job: of the nodes that it chose; of a spread warm also of those that joined since."""
    return heard(board, None if spec.placement == "spread" else [chosen.node for chosen in spec.nodes])


def bell(board: Board, node: str) -> asyncio.Event:
    """Take it before looking, wait on it after: what changes between is not missed."""
    return board.bells.setdefault(node, asyncio.Event())


def _ring(board: Board, node: str) -> None:
    found = board.bells.pop(node, None)
    if found is not None:
        found.set()


def _share(board: Board, heartbeat: Heartbeat) -> Heartbeat:
    """The same heartbeat, its reports of resident versions those that other nodes sent before."""
    if len(board.shared) > MOST_SHARED:
        board.shared.clear()
    versions = tuple(
        board.shared.setdefault(report, report) if report.state == "resident" else report
        for report in heartbeat.versions
    )
    return heartbeat.model_copy(update={"versions": versions})


def take(board: Board, heartbeat: Heartbeat, now_ns: int, deaf_ns: int) -> bool:
    """A heartbeat of a known node. False: it builds on what is not known here, so all that it proves is that the node lives.

    Where nobody was heard for longer than `deaf_ns`, or time ran backwards, this service was cut off or its clock was set: that time
    counts as nobody's silence.
    """
    if abs(now_ns - board.last_ns) > deaf_ns:
        _pass_over(board, now_ns - board.last_ns)
    board.last_ns = now_ns
    known = board.nodes[heartbeat.node]
    both = joined(known.heard.heartbeat, _share(board, heartbeat))
    after = known.heard.heartbeat if both is None else both.heartbeat
    board.nodes[heartbeat.node] = known._replace(heard=Heard(after, now_ns))
    board.dirty.setdefault(heartbeat.node, set()).update(() if both is None else both.changed)
    if after.mounts:
        board.seen.setdefault(heartbeat.node, set()).update(leases(after))
    return both is not None


def _pass_over(board: Board, gap_ns: int) -> None:
    for name, one in board.nodes.items():
        board.nodes[name] = one._replace(heard=one.heard._replace(seen_ns=one.heard.seen_ns + gap_ns))


def listening_ns(board: Board, now_ns: int, deaf_ns: int) -> int:
    """Now, or when this service began to hear nobody: by what it does not hear since it judges no node."""
    return min(now_ns, board.last_ns + deaf_ns)


def is_older(known: Heartbeat, other: Heartbeat) -> bool:
    """Whether another instance's heartbeat of a node comes after ours. Of two runs of an agent, what the database has is the later."""
    return known.session != other.session or known.number < other.number


def beaten(board: Board, rows: Mapping[str, Row]) -> set[str]:
    """Nodes of which memory has news that the database has not, and the database later ones."""
    nodes, dirty = dict(board.nodes), set(board.dirty)
    return {
        name
        for name, row in rows.items()
        if name in dirty and name in nodes and is_older(nodes[name].heard.heartbeat, row.heartbeat)
    }


def apply(board: Board, rows: Mapping[str, Row], deaf_ns: int) -> None:
    """Let in what the database says of nodes, where it is news. deaf_ns: as in `take`."""
    last_ns = max((row.seen_ns for row in rows.values()), default=0)
    if last_ns - board.last_ns > deaf_ns:
        _pass_over(board, last_ns - board.last_ns)
    board.last_ns = max(board.last_ns, last_ns)
    for name, row in rows.items():
        known = board.nodes.get(name)
        seen_ns = max(row.seen_ns, board.started_ns)
        stored = (row.heartbeat.session, row.heartbeat.number)
        if known is None:
            found = Known(Heard(_share(board, _with(None, row)), seen_ns), row.generation, stored)
        elif is_older(known.heard.heartbeat, row.heartbeat):
            after = _share(board, _with(known.heard.heartbeat, row))
            if (
                name in board.dirty and not row.whole
            ):  # it came while we read: let the node say all of it again
                after = after.model_copy(update={"session": ""})
            found = Known(Heard(after, seen_ns), row.generation, stored)
            board.dirty.pop(name, None)
            board.whole.discard(name)
        else:
            found = known._replace(generation=max(row.generation, known.generation), stored=stored)
        board.nodes[name] = found
        if known is None or known.generation != found.generation:
            _ring(board, name)


def _with(before: Heartbeat | None, row: Row) -> Heartbeat:
    reports = {} if before is None or row.whole else {key_of(one): one for one in before.versions}
    for key, report in row.reports.items():
        if report is None:
            reports.pop(key, None)
        else:
            reports[key] = report
    return row.heartbeat.model_copy(update={"versions": tuple(reports.values())})


def leases(heartbeat: Heartbeat) -> frozenset[Lease]:
    """What a node says that it has mounted."""
    return frozenset(Lease(m.target[:1024], m.dataset, m.tag, m.version) for m in heartbeat.mounts)


def drop(board: Board, names: Iterable[str]) -> None:
    """Forget nodes."""
    for name in list(names):
        board.nodes.pop(name, None)
        board.dirty.pop(name, None)
        board.whole.discard(name)
        board.leased.pop(name, None)
        board.seen.pop(name, None)
        _ring(board, name)
