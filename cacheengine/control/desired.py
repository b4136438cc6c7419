"""Nodes and what each should hold: heartbeats in, desired residency out. Functions over an open connection.

Whoever changes the desired residency of nodes calls `raise_generations` first: it orders changes of the same node.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from cacheengine.control import tables
from cacheengine.control.jobs import Heard
from cacheengine.control.placement import Candidate
from cacheengine.control.tables import WHOLE
from cacheengine.wire import Desired, DesiredVersion, Heartbeat, NodeState
from lake.canonical import blake3_hex, canonical_json
from lake.errors import NotFound
from lake.names import check_path


def all_heard(connection: Connection, started_ns: int, only: Iterable[str] | None = None) -> dict[str, Heard]:
    """Last heartbeats by node. None is older than the start of this service: what it did not hear proves nothing."""
    query = select(tables.nodes.c.node, tables.nodes.c.heartbeat, tables.nodes.c.seen_ns)
    if only is not None:
        query = query.where(tables.nodes.c.node.in_(list(only)))
    return {
        node: Heard(Heartbeat.model_validate_json(heartbeat), max(seen_ns, started_ns))
        for node, heartbeat, seen_ns in connection.execute(query)
    }


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
    )


def take_heartbeat(connection: Connection, heartbeat: Heartbeat, now_ns: int) -> int:
    """Keep it; the generation that the node should see. A node that we never knew is taken on with what it holds."""
    said = {"heartbeat": heartbeat.model_dump_json(), "seen_ns": now_ns}
    changed = connection.execute(
        update(tables.nodes).where(tables.nodes.c.node == heartbeat.node).values(**said)
    )
    if changed.rowcount == 0:
        try:
            with connection.begin_nested():
                _take_on(connection, heartbeat, said)
        except IntegrityError:  # another replica took it on between the two
            connection.execute(
                update(tables.nodes).where(tables.nodes.c.node == heartbeat.node).values(**said)
            )
    return generation(connection, heartbeat.node)


def _take_on(connection: Connection, heartbeat: Heartbeat, said: Mapping[str, Any]) -> None:
    """A new node, or one that this database forgot: then what it holds stays desired, or losing a database would empty caches."""
    connection.execute(
        insert(tables.nodes).values(node=heartbeat.node, generation=heartbeat.generation + 1, **said)
    )
    for report in heartbeat.versions:
        if report.state != "freeing":
            key = (heartbeat.node, report.dataset, report.version, report.list_id or WHOLE)
            put_entry(connection, key, report.tag, pinned=False, job=None)


def generation(connection: Connection, node: str) -> int:
    """Raises NotFound."""
    found = connection.execute(
        select(tables.nodes.c.generation).where(tables.nodes.c.node == node)
    ).scalar_one_or_none()
    if found is None:
        raise NotFound(f"the node {node[:80]!r}", "it has sent no heartbeat", "start its agent")
    return int(found)


def raise_generations(connection: Connection, nodes: Sequence[str]) -> dict[str, int]:
    """One more for each of them, in the order of their names so that two changes never wait for each other."""
    raised = {}
    for node in sorted(nodes):
        connection.execute(
            update(tables.nodes)
            .where(tables.nodes.c.node == node)
            .values(generation=tables.nodes.c.generation + 1)
        )
        raised[node] = generation(connection, node)
    return raised


def read_desired(connection: Connection, node: str) -> Desired:
    """All that a node should hold, in a fixed order. Raises NotFound."""
    entries = tables.desired.c
    found = connection.execute(
        select(tables.desired)
        .where(entries.node == node)
        .order_by(entries.dataset, entries.version, entries.list_id)
    )
    versions = tuple(
        DesiredVersion(
            dataset=row.dataset,
            tag=row.tag,
            version=row.version,
            list_id=row.list_id or None,
            pinned=row.pinned,
            job=row.job,
        )
        for row in found
    )
    return Desired(node=node, generation=generation(connection, node), versions=versions)


def put_entry(
    connection: Connection, key: tuple[str, str, str, str], tag: str, pinned: bool, job: str | None
) -> None:
    """Let (node, dataset, version, list id or WHOLE) be desired. An entry that is pinned stays pinned."""
    node, dataset, version, list_id = key
    c = tables.desired.c
    same = (c.node == node) & (c.dataset == dataset) & (c.version == version) & (c.list_id == list_id)
    values: dict[str, Any] = {"tag": tag, "job": job}
    if pinned:
        values["pinned"] = True
    if connection.execute(update(tables.desired).where(same).values(**values)).rowcount == 0:
        connection.execute(
            insert(tables.desired).values(
                node=node, dataset=dataset, version=version, list_id=list_id, tag=tag, pinned=pinned, job=job
            )
        )


def entries_of(
    connection: Connection, dataset: str, version: str, nodes: Sequence[str]
) -> list[tuple[str, str, bool]]:
    """(node, list id or WHOLE, pinned) of every desired entry of a version on these nodes."""
    c = tables.desired.c
    found = connection.execute(
        select(c.node, c.list_id, c.pinned)
        .where((c.dataset == dataset) & (c.version == version) & c.node.in_(list(nodes)))
        .order_by(c.node, c.list_id)
    )
    return [(row.node, row.list_id, row.pinned) for row in found]


def remove_entry(connection: Connection, node: str, dataset: str, version: str, list_id: str) -> None:
    c = tables.desired.c
    connection.execute(
        delete(tables.desired).where(
            (c.node == node) & (c.dataset == dataset) & (c.version == version) & (c.list_id == list_id)
        )
    )


def set_pinned(
    connection: Connection, dataset: str, version: str, nodes: Sequence[str], pinned: bool
) -> None:
    c = tables.desired.c
    connection.execute(
        update(tables.desired)
        .where((c.dataset == dataset) & (c.version == version) & c.node.in_(list(nodes)))
        .values(pinned=pinned)
    )


def known_version(connection: Connection, dataset: str, ref: str) -> tuple[str, str] | None:
    """(tag, version) that some node should hold under this tag or id prefix: to free what no store has any more."""
    c = tables.desired.c
    found = connection.execute(select(c.tag, c.version).where(c.dataset == dataset).distinct())
    fitting = {
        (tag, version) for tag, version in found if tag == ref or (len(ref) >= 6 and version.startswith(ref))
    }
    return fitting.pop() if len({version for _, version in fitting}) == 1 else None


def forget_node(connection: Connection, node: str) -> None:
    """Drop a node and what it should hold. Raises NotFound."""
    generation(connection, node)
    connection.execute(delete(tables.desired).where(tables.desired.c.node == node))
    connection.execute(delete(tables.nodes).where(tables.nodes.c.node == node))


def list_of(paths: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Paths → (list id, the paths once each, sorted): the id is the hash of the content. Raises Refused for a bad path."""
    ordered = tuple(sorted({check_path(path) for path in paths}))
    return blake3_hex(canonical_json(list(ordered))), ordered


def put_list(connection: Connection, list_id: str, paths: Sequence[str], now_ns: int) -> None:
    """Keep a list, once."""
    if connection.execute(select(tables.lists.c.id).where(tables.lists.c.id == list_id)).first() is not None:
        return
    text = canonical_json(list(paths)).decode()
    try:
        with connection.begin_nested():
            connection.execute(insert(tables.lists).values(id=list_id, paths=text, created_ns=now_ns))
    except IntegrityError:
        return  # another replica kept the same list


def read_list(connection: Connection, list_id: str) -> list[str]:
    """Raises NotFound."""
    text = connection.execute(select(tables.lists.c.paths).where(tables.lists.c.id == list_id)).scalar()
    if text is None:
        raise NotFound(
            f"the file list {list_id[:64]!r}", "there is none of that id", "ask for the warm again"
        )
    return [str(path) for path in json.loads(text)]
