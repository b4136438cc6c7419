"""Memory and database of one instance, kept abreast: heartbeats are written a moment after they came, what others wrote is read.

All of it runs in the event loop, with the database's part in threads; one at a time, so that no revision is missed between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import structlog
from starlette.concurrency import run_in_threadpool

from cacheengine.control import activejobs, board, changes, jobstore, nodestore, settingstore
from cacheengine.control.board import Lease, Row, heard
from cacheengine.control.groupsettings import chosen
from cacheengine.control.jobs import Spec
from cacheengine.control.service import Running, Service
from cacheengine.control.tables import writing
from cacheengine.wire import Heartbeat

T = TypeVar("T")
MOST_JOINING = 50

log = structlog.get_logger("outlap.control")


class _News(NamedTuple):
    """What the database has that memory has not. None: nothing of that kind changed."""

    revisions: dict[str, int]
    nodes: dict[str, Row]
    names: set[str] | None
    leases: dict[str, frozenset[Lease]] | None
    begun: list[Spec]
    active: set[str] | None
    settings: dict[str, str] | None


def _read(service: Service) -> _News | None:
    known = service.board.revisions
    with service.engine.connect() as connection:
        now = changes.revisions(connection)
        if now == known:
            return None

        def moved(topic: str) -> bool:
            return now.get(topic, 0) != known.get(topic, -1)

        nodes = nodestore.read(connection, known.get("nodes", -1)) if moved("nodes") else {}
        nodes = nodestore.read_whole(connection, nodes, board.beaten(service.board, nodes))
        return _News(
            revisions=now,
            nodes=nodes,
            names=nodestore.names(connection) if moved("forgotten") else None,
            leases=None if known else nodestore.open_leases(connection),
            begun=jobstore.active_specs(connection, known.get("jobs", -1)) if moved("jobs") else [],
            active=jobstore.active_ids(connection) if moved("jobs") else None,
            settings=settingstore.kept(connection) if moved("settings") else None,
        )


async def refresh(running: Running) -> None:
    """Let in what was written since: by this instance's orders, or by others."""
    async with running.abreast:
        await _refresh(running.service)


async def _refresh(service: Service) -> None:
    news = await run_in_threadpool(_read, service)
    if news is None:
        return
    board.apply(service.board, news.nodes, service.deaf_ns)
    if news.names is not None:
        board.drop(service.board, service.board.nodes.keys() - news.names)
    if news.leases is not None:
        service.board.leased.update(news.leases)
    if news.settings is not None:
        service.chosen = chosen(service.defaults, news.settings)
    if news.revisions.get("tokens") != service.board.revisions.get("tokens"):
        service.scopes.clear()
    if news.active is not None:
        active = service.active
        activejobs.end(active, active.jobs.keys() - news.active)
        new = [spec for spec in news.begun if spec.id in news.active and spec.id not in active.jobs]
        for spec in new:
            there = heard(service.board, [one.node for one in spec.nodes])
            still_open = await run_in_threadpool(
                activejobs.open_nodes, spec, there, service.now_ns(), service.limits
            )
            activejobs.begin(active, spec, still_open)
    service.board.revisions = news.revisions


async def flush(running: Running) -> None:
    """Write what heartbeats brought."""
    service, state = running.service, running.service.board
    async with running.abreast:
        if not state.dirty:
            return
        dirty, state.dirty = state.dirty, {}
        pending = [
            _pending(service, node, frozenset(keys)) for node, keys in dirty.items() if node in state.nodes
        ]
        state.whole -= dirty.keys()
        try:
            revision, beaten = await run_in_threadpool(_write, service, pending)
        except BaseException:
            for node, keys in dirty.items():
                state.dirty.setdefault(node, set()).update(keys)
            state.whole.update(one.heartbeat.node for one in pending if one.whole)
            for one in pending:
                state.seen.setdefault(one.heartbeat.node, set()).update(one.begun)
            raise
        for one in pending:
            node = one.heartbeat.node
            if node in beaten and node in state.nodes:
                # the next look into the database says whose is later; when it is ours, all of it is written
                state.whole.add(node)
                state.dirty.setdefault(node, set())
            if node in beaten or node not in state.nodes:
                continue
            stored = (one.heartbeat.session, one.heartbeat.number)
            state.nodes[node] = state.nodes[node]._replace(stored=stored)
            state.leased[node] = board.leases(one.heartbeat)
        if state.revisions.get("nodes") == revision - 1 and not beaten:
            state.revisions["nodes"] = revision


