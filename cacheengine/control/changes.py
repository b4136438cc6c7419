"""The order of changes: a number for each topic, raised in the transaction that changes something.

Raising locks the topic's row until the transaction ends, so numbers are committed in their order: an instance that has seen all up to
N asks for rows above N and misses none. That is how several instances on one database hear of each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Connection, Table, select, update
from sqlalchemy.dialects import postgresql, sqlite

from cacheengine.control import tables

Topic = Literal["forgotten", "jobs", "nodes", "settings", "tokens"]


def touch(connection: Connection, *topics: Topic) -> dict[Topic, int]:
    """The new revision of each topic. Call it before the first write: topics are locked in one order, so nobody waits in a circle."""
    c = tables.changes.c
    raised = {}
    for topic in sorted(topics):
        connection.execute(
            update(tables.changes).where(c.topic == topic).values(revision=tables.changes.c.revision + 1)
        )
        found = connection.execute(select(c.revision).where(c.topic == topic)).scalar_one()
        raised[topic] = int(found)
    return raised


def revisions(connection: Connection) -> dict[str, int]:
    """Topic → how far it is."""
    return {row.topic: row.revision for row in connection.execute(select(tables.changes))}


def put(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], keep: Iterable[str] = ()
) -> None:
    """Insert rows; where the primary key is taken, replace all other columns but those in `keep`."""
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    keys = [column.name for column in table.primary_key]
    fixed = {*keys, *keep}
    new = {name: statement.excluded[name] for name in rows[0] if name not in fixed}
    if new:
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=new), list(rows))
    else:
        connection.execute(statement.on_conflict_do_nothing(index_elements=keys), list(rows))
