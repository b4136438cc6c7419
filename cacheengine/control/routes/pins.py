"""Pins: what eviction must leave alone."""

from __future__ import annotations

from fastapi import APIRouter

from cacheengine.control import orders, tokens
from cacheengine.control.routes.common import Caller, Here
from cacheengine.wire import Desired, PinRequest, TokenAnswer

router = APIRouter(prefix="/v1", tags=["pins"])


def _set(request: PinRequest, running: Here, caller: TokenAnswer, pinned: bool) -> list[Desired]:
    tokens.check(caller, "pin", request.dataset)
    changed = orders.set_pin(running.service, request, pinned)
    running.desired_changed.ring()
    return [
        one.model_copy(
            update={"versions": tuple(v for v in one.versions if tokens.dataset_allowed(caller, v.dataset))}
        )
        for one in changed
    ]


@router.post("/pin")
def pin(request: PinRequest, running: Here, caller: Caller) -> list[Desired]:
    """Keep a version on the chosen nodes whatever else needs room; the desired residency of each."""
    return _set(request, running, caller, True)


@router.post("/unpin")
def unpin(request: PinRequest, running: Here, caller: Caller) -> list[Desired]:
    """Let eviction have it again when room is needed."""
    return _set(request, running, caller, False)
