"""Nodes in the database: taken on, written behind their heartbeats, read by other instances. Functions over an open connection."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from cacheengine.control import changes, tables
from cacheengine.control.board import Lease, Row
from cacheengine.control.tables import WHOLE
from cacheengine.reporting import Key, key_of
from cacheengine.wire import Heartbeat, VersionReport
from lake.errors import NotFound


class Pending(NamedTuple):
    """What is to be written of a node. changed: keys of reports; whole: all of them. ended, begun: leases."""

    heartbeat: Heartbeat
    seen_ns: int
    stored: tuple[str, int]
    changed: frozenset[Key]
    whole: bool = False
    ended: frozenset[Lease] = frozenset()
    begun: frozenset[Lease] = frozenset()


def _said(heartbeat: Heartbeat, seen_ns: int, revision: int) -> dict[str, Any]:
    return {
        "heartbeat": heartbeat.model_dump_json(exclude={"versions"}),
        "seen_ns": seen_ns,
        "session": heartbeat.session,
        "number": heartbeat.number,
        "revision": revision,
    }


def _rows(heartbeat: Heartbeat, keys: Iterable[Key], revision: int) -> list[dict[str, Any]]:
    reports = {key_of(report): report for report in heartbeat.versions}
    return [
        {
            "node": heartbeat.node,
            "dataset": key[0],
            "version": key[1],
            "list_id": key[2] or WHOLE,
            "report": reports[key].model_dump_json() if key in reports else None,
            "revision": revision,
        }
        for key in keys
    ]


def take_on(
    connection: Connection, heartbeats: Sequence[Heartbeat], now_ns: int
) -> tuple[int, dict[str, Row]]:
    """Nodes that are new, or that this database forgot: then what they hold stays desired, or losing a database would empty caches.

    (revision, the new ones as `read` would give them).
    """
    revision, c = changes.touch(connection, "nodes")["nodes"], tables.nodes.c
    names = [heartbeat.node for heartbeat in heartbeats]
    known = set(connection.execute(select(c.node).where(c.node.in_(names))).scalars())
    new = [heartbeat for heartbeat in heartbeats if heartbeat.node not in known]
    rows = [
        {"node": one.node, "generation": one.generation + 1, **_said(one, now_ns, revision)} for one in new
    ]
    if rows:
        connection.execute(insert(tables.nodes), rows)
    reports = [row for one in new for row in _rows(one, map(key_of, one.versions), revision)]
    changes.put(connection, tables.reports, reports)
    held = [_held(one.node, report, now_ns) for one in new for report in one.versions]
    kept = [row for row in held if row]
    changes.put(connection, tables.desired, kept, keep=kept[0] if kept else ())
    return revision, {
        one.node: Row(one, now_ns, one.generation + 1, {key_of(report): report for report in one.versions})
        for one in new
    }


def _held(node: str, report: VersionReport, now_ns: int) -> dict[str, Any]:
    """A row of desired residency for what a node holds; empty for what it was letting go."""
    if report.state == "freeing":
        return {}
    return {
        "node": node,
        "dataset": report.dataset,
        "version": report.version,
        "list_id": report.list_id or WHOLE,
        "tag": report.tag,
        "pinned": report.pinned,
        "job": None,
        "first_job": None,
        "since_ns": now_ns,
        "paused": False,
        "priority": 0,
        "selector": "all",
        "placement": "all" if report.group is None else "spread",
        "copies": 1,
    }


def flush(connection: Connection, pending: Sequence[Pending], now_ns: int) -> tuple[int, set[str]]:
    """Write what heartbeats brought; (revision, nodes of which another instance knew more, that were left as they are)."""
    revision = changes.touch(connection, "nodes")["nodes"]
    c, beaten = tables.nodes.c, set()
    for one in pending:
        same = (c.node == one.heartbeat.node) & (c.session == one.stored[0]) & (c.number == one.stored[1])
        said = _said(one.heartbeat, one.seen_ns, revision)
        if connection.execute(update(tables.nodes).where(same).values(**said)).rowcount == 0:
            beaten.add(one.heartbeat.node)
    ours = [one for one in pending if one.heartbeat.node not in beaten]
    rows = [row for one in ours for row in _rows(one.heartbeat, _keys(connection, one), revision)]
    changes.put(connection, tables.reports, rows)
    for one in ours:
        _keep_leases(connection, one, now_ns)
    return revision, beaten


def _keys(connection: Connection, pending: Pending) -> Iterable[Key]:
    """Keys of the reports to write: where another instance wrote between, also of those that only it had."""
    if not pending.whole:
        return pending.changed
    r = tables.reports.c
    found = connection.execute(
        select(r.dataset, r.version, r.list_id).where(
            (r.node == pending.heartbeat.node) & r.report.is_not(None)
        )
    )
    there = {(row.dataset, row.version, row.list_id or None) for row in found}
    return there | {key_of(report) for report in pending.heartbeat.versions}


def _keep_leases(connection: Connection, pending: Pending, now_ns: int) -> None:
    c, node = tables.leases.c, pending.heartbeat.node
    rows = [
        {"node": node, "since_ns": now_ns, "ended_ns": None, **lease._asdict()} for lease in pending.begun
    ]
    changes.put(connection, tables.leases, rows)
    for lease in pending.ended:
        mine = (c.node == node) & (c.target == lease.target) & (c.version == lease.version)
        connection.execute(update(tables.leases).where(mine & c.ended_ns.is_(None)).values(ended_ns=now_ns))


def open_leases(connection: Connection) -> dict[str, frozenset[Lease]]:
    """Node → what the database says that it has mounted."""
    found: dict[str, set[Lease]] = {}
    for row in connection.execute(select(tables.leases).where(tables.leases.c.ended_ns.is_(None))):
        found.setdefault(row.node, set()).add(Lease(row.target, row.dataset, row.tag, row.version))
    return {node: frozenset(held) for node, held in found.items()}


def read(connection: Connection, after: int) -> dict[str, Row]:
    """Nodes that changed after a revision, with those of their reports that did."""
    reports = _read_reports(connection, tables.reports.c.revision > after)
    found = {}
    for row in connection.execute(select(tables.nodes).where(tables.nodes.c.revision > after)):
        heartbeat = Heartbeat.model_validate_json(row.heartbeat)
        found[row.node] = Row(heartbeat, row.seen_ns, row.generation, reports.get(row.node, {}))
    return found


def read_whole(connection: Connection, rows: Mapping[str, Row], names: Collection[str]) -> dict[str, Row]:
    """`rows`, those of these nodes with all of their reports."""
    reports = _read_reports(connection, tables.reports.c.node.in_(list(names))) if names else {}
    return {
        name: row._replace(reports=reports.get(name, {}), whole=True) if name in names else row
        for name, row in rows.items()
    }


def _read_reports(
    connection: Connection, which: ColumnElement[bool]
) -> dict[str, dict[Key, VersionReport | None]]:
    reports: dict[str, dict[Key, VersionReport | None]] = {}
    for row in connection.execute(select(tables.reports).where(which)):
        report = None if row.report is None else VersionReport.model_validate_json(row.report)
        reports.setdefault(row.node, {})[(row.dataset, row.version, row.list_id or None)] = report
    return reports


def names(connection: Connection) -> set[str]:
    return set(connection.execute(select(tables.nodes.c.node)).scalars())


def forget(connection: Connection, node: str) -> None:
    """Drop a node and what it should hold. Raises NotFound."""
    changes.touch(connection, "forgotten", "nodes")
    if connection.execute(delete(tables.nodes).where(tables.nodes.c.node == node)).rowcount == 0:
        raise NotFound(f"the node {node[:80]!r}", "it has sent no heartbeat", "start its agent")
    for table in (tables.desired, tables.reports, tables.drained):
        connection.execute(delete(table).where(table.c.node == node))


def prune(connection: Connection, before: int) -> None:
    """Drop marks of reports that are gone, up to a revision that every instance has long heard of."""
    r = tables.reports.c
    connection.execute(delete(tables.reports).where(r.report.is_(None) & (r.revision <= before)))
