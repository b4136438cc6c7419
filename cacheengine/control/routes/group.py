"""The cache group: who is in it, for nodes that follow it, and the draining of nodes."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Query
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
        service.group = answer
        service.group_changed.set()
        service.group_changed = asyncio.Event()
    return service.group


@router.get("/group", summary="The cache group")
async def get_group(
    running: Here,
    caller: Caller,
    revision: Annotated[int, Query(description="the one that the node has seen", examples=[7])] = -1,
    wait_s: WaitS = 0.0,
) -> GroupAnswer:
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
            return answer
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
