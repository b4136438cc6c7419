"""Nodes: heartbeats in, desired residency and file lists out, and what is known of every node."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool

from cacheengine.control import desired, jobstore, metrics, tokens
from cacheengine.control.bell import heard as bell_heard
from cacheengine.control.routes.common import MOST_WAIT_S, Caller, Here, WaitS
from cacheengine.control.service import Running
from cacheengine.control.tables import writing
from cacheengine.wire import Desired, Heartbeat, HeartbeatReply, NodeState
from lake.canonical import is_hash
from lake.errors import NotFound, Refused
from lake.names import check_part

router = APIRouter(prefix="/v1", tags=["nodes"])


@router.post("/nodes/{node}/heartbeat")
def heartbeat(node: str, message: Heartbeat, running: Here, caller: Caller) -> HeartbeatReply:
    """A node says what it holds. The answer says which generation of its desired residency it should see."""
    tokens.check(caller, "node")
    if check_part("the node", node) != message.node:
        raise Refused(f"the heartbeat of {node!r}", f"it says that it is of {message.node[:80]!r}")
    if running.idc and message.idc != running.idc:
        raise Refused(
            f"the heartbeat of {node!r}",
            f"it is of IDC {message.idc[:80]!r}, this control service is of {running.idc!r}",
            "let the node's `control` name the service of its own IDC",
        )
    service = running.service
    with writing(service.engine) as connection:
        generation = desired.take_heartbeat(connection, message, service.now_ns())
        waiting = jobstore.active_jobs(connection, node)
    for job in waiting:  # now: what this report proves may be gone from the next one
        jobstore.look(service, job)
    metrics.heartbeats.inc()
    running.reports_changed.ring()
    if generation != message.generation:
        running.desired_changed.ring()
    return HeartbeatReply(generation=generation, interval_s=running.settings.heartbeat_interval_s)


def _other(running: Running, node: str, generation: int) -> Desired | None:
    """What the node should hold, when that is another generation. A node that nobody heard of: None."""
    with running.service.engine.connect() as connection:
        try:
            if desired.generation(connection, node) == generation:
                return None
        except NotFound:
            return None
        return desired.read_desired(connection, node)


@router.get("/nodes/{node}/desired")
async def get_desired(
    node: str, running: Here, caller: Caller, generation: Annotated[int, Query()] = -1, wait_s: WaitS = 0.0
) -> Desired:
    """The whole desired residency of a node, once it differs from `generation`, or after `wait_s`.

    404 until the node has sent a heartbeat: an empty answer would make it drop what it holds.
    """
    tokens.check(caller, "node")
    end = time.monotonic() + min(wait_s, MOST_WAIT_S)
    while True:
        event = running.desired_changed.listen()
        found = await run_in_threadpool(_other, running, node, generation)
        left = end - time.monotonic()
        if found is not None:
            return found
        if left <= 0:
            return await run_in_threadpool(_as_it_is, running, node)
        await bell_heard(event, min(left, running.settings.poll_s))


def _as_it_is(running: Running, node: str) -> Desired:
    with running.service.engine.connect() as connection:
        return desired.read_desired(connection, node)


@router.get("/lists/{list_id}")
def get_list(list_id: str, running: Here, caller: Caller) -> dict[str, list[str]]:
    """The paths of a file list."""
    tokens.check(caller, "node")
    if not is_hash(list_id):
        raise NotFound(f"the file list {list_id[:64]!r}", "an id is 64 hex digits")
    with running.service.engine.connect() as connection:
        return {"paths": desired.read_list(connection, list_id)}


@router.get("/nodes")
def list_nodes(running: Here, caller: Caller) -> list[NodeState]:
    """Every node, with versions and mounts of the datasets that the token allows."""
    tokens.check(caller, "read")
    service = running.service
    with service.engine.connect() as connection:
        heard = desired.all_heard(connection, service.started_ns)
    states = []
    for name in sorted(heard):
        state = desired.node_state(heard[name], service.now_ns(), service.limits.dead_after_s)
        versions = tuple(v for v in state.versions if tokens.dataset_allowed(caller, v.dataset))
        mounts = tuple(m for m in state.mounts if tokens.dataset_allowed(caller, m.dataset))
        states.append(state.model_copy(update={"versions": versions, "mounts": mounts}))
    return states


@router.delete("/nodes/{node}", status_code=204)
def forget_node(node: str, running: Here, caller: Caller) -> None:
    """Drop a node that will not come back."""
    tokens.check(caller, "admin")
    with writing(running.service.engine) as connection:
        desired.forget_node(connection, node)
    running.desired_changed.ring()
