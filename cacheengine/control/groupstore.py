"""The group in the database, brought up to date by whichever instance looks first. Nodes that join get shares of what is spread."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from cacheengine.control import board, changes, desired, tables
from cacheengine.control.group import next_group
from cacheengine.control.service import Service
from cacheengine.control.tables import writing
from cacheengine.peers import sources
from cacheengine.wire import Group, GroupAnswer, Held
from lake.errors import NotFound

_HELD = ("version", "list_id", "selector", "placement", "copies")


def read(connection: Connection) -> GroupAnswer | None:
    found = connection.execute(select(tables.cache_group)).first()
    if found is None:
        return None
    return GroupAnswer(group=Group.model_validate_json(found.body), secret=found.secret)


def _held(connection: Connection) -> tuple[Held, ...]:
    columns = [tables.desired.c[name] for name in _HELD]
    found = connection.execute(select(*columns).where(~tables.desired.c.paused).distinct())
    rows = sorted(found, key=lambda row: tuple(map(str, row)))
    return tuple(
        Held(
            version=row.version,
            list_id=row.list_id or None,
            nodes=row.selector,
            placement=row.placement,
            copies=row.copies,
        )
        for row in rows
    )


def stamp(connection: Connection) -> tuple[int, int]:
    """Changes whenever what nodes should hold does."""
    c = tables.nodes.c
    row = connection.execute(select(func.count(c.node), func.coalesce(func.sum(c.generation), 0))).one()
    return int(row[0]), int(row[1])


def look(service: Service) -> GroupAnswer:
    """The group as of now; when it is another than the one that is kept, that is kept."""
    heard = board.heard(service.board)
    with service.engine.connect() as connection:
        kept = read(connection)
        draining = drained(connection)
        now = stamp(connection)
        held = service.held[1] if service.held is not None and service.held[0] == now else _held(connection)
    service.held = (now, held)
    before = kept.group if kept is not None else Group(generation=0)
    away_s = service.chosen.group.member_away_s
    listening_ns = board.listening_ns(service.board, service.now_ns(), service.deaf_ns)
    after = next_group(before, heard, draining, held, listening_ns, away_s)
    if kept is not None and after == before:
        return kept
    with writing(service.engine) as connection:
        secret = kept.secret if kept is not None else None
        answer = GroupAnswer(group=after, secret=secret or secrets.token_urlsafe(32))
        if not _keep(connection, before, answer, is_new=kept is None):
            return kept or answer  # another instance was first: the next look has what it found
        if after.generation != before.generation:
            adopt(connection, after, service.now_ns())
    return answer


def _keep(connection: Connection, before: Group, answer: GroupAnswer, is_new: bool) -> bool:
    """False when another instance kept something else meanwhile."""
    values = {"revision": answer.group.revision, "body": answer.group.model_dump_json()}
    if is_new:
        try:
            with connection.begin_nested():
                connection.execute(insert(tables.cache_group).values(id=1, secret=answer.secret, **values))
        except IntegrityError:
            return False
        return True
    same = tables.cache_group.c.revision == before.revision
    return connection.execute(update(tables.cache_group).where(same).values(**values)).rowcount == 1


def adopt(connection: Connection, group: Group, now_ns: int) -> None:
    """Let nodes that a spread version's selector picks, and that should not hold any of it yet, have their share of it."""
    c = tables.desired.c
    found = connection.execute(select(tables.desired).where((c.placement == "spread") & ~c.paused)).all()
    by_version: dict[tuple[str, str, str], list[Row[tuple[object, ...]]]] = {}
    for row in found:
        by_version.setdefault((row.dataset, row.version, row.list_id), []).append(row)
    new: dict[str, list[Mapping[str, object]]] = {}
    for rows in by_version.values():
        one = rows[0]
        held = Held(version=one.version, nodes=one.selector, placement="spread", copies=one.copies)
        holding = {row.node for row in rows}
        for name in sources.weights(group, held).keys() - holding:
            entry = {**one._mapping, "node": name, "job": None, "first_job": None, "since_ns": now_ns}
            new.setdefault(name, []).append(entry)
    if new:
        revision = changes.touch(connection, "nodes")["nodes"]
        desired.raise_generations(connection, sorted(new), revision)
        changes.put(connection, tables.desired, [entry for entries in new.values() for entry in entries])


def drained(connection: Connection) -> set[str]:
    """Names of the nodes that hand over their shares."""
    return set(connection.execute(select(tables.drained.c.node)).scalars())


def set_drained(service: Service, node: str, is_drained: bool) -> None:
    """Raises NotFound for a node that nobody heard of."""
    if node not in board.heard(service.board):
        raise NotFound(f"the node {node[:80]!r}", "it has sent no heartbeat", "`outlap nodes` lists them")
    with writing(service.engine) as connection:
        connection.execute(delete(tables.drained).where(tables.drained.c.node == node))
        if is_drained:
            connection.execute(insert(tables.drained).values(node=node, since_ns=service.now_ns()))
