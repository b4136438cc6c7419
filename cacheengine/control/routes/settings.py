"""Settings of the group: what holds, who changed it, what a change touches; and what each link may carry."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool

from cacheengine.control import abreast, links, settingstore, tokens
from cacheengine.control.routes.common import ERRORS, MISSING, REFUSED, Caller, Here
from cacheengine.wire import LinkBudget, RevertRequest, Setting, SettingChange, SettingRequest, TokenAnswer
from lake.names import check_part

router = APIRouter(prefix="/v1", tags=["settings"], responses={**ERRORS, **REFUSED})


def _may_change(caller: TokenAnswer, key: str) -> None:
    """The policy of a dataset is for whoever may free it; the rest is the admin's."""
    if key.startswith("free."):
        tokens.check(caller, "free", key.removeprefix("free."))
    else:
        tokens.check(caller, "admin")


@router.get("/config", summary="Every setting")
def show(running: Here, caller: Caller) -> list[Setting]:
    """What holds now, and what is a default."""
    tokens.check(caller, "read")
    return settingstore.shown(running.service)


@router.post("/config", summary="Change a setting")
async def change(request: SettingRequest, running: Here, caller: Caller) -> SettingChange:
    """Set a key, or with `dry_run` only say which nodes and jobs that would touch. Every change is kept."""
    _may_change(caller, request.key)
    return await abreast.ordered(
        running,
        lambda: settingstore.change(
            running.service, request.key, request.value, caller.name, request.dry_run
        ),
    )


@router.get("/config/history", summary="Who changed what")
def history(
    running: Here,
    caller: Caller,
    key: Annotated[str | None, Query(examples=["bandwidth_bps"])] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[SettingChange]:
    """Newest first."""
    tokens.check(caller, "read")
    with running.service.engine.connect() as connection:
        return settingstore.history(connection, key, limit)


@router.post("/config/revert", summary="Undo a change", responses=MISSING)
async def revert(request: RevertRequest, running: Here, caller: Caller) -> SettingChange:
    """The key of this change becomes what it was before it."""
    key = await run_in_threadpool(settingstore.key_of, running.service, request.number)
    _may_change(caller, key)
    return await abreast.ordered(
        running,
        lambda: settingstore.revert(running.service, request.number, caller.name, request.dry_run),
    )


@router.get("/links/{source}/{target}/budget", summary="What a sync may send")
async def budget(
    source: str,
    target: str,
    running: Here,
    caller: Caller,
    sync: Annotated[str, Query(max_length=128, description="names the sync that asks")] = "",
) -> LinkBudget:
    """This sync's share of the link's budget in this hour. Ask again before `valid_s` are over, or others get it."""
    tokens.check(caller, "read")
    check_part("the IDC", source), check_part("the IDC", target)
    return await run_in_threadpool(links.budget, running.service, source, target, sync)
