"""Pins: what eviction must leave alone."""

from __future__ import annotations

from fastapi import APIRouter

from cacheengine.control import abreast, orders, tokens
from cacheengine.control.routes.common import ERRORS, MISSING, REFUSED, Caller, Here
from cacheengine.wire import Desired, PinRequest, TokenAnswer

router = APIRouter(prefix="/v1", tags=["pins"], responses={**ERRORS, **MISSING, **REFUSED})


async def _set(request: PinRequest, running: Here, caller: TokenAnswer, pinned: bool) -> list[Desired]:
    tokens.check(caller, "pin", request.dataset)
    changed = await abreast.ordered(
        running, lambda: orders.set_pin(running.service, request, pinned, caller.name)
    )
    return [
        one.model_copy(
            update={"versions": tuple(v for v in one.versions if tokens.dataset_allowed(caller, v.dataset))}
        )
        for one in changed
    ]


@router.post("/pin", summary="Keep a version from eviction")
async def pin(request: PinRequest, running: Here, caller: Caller) -> list[Desired]:
    """Keep a version on the chosen nodes whatever else needs room; the desired residency of each."""
    return await _set(request, running, caller, True)


@router.post("/unpin", summary="Let a version be evicted again")
async def unpin(request: PinRequest, running: Here, caller: Caller) -> list[Desired]:
    """Let eviction have it again when room is needed."""
    return await _set(request, running, caller, False)
