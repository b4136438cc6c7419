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
    """A node as the database has it. reports: those that changed since it was read last; None: no longer reported."""

    heartbeat: Heartbeat
    seen_ns: int
    generation: int
    reports: Mapping[Key, VersionReport | None]


@dataclass
class Board:
    """dirty: node → keys of reports that are not written yet. leased: what the database says that each node has mounted.

    bells: ring once when the generation of their node changes, or the node comes.
    """

    started_ns: int
    nodes: dict[str, Known] = field(default_factory=dict)
    dirty: dict[str, set[Key]] = field(default_factory=dict)
    leased: dict[str, frozenset[Lease]] = field(default_factory=dict)
    bells: dict[str, asyncio.Event] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)


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


def take(board: Board, heartbeat: Heartbeat, now_ns: int) -> bool:
    """A heartbeat of a known node. False: it builds on what is not known here, so all that it proves is that the node lives."""
    known = board.nodes[heartbeat.node]
    both = joined(known.heard.heartbeat, heartbeat)
    after = known.heard.heartbeat if both is None else both.heartbeat
    board.nodes[heartbeat.node] = known._replace(heard=Heard(after, now_ns))
    board.dirty.setdefault(heartbeat.node, set()).update(() if both is None else both.changed)
    return both is not None


def apply(board: Board, rows: Mapping[str, Row]) -> None:
    """Let in what the database says of nodes, where it is news."""
    for name, row in rows.items():
        known = board.nodes.get(name)
        before = None if known is None else known.heard.heartbeat
        seen_ns = max(row.seen_ns, board.started_ns)
        stored = (row.heartbeat.session, row.heartbeat.number)
        if known is None or before is None:
            found = Known(Heard(_with(None, row), seen_ns), row.generation, stored)
        elif before.session == row.heartbeat.session and before.number >= row.heartbeat.number:
            found = known._replace(generation=max(row.generation, known.generation), stored=stored)
        else:
            found = Known(Heard(_with(before, row), seen_ns), row.generation, stored)
            board.dirty.pop(name, None)
        board.nodes[name] = found
        if known is None or known.generation != found.generation:
            _ring(board, name)


def _with(before: Heartbeat | None, row: Row) -> Heartbeat:
    reports = {} if before is None else {key_of(report): report for report in before.versions}
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
        board.leased.pop(name, None)
        _ring(board, name)
