"""The cache group: who is in it, for nodes that follow it, and the draining of nodes."""

from __future__ import annotations

import asyncio
import gzip
import time
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from cacheengine.control import groupstore, tokens
from cacheengine.control.bell import heard as bell_heard
from cacheengine.control.routes.common import ERRORS, MISSING, MOST_WAIT_S, Caller, Here, WaitS
from cacheengine.control.service import Running
from cacheengine.wire import Group, GroupAnswer

router = APIRouter(prefix="/v1", tags=["group"], responses=ERRORS)


async def refresh(running: Running) -> GroupAnswer:
    """Look at the group, and let who waits for another one hear of it."""
    service = running.service
    answer = await run_in_threadpool(groupstore.look, service)
    if service.group is None or answer.group.revision > service.group.group.revision:
        bodies = await run_in_threadpool(_bodies, answer)
        service.group, service.group_bodies = answer, bodies
        service.group_changed.set()
        service.group_changed = asyncio.Event()
    return service.group


def _bodies(answer: GroupAnswer) -> dict[str, bytes]:
    """The answer as it is sent, by encoding: made once, because every node asks for it at once."""
    plain = answer.model_dump_json().encode()
    return {"": plain, "gzip": gzip.compress(plain, 1)}


@router.get("/group", summary="The cache group", response_model=GroupAnswer)
async def get_group(
    request: Request,
    running: Here,
    caller: Caller,
    revision: Annotated[int, Query(description="the one that the node has seen", examples=[7])] = -1,
    wait_s: WaitS = 0.0,
) -> Response:
    """Members, their shares' weights and what they hold, once it differs from `revision`, or as it is after `wait_s`.

    The answer holds the secret that members show each other.
    """
    tokens.check(caller, "node")
    end = time.monotonic() + min(wait_s, MOST_WAIT_S)
    while True:
        event, answer = running.service.group_changed, running.service.group
        if answer is None:
            answer = await refresh(running)
        left = end - time.monotonic()
        if answer.group.revision != revision or left <= 0:
            encoding = "gzip" if "gzip" in request.headers.get("accept-encoding", "") else ""
            headers = {"Content-Encoding": encoding} if encoding else {}
            body = running.service.group_bodies[encoding]
            return Response(body, media_type="application/json", headers=headers)
        await bell_heard(event, left)


@router.get("/members", summary="Who is in the cache group")
async def get_members(running: Here, caller: Caller) -> Group:
    """The cache group as it is, without the secret: who has shares, who is being drained, and whether shares are settled."""
    tokens.check(caller, "read")
    return (await refresh(running)).group


@router.post("/nodes/{node}/drain", status_code=204, summary="Drain a node", responses=MISSING)
async def drain(node: str, running: Here, caller: Caller) -> None:
    """Let a node hand over its shares of spread versions. It serves them until others hold them."""
    tokens.check(caller, "admin")
    await run_in_threadpool(groupstore.set_drained, running.service, node, True)
    await refresh(running)


@router.delete(
    "/nodes/{node}/drain", status_code=204, summary="End the draining of a node", responses=MISSING
)
async def undrain(node: str, running: Here, caller: Caller) -> None:
    """Let a node have shares again."""
    tokens.check(caller, "admin")
    await run_in_threadpool(groupstore.set_drained, running.service, node, False)
    await refresh(running)
