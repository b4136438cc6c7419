"""What each link between IDCs may carry: its budget of the hour, in equal shares for the syncs that use it now."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import delete, func, select

from cacheengine.control import changes, tables
from cacheengine.control.groupsettings import Budget
from cacheengine.control.service import Service
from cacheengine.wire import LinkBudget

VALID_S = 60.0


def budget(service: Service, source: str, target: str, sync: str) -> LinkBudget:
    """The share of a sync; it counts as a user of the link for 1.5 × `VALID_S`. A sync without a name is only told."""
    now_ns, c = service.now_ns(), tables.link_users.c
    link = (c.source == source) & (c.target == target)
    with tables.writing(service.engine) as connection:
        connection.execute(
            delete(tables.link_users).where(link & (c.seen_ns < now_ns - int(1.5 * VALID_S * 1e9)))
        )
        if sync:
            row = {"source": source, "target": target, "sync": sync, "seen_ns": now_ns}
            changes.put(connection, tables.link_users, [row])
        users = connection.execute(
            select(func.count()).select_from(tables.link_users).where(link)
        ).scalar_one()
    bps = service.chosen.links.get((source, target), Budget()).at(
        datetime.fromtimestamp(now_ns / 1e9, UTC).hour
    )
    return LinkBudget(
        source=source,
        target=target,
        bps=bps,
        share_bps=None if bps is None else bps // max(1, users),
        syncs=max(1, users),
        valid_s=VALID_S,
    )
