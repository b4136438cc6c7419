"""What an instance does by itself: it follows the database, writes heartbeats, ends jobs of silent nodes, carries out policies.

What goes wrong reaches the log, a metric and /healthz, and the next round tries again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from starlette.concurrency import run_in_threadpool

from cacheengine.control import (
    abreast,
    activejobs,
    desired,
    jobstore,
    metrics,
    nodelabels,
    nodestore,
    policies,
    totals,
)
from cacheengine.control.board import heard
from cacheengine.control.routes import group
from cacheengine.control.service import Running
from cacheengine.control.tables import writing
from lake.errors import NotFound

log = structlog.get_logger("outlap.control")
PRUNE_EVERY_S = 3600.0


async def _every(running: Running, name: str, seconds: float, do: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await do()
            running.watch.problems.pop(name, None)
        except Exception as error:
            running.watch.problems[name] = f"{name} fails ({type(error).__name__})"
            metrics.background_failures.labels(name).inc()
            log.error("a background loop failed", loop=name, exc_info=error)
        await asyncio.sleep(seconds)


async def follow(running: Running) -> None:
    """Hear of what others wrote, and judge jobs that no heartbeat ends: all their nodes are done, or some are silent."""
    await abreast.refresh(running)
    service = running.service
    before_ns = service.now_ns() - int(service.limits.dead_after_s * 1e9)
    silent = [node for node, known in service.board.nodes.items() if known.heard.seen_ns < before_ns]
    silent += service.active.by_node.keys() - service.board.nodes.keys()
    for job in activejobs.waiting_for_all(service.active, silent):
        await abreast.look(running, job)


async def prune(running: Running, seen: list[int]) -> None:
    """Forget what is old. seen: the revision of an hour ago, which every instance has heard of."""
    service = running.service

    def forget() -> None:
        before_ns = service.now_ns() - int(service.chosen.group.keep_days * 86400 * 1e9)
        with writing(service.engine) as connection:
            jobstore.prune(connection, before_ns)
            nodestore.prune(connection, seen[0])

    await run_in_threadpool(forget)
    seen[0] = service.board.revisions.get("nodes", 0)


async def free_by_policy(running: Running) -> None:
    """Begin what policies free now."""
    if running.service.chosen.policies:
        await abreast.ordered(running, lambda: policies.carry_out(running.service))


async def look_at_group(running: Running) -> None:
    """Who is in the group now."""
    await group.refresh(running)


async def label_nodes(running: Running, cluster: nodelabels.Cluster) -> None:
    """Say in labels of Kubernetes nodes what each holds."""
    service = running.service
    now_ns, limit_s = service.now_ns(), service.limits.dead_after_s
    nodes = {name: desired.node_state(one, now_ns, limit_s) for name, one in heard(service.board).items()}

    def total_of(version: str) -> int:
        if version not in cluster.totals:
            try:
                cluster.totals[version] = totals.of_version(service.lake(), version).bytes
            except NotFound:  # no store has it any more: then what nodes say is all there is
                return max(
                    r.bytes_total for node in nodes.values() for r in node.versions if r.version == version
                )
        return cluster.totals[version]

    await run_in_threadpool(nodelabels.round_of, cluster, nodes, total_of)


@asynccontextmanager
async def watching(running: Running) -> AsyncIterator[None]:
    """Run all loops; at the end what heartbeats brought is written."""
    settings, seen = running.settings, [0]
    loops = [
        _every(running, "following the database", settings.poll_s, lambda: follow(running)),
        _every(running, "writing heartbeats", settings.flush_s, lambda: abreast.flush(running)),
        _every(running, "the group", settings.poll_s, lambda: look_at_group(running)),
        _every(running, "policies", settings.policy_every_s, lambda: free_by_policy(running)),
        _every(running, "forgetting", PRUNE_EVERY_S, lambda: prune(running, seen)),
    ]
    if settings.kubernetes_labels:
        cluster = nodelabels.connect(settings)
        every_s = settings.kubernetes_every_s
        loops.append(_every(running, "labelling nodes", every_s, lambda: label_nodes(running, cluster)))
    tasks = [asyncio.create_task(loop) for loop in loops]
    started = time.monotonic()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await abreast.flush(running)
        log.info("control ends", seconds=round(time.monotonic() - started, 1))
