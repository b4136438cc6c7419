"""Settings in the database: what holds, who changed what and when, and what a change touches before it is made.

Nothing is ever changed or deleted: a revert is one change more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select

from cacheengine.control import changes, desired, groupsettings, tables
from cacheengine.control.groupsettings import GroupSettings
from cacheengine.control.service import Service
from cacheengine.wire import Setting, SettingChange
from lake.errors import NotFound

_C = tables.settings_changes.c
MOST_NAMED = 1000


def kept(connection: Connection) -> dict[str, str]:
    """Key → JSON of what was set; keys that have their default again are left out."""
    newest = select(func.max(_C.number)).group_by(_C.key)
    found = connection.execute(select(_C.key, _C.new).where(_C.number.in_(newest)))
    return {row.key: row.new for row in found if row.new is not None}


def shown(service: Service) -> list[Setting]:
    """Every setting: what holds, and whether it is the default."""
    with service.engine.connect() as connection:
        known = kept(connection)
    settings = [
        Setting(
            key=key,
            value=json.loads(known[key]) if key in known else default,
            default=default,
            chosen=key in known,
        )
        for key, default in service.defaults.model_dump(mode="json").items()
    ]
    others = sorted(known.keys() - GroupSettings.model_fields.keys())
    return settings + [
        Setting(key=key, value=json.loads(known[key]), default=None, chosen=True) for key in others
    ]


def history(connection: Connection, key: str | None, limit: int) -> list[SettingChange]:
    """Changes, newest first."""
    query = select(tables.settings_changes).order_by(_C.number.desc()).limit(limit)
    found = connection.execute(query if key is None else query.where(_C.key == key))
    return [_change(row) for row in found]


def _change(row: Any) -> SettingChange:
    return SettingChange(
        number=row.number,
        key=row.key,
        old=None if row.old is None else json.loads(row.old),
        new=None if row.new is None else json.loads(row.new),
        who=row.who,
        at_ns=row.at_ns,
        reverts=row.reverts,
        applied=True,
        **json.loads(row.touches),
    )


def change(
    service: Service, key: str, value: Any, who: str, dry_run: bool = False, reverts: int | None = None
) -> SettingChange:
    """Set a key (value None: back to its default), or only say what that would touch. Raises Refused."""
    new = None if value is None else json.dumps(groupsettings.checked(key, value), sort_keys=True)
    groupsettings.check_key(key)
    with tables.writing(service.engine) as connection:
        topics = changes.touch(connection, "nodes", "settings") if not dry_run else {}
        old, at_ns = kept(connection).get(key), service.now_ns()
        nodes, jobs, says = _touches(service, connection, key)
        found = SettingChange(
            key=key,
            old=None if old is None else json.loads(old),
            new=None if new is None else json.loads(new),
            who=who,
            at_ns=at_ns,
            reverts=reverts,
            applied=not dry_run,
            nodes=tuple(nodes[:MOST_NAMED]),
            jobs=tuple(jobs[:MOST_NAMED]),
            says=says,
        )
        if dry_run:
            return found
        if key == "bandwidth_bps":  # it stands in what nodes are told to hold
            desired.raise_generations(connection, nodes, topics["nodes"])
        made = connection.execute(
            insert(tables.settings_changes).values(
                key=key,
                old=old,
                new=new,
                who=who,
                at_ns=at_ns,
                reverts=reverts,
                touches=found.model_dump_json(include={"nodes", "jobs", "says"}),
            )
        )
        return found.model_copy(update={"number": made.inserted_primary_key[0]})  # type: ignore[index]


def _numbered(connection: Connection, number: int) -> Any:
    row = connection.execute(select(tables.settings_changes).where(_C.number == number)).first()
    if row is None:
        raise NotFound(f"the change {number}", "there is none of that number", "see `outlap config history`")
    return row


def key_of(service: Service, number: int) -> str:
    """The key of a change. Raises NotFound."""
    with service.engine.connect() as connection:
        return str(_numbered(connection, number).key)


def revert(service: Service, number: int, who: str, dry_run: bool = False) -> SettingChange:
    """Set a key to what it was before a change. Raises NotFound."""
    with service.engine.connect() as connection:
        row = _numbered(connection, number)
    old = None if row.old is None else json.loads(row.old)
    return change(service, row.key, old, who, dry_run, reverts=number)


def _touches(service: Service, connection: Connection, key: str) -> tuple[list[str], list[str], str]:
    """(nodes, jobs, in words) that a change of this key reaches."""
    every, active = sorted(service.board.nodes), service.active.jobs
    if key == "bandwidth_bps":
        c = tables.desired.c
        found = select(c.node).where(c.bandwidth_bps.is_(None) & ~c.paused).distinct().order_by(c.node)
        mine = list(connection.execute(found).scalars())
        jobs = [j for j, a in active.items() if a.spec.kind == "warm" and a.spec.bandwidth_bps is None]
        return mine, sorted(jobs), "nodes fetch no faster than this what no warm gave a rate of its own"
    if key in ("heartbeat_interval_s", "heartbeats_per_s"):
        return every, [], "nodes report so often from their next heartbeat on"
    if key in ("dead_after_s", "dead_grace_s"):
        return every, sorted(active), "silent nodes, and jobs on them, are judged by it from now on"
    if key == "keep_days":
        c = tables.jobs.c
        ended = connection.execute(
            select(func.count()).select_from(tables.jobs).where(~c.active)
        ).scalar_one()
        return [], [], f"{ended} ended jobs are kept so long, then forgotten"
    if key.startswith("link."):
        source, target = key.removeprefix("link.").split(".")
        u = tables.link_users.c
        users = connection.execute(
            select(func.count())
            .select_from(tables.link_users)
            .where((u.source == source) & (u.target == target))
        ).scalar_one()
        return [], [], f"{users} syncs from {source} to {target} get a new share when they next ask"
    dataset = key.removeprefix("free.")
    holding = _holding(service, dataset)
    running = [j for j, a in active.items() if a.spec.dataset == dataset]
    return holding, sorted(running), f"versions of {dataset} on these nodes are freed by it"


def _holding(service: Service, dataset: str) -> list[str]:
    nodes: Sequence[tuple[str, Any]] = sorted(service.board.nodes.items())
    return [
        node
        for node, known in nodes
        if any(report.dataset == dataset for report in known.heard.heartbeat.versions)
    ]
