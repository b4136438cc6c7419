"""Nodes: heartbeats in, desired residency and file lists out, and what is known of every node."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool

from cacheengine.control import abreast, desired, groupstore, metrics, nodestore, tokens
from cacheengine.control.bell import heard as bell_heard
from cacheengine.control.board import bell, heard
from cacheengine.control.routes.common import ERRORS, MISSING, MOST_WAIT_S, REFUSED, Caller, Here, WaitS
from cacheengine.control.service import Running
from cacheengine.control.tables import writing
from cacheengine.wire import Desired, Heartbeat, HeartbeatReply, NodeState, VersionReport
from lake.canonical import is_hash
from lake.errors import NotFound, Refused
from lake.names import check_part

router = APIRouter(prefix="/v1", tags=["nodes"], responses=ERRORS)


@router.post("/nodes/{node}/heartbeat", summary="A node reports", responses=REFUSED)
async def heartbeat(node: str, message: Heartbeat, running: Here, caller: Caller) -> HeartbeatReply:
    """A node says what it holds: all of it, or what changed since a heartbeat that was answered.

    The answer says which generation of its desired residency it should see, when to report again, and whether with all of it.
    """
    tokens.check(caller, "node")
    if check_part("the node", node) != message.node:
        raise Refused(f"the heartbeat of {node!r}", f"it says that it is of {message.node[:80]!r}")
    if running.idc and message.idc != running.idc:
        raise Refused(
            f"the heartbeat of {node!r}",
            f"it is of IDC {message.idc[:80]!r}, this control service is of {running.idc!r}",
            "let the node's `control` name the service of its own IDC",
        )
    known = await abreast.take(running, message)
    metrics.heartbeats.labels("all" if message.since is None else "changes").inc()
    found = running.service.board.nodes.get(node)
    return HeartbeatReply(
        generation=message.generation if found is None else found.generation,
        full=not known,
        interval_s=running.service.interval_s,
        fetching_s=running.service.fetching_s,
    )


def _as_it_is(running: Running, node: str) -> str:
    with running.service.engine.connect() as connection:
        found = desired.read_desired(connection, node, running.service.chosen.group.bandwidth_bps)
    return found.model_dump_json()  # here and not by the framework: a warm makes all nodes ask at once


@router.get(
    "/nodes/{node}/desired",
    summary="What a node should hold",
    responses={**MISSING, 204: {"description": "It is the same generation still."}},
    response_model=Desired,
)
async def get_desired(
    node: str,
    running: Here,
    caller: Caller,
    generation: Annotated[int, Query(description="the one that the node has seen", examples=[12])] = -1,
    wait_s: WaitS = 0.0,
) -> Response:
    """The whole desired residency of a node, once it differs from `generation`; 204 when it has not after `wait_s`.

    404 until the node has sent a heartbeat: an empty answer would make it drop what it holds.
    """
    tokens.check(caller, "node")
    end = time.monotonic() + min(wait_s, MOST_WAIT_S)
    board = running.service.board
    while True:
        event = bell(board, node)
        known = board.nodes.get(node)
        left = end - time.monotonic()
        if (known is not None and known.generation != generation) or wait_s <= 0:
            body = await run_in_threadpool(_as_it_is, running, node)
            return Response(body, media_type="application/json")
        if left <= 0:
            if known is None:
                raise NotFound(f"the node {node[:80]!r}", "it has sent no heartbeat", "start its agent")
            return Response(status_code=204)
        await bell_heard(event, left)


@router.get("/lists/{list_id}", summary="The paths of a file list", responses=MISSING)
async def get_list(list_id: str, running: Here, caller: Caller) -> dict[str, list[str]]:
    """`{"paths": […]}`, sorted."""
    tokens.check(caller, "node")
    if not is_hash(list_id):
        raise NotFound(f"the file list {list_id[:64]!r}", "an id is 64 hex digits")

    def read() -> list[str]:
        with running.service.engine.connect() as connection:
            return desired.read_list(connection, list_id)

    return {"paths": await run_in_threadpool(read)}


def _with_pin(
    report: VersionReport, pins: Mapping[tuple[str, str, str | None], desired.Pin]
) -> VersionReport:
    """What a node reports, with what control knows of its pin."""
    pin = pins.get((report.dataset, report.version, report.list_id))
    if pin is None:
        return report.model_copy(update={"pinned": False}) if report.pinned else report
    return report.model_copy(update={"pinned": True, "pinned_by": pin.by, "pinned_ns": pin.at_ns})


@router.get("/nodes", summary="Every node")
def list_nodes(
    running: Here,
    caller: Caller,
    dataset: Annotated[str | None, Query(description="only versions and mounts of this one")] = None,
    brief: Annotated[bool, Query(description="without versions; `versions_total` counts them")] = False,
) -> list[NodeState]:
    """Role, labels, media, capacity and life of every node, with versions and mounts of the datasets that the token allows."""
    tokens.check(caller, "read")
    service = running.service
    known = heard(service.board)
    now_ns, limit_s = service.now_ns(), service.limits.dead_after_s
    with service.engine.connect() as connection:
        pins, drained = desired.pins(connection), groupstore.drained(connection)

    def shown(name: str) -> bool:
        return dataset in (None, name) and tokens.dataset_allowed(caller, name)

    states = []
    for name in sorted(known):
        state = desired.node_state(known[name], now_ns, limit_s)
        mine = pins.get(name, {})
        versions = tuple(_with_pin(v, mine) for v in state.versions if shown(v.dataset))
        update = {
            "versions": () if brief else versions,
            "versions_total": len(versions),
            "pinned_total": sum(v.pinned for v in versions),
            "draining": name in drained,
            "mounts": tuple(m for m in state.mounts if shown(m.dataset)),
        }
        states.append(state.model_copy(update=update))
    return states


@router.delete("/nodes/{node}", status_code=204, summary="Forget a node", responses=MISSING)
async def forget_node(node: str, running: Here, caller: Caller) -> None:
    """Drop a node that will not come back, and what it should hold."""
    tokens.check(caller, "admin")

    def forget() -> None:
        with writing(running.service.engine) as connection:
            nodestore.forget(connection, node)

    await abreast.ordered(running, forget)