def _pending(
    service: Service, node: str, changed: frozenset[tuple[str, str, str | None]]
) -> nodestore.Pending:
    known = service.board.nodes[node]
    before, now = service.board.leased.get(node, frozenset()), board.leases(known.heard.heartbeat)
    begun = (now | service.board.seen.pop(node, set())) - before
    return nodestore.Pending(
        known.heard.heartbeat,
        known.heard.seen_ns,
        known.stored,
        changed,
        node in service.board.whole,
        (before | begun) - now,
        begun,
    )


def _write(service: Service, pending: list[nodestore.Pending]) -> tuple[int, set[str]]:
    with writing(service.engine) as connection:
        return nodestore.flush(connection, pending, service.now_ns())


async def take(running: Running, heartbeat: Heartbeat) -> bool:
    """Let in a heartbeat, and end the jobs that it ends. False: the node is to send all that it holds."""
    service, node = running.service, heartbeat.node
    if not heartbeat.session:  # its sender counts nothing: the order in which they come is theirs
        heartbeat = heartbeat.model_copy(update={"number": service.now_ns()})
    if node not in service.board.nodes:
        if heartbeat.since is not None:
            await refresh(running)
            if node not in service.board.nodes:
                return False
        else:
            await _join(running, heartbeat)
    before = service.board.nodes[node].heard.heartbeat
    now_ns, last_ns = service.now_ns(), service.board.last_ns
    if abs(now_ns - last_ns) > service.deaf_ns:
        log.warning("nobody_heard", seconds=round((now_ns - last_ns) / 1e9, 1))
    known = board.take(service.board, heartbeat, now_ns, service.deaf_ns)
    now = service.board.nodes[node].heard
    more = (before.generation, before.mounts) != (now.heartbeat.generation, now.heartbeat.mounts)
    changed = None if more else service.board.dirty.get(node, ())
    over = activejobs.may_be_over(service.active, node, now, changed, service.now_ns(), service.limits)
    for job in over:
        await look(running, job)
    return known


async def _join(running: Running, heartbeat: Heartbeat) -> None:
    """Take a node on; whoever has the lock takes on all that wait, so that a whole group can come at once."""
    service, joining = running.service, running.joining
    joining[heartbeat.node] = heartbeat
    async with running.abreast:
        waiting = [joining.pop(node) for node in list(joining)[:MOST_JOINING]]
        if waiting:
            revision, new = await run_in_threadpool(_take_on, service, waiting)
            if service.board.revisions.get("nodes") == revision - 1 and len(new) == len(waiting):
                board.apply(service.board, new, service.deaf_ns)
                service.board.revisions["nodes"] = revision
            else:
                await _refresh(service)


def _take_on(service: Service, heartbeats: list[Heartbeat]) -> tuple[int, dict[str, Row]]:
    with writing(service.engine) as connection:
        return nodestore.take_on(connection, heartbeats, service.now_ns())


async def look(running: Running, job: str) -> None:
    """Judge an active job as a whole; when it is over by now, that is kept and told."""
    service = running.service
    one = service.active.jobs.get(job)
    if one is None:
        return
    # now: what this report proves may be gone from the next one
    there = board.heard_of(service.board, one.spec)
    judged = await run_in_threadpool(jobstore.judged, service, one.spec, there)
    if judged.ended_ns is not None:
        await refresh(running)
    elif not one.open:
        one.open = await run_in_threadpool(
            activejobs.open_nodes,
            one.spec,
            heard(service.board, one.chosen),
            service.now_ns(),
            service.limits,
        )


async def ordered(running: Running, order: Callable[[], T]) -> T:
    """Carry out an order in a thread, on what is known by now; who waits for its consequences hears of them."""
    await refresh(running)
    try:
        return await run_in_threadpool(order)
    finally:
        await refresh(running)
