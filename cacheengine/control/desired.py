"""What each node should hold, and the file lists that narrow it. Functions over an open connection.

Whoever changes the desired residency of nodes touches the topic `nodes` and calls `raise_generations` first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from cacheengine.control import changes, tables
from cacheengine.control.jobs import Heard
from cacheengine.control.placement import Candidate
from cacheengine.wire import Desired, DesiredVersion, NodeState, Placement
from lake.canonical import blake3_hex, canonical_json
from lake.errors import NotFound
from lake.names import check_path

_UNPINNED: dict[str, Any] = {"pinned": False, "pinned_by": None, "pinned_ns": None, "pinned_job": None}


def candidates(heard: Mapping[str, Heard], now_ns: int, near_s: float) -> list[Candidate]:
    return [
        Candidate(node, h.heartbeat.role, h.heartbeat.labels, (now_ns - h.seen_ns) / 1e9 <= near_s)
        for node, h in heard.items()
    ]


def node_state(heard: Heard, now_ns: int, dead_after_s: float) -> NodeState:
    h = heard.heartbeat
    return NodeState(
        node=h.node,
        idc=h.idc,
        address=h.address,
        role=h.role,
        labels=h.labels,
        alive=(now_ns - heard.seen_ns) / 1e9 <= dead_after_s,
        seen_ns=heard.seen_ns,
        dirs=h.dirs,
        versions=h.versions,
        mounts=h.mounts,
        fetch_bps=h.fetch_bps,
        hit_bytes=h.hit_bytes,
        miss_bytes=h.miss_bytes,
        store_bytes=h.store_bytes,
        store_requests=h.store_requests,
        peer_bytes=h.peer_bytes,
    )


def generation(connection: Connection, node: str) -> int:
    """Raises NotFound."""
    found = connection.execute(
        select(tables.nodes.c.generation).where(tables.nodes.c.node == node)
    ).scalar_one_or_none()
    if found is None:
        raise NotFound(f"the node {node[:80]!r}", "it has sent no heartbeat", "start its agent")
    return int(found)


def raise_generations(connection: Connection, nodes: Sequence[str], revision: int) -> dict[str, int]:
    """One more for each of them: the generation that carries what the caller changes. revision: of the topic `nodes`."""
    c = tables.nodes.c
    mine = c.node.in_(list(nodes))
    connection.execute(
        update(tables.nodes).where(mine).values(generation=c.generation + 1, revision=revision)
    )
    return {
        row.node: row.generation
        for row in connection.execute(select(c.node, c.generation).where(mine).order_by(c.node))
    }


def read_desired(connection: Connection, node: str, bandwidth_bps: int | None = None) -> Desired:
    """All that a node should hold, in a fixed order. bandwidth_bps: where a warm names none. Raises NotFound."""
    versions = tuple(_version(*row, bandwidth_bps) for row in connection.execute(_ENTRIES, {"of": node}))
    return Desired(node=node, generation=generation(connection, node), versions=versions)


_C = tables.desired.c
_ENTRIES = (
    select(
        _C.dataset,
        _C.tag,
        _C.version,
        _C.list_id,
        _C.pinned,
        _C.job,
        _C.selector,
        _C.placement,
        _C.copies,
        _C.priority,
        _C.paused,
        _C.bandwidth_bps,
    )
    .where(_C.node == bindparam("of"))
    .order_by(_C.dataset, _C.version, _C.list_id)
)


# a warm makes all nodes ask at once, and they are mostly told the same
@lru_cache(maxsize=10_000)
def _version(
    dataset: str,
    tag: str,
    version: str,
    list_id: str,
    pinned: bool,
    job: str | None,
    nodes: str,
    placement: Placement,
    copies: int,
    priority: int,
    paused: bool,
    own_bps: int | None,
    default_bps: int | None,
) -> DesiredVersion:
    return DesiredVersion(
        dataset=dataset,
        tag=tag,
        version=version,
        list_id=list_id or None,
        pinned=pinned,
        job=job,
        nodes=nodes,
        placement=placement,
        copies=copies,
        priority=priority,
        bandwidth_bps=own_bps if own_bps is not None else default_bps,
        paused=paused,
    )


class Wish(NamedTuple):
    """What a job asks of its nodes: an entry of desired residency. list_id: or WHOLE."""

    dataset: str
    tag: str
    version: str
    list_id: str
    job: str | None
    pinned: bool = False
    priority: int = 0
    bandwidth_bps: int | None = None
    selector: str = "all"
    placement: Placement = "all"
    copies: int = 1
    pinned_by: str | None = None
    pinned_ns: int | None = None
    pinned_job: str | None = None


def put_entries(connection: Connection, nodes: Sequence[str], wish: Wish, now_ns: int) -> None:
    """Let each of these nodes desire it. An entry that is pinned stays pinned, and remembers which job made it."""
    c = tables.desired.c
    same = (c.dataset == wish.dataset) & (c.version == wish.version) & (c.list_id == wish.list_id)
    found = connection.execute(select(tables.desired).where(same & c.node.in_(list(nodes))))
    there = {row.node: row for row in found}
    rows = []
    for node in nodes:
        known = there.get(node)
        old = known is not None and not known.paused
        rows.append(
            {
                **wish._asdict(),
                **(_pin_of(known) if known is not None and known.pinned else {}),
                "node": node,
                "first_job": known.first_job if known is not None and old else wish.job,
                "since_ns": now_ns,
                "paused": False,
            }
        )
    changes.put(connection, tables.desired, rows)


def _pin_of(known: Row[Any]) -> dict[str, Any]:
    """The pin of an entry that is pinned already stays whose it was."""
    return {name: known._mapping[name] for name in _UNPINNED}


def take_back(connection: Connection, job: str) -> set[str]:
    """Pause what only this job asked for; the nodes where that changed something.

    What an earlier job asked for goes back to it; what was pinned by another order stays. A node keeps the
    bytes of a paused entry until it needs the room, so that asking again goes on where it was.
    """
    c = tables.desired.c
    connection.execute(
        update(tables.desired).where((c.first_job == job) & (c.job != job)).values(first_job=c.job)
    )
    older = (c.job == job) & ((c.first_job != job) | c.first_job.is_(None))
    changed = set(connection.execute(select(c.node).where(older)).scalars())
    connection.execute(update(tables.desired).where(older & (c.pinned_job == job)).values(**_UNPINNED))
    connection.execute(update(tables.desired).where(older).values(job=c.first_job))
    for row in connection.execute(select(tables.desired).where((c.job == job) & (c.first_job == job))).all():
        if (row.pinned and row.pinned_job != job) or row.paused:
            continue
        mine = (c.node == row.node) & (c.dataset == row.dataset) & (c.version == row.version)
        connection.execute(
            update(tables.desired).where(mine & (c.list_id == row.list_id)).values(paused=True, **_UNPINNED)
        )
        changed.add(row.node)
    return changed


def entries_of(
    connection: Connection, dataset: str, version: str, nodes: Sequence[str]
) -> list[tuple[str, Wish]]:
    """(node, what was asked of it) of every desired entry of a version on these nodes."""
    c = tables.desired.c
    found = connection.execute(
        select(c.node, *(c[name] for name in Wish._fields))
        .where((c.dataset == dataset) & (c.version == version) & c.node.in_(list(nodes)))
        .order_by(c.node, c.list_id)
    )
    return [(row[0], Wish(*row[1:])) for row in found]


def remove_entry(connection: Connection, node: str, dataset: str, version: str, list_id: str) -> None:
    c = tables.desired.c
    connection.execute(
        delete(tables.desired).where(
            (c.node == node) & (c.dataset == dataset) & (c.version == version) & (c.list_id == list_id)
        )
    )


def pin_entries(
    connection: Connection, dataset: str, version: str, nodes: Sequence[str], *, who: str, now_ns: int
) -> None:
    """Pin what these nodes should hold of a version.

    Args:
        connection: to the database, in a transaction that writes.
        dataset: its name.
        version: its id.
        nodes: names of nodes.
        who: who asks. A pin that somebody set before stays theirs.
        now_ns: when, in nanoseconds since the epoch.
    """
    c = tables.desired.c
    mine = (c.dataset == dataset) & (c.version == version) & c.node.in_(list(nodes))
    new = {"pinned": True, "pinned_by": who, "pinned_ns": now_ns, "pinned_job": None}
    connection.execute(update(tables.desired).where(mine & ~c.pinned).values(**new))
    connection.execute(update(tables.desired).where(mine & c.pinned_job.is_not(None)).values(**new))


def unpin_entries(connection: Connection, dataset: str, version: str, nodes: Sequence[str]) -> None:
    """Let eviction have what these nodes should hold of a version."""
    c = tables.desired.c
    mine = (c.dataset == dataset) & (c.version == version) & c.node.in_(list(nodes))
    connection.execute(update(tables.desired).where(mine).values(**_UNPINNED))


class Pin(NamedTuple):
    """Who pinned an entry, and when; None where that was not kept."""

    by: str | None
    at_ns: int | None


def pins(connection: Connection) -> dict[str, dict[tuple[str, str, str | None], Pin]]:
    """Node → (dataset, version, list id) → its pin, of all entries that are pinned."""
    c = tables.desired.c
    found: dict[str, dict[tuple[str, str, str | None], Pin]] = {}
    for row in connection.execute(select(tables.desired).where(c.pinned)):
        key = (row.dataset, row.version, row.list_id or None)
        found.setdefault(row.node, {})[key] = Pin(row.pinned_by, row.pinned_ns)
    return found


def known_version(connection: Connection, dataset: str, ref: str) -> tuple[str, str] | None:
    """(tag, version) that some node should hold under this tag or id prefix: to free what no store has any more."""
    c = tables.desired.c
    found = connection.execute(select(c.tag, c.version).where(c.dataset == dataset).distinct())
    fitting = {
        (tag, version) for tag, version in found if tag == ref or (len(ref) >= 6 and version.startswith(ref))
    }
    return fitting.pop() if len({version for _, version in fitting}) == 1 else None


def list_of(paths: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Paths → (list id, the paths once each, sorted): the id is the hash of the content. Raises Refused for a bad path."""
    ordered = tuple(sorted({check_path(path) for path in paths}))
    return blake3_hex(canonical_json(list(ordered))), ordered


def put_list(connection: Connection, list_id: str, paths: Sequence[str], now_ns: int) -> None:
    """Keep a list, once."""
    if connection.execute(select(tables.lists.c.id).where(tables.lists.c.id == list_id)).first() is None:
        text = canonical_json(list(paths)).decode()
        connection.execute(insert(tables.lists).values(id=list_id, paths=text, created_ns=now_ns))


def read_list(connection: Connection, list_id: str) -> list[str]:
    """Raises NotFound."""
    text = connection.execute(select(tables.lists.c.paths).where(tables.lists.c.id == list_id)).scalar()
    if text is None:
        raise NotFound(
            f"the file list {list_id[:64]!r}", "there is none of that id", "ask for the warm again"
        )
    return [str(path) for path in json.loads(text)]
