"""Warm, free, estimate, and the jobs they make."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool

from cacheengine.control import abreast, activejobs, jobstore, orders, tokens
from cacheengine.control.bell import heard as bell_heard
from cacheengine.control.jobs import ENDED
from cacheengine.control.routes import group
from cacheengine.control.routes.common import (
    CONFLICT,
    ERRORS,
    MISSING,
    MOST_WAIT_S,
    REFUSED,
    Caller,
    Here,
    WaitS,
)
from cacheengine.control.service import Running
from cacheengine.wire import Estimate, FreeRequest, Job, TokenAnswer, WarmRequest

router = APIRouter(prefix="/v1", tags=["jobs"], responses=ERRORS)
_ORDER = {**MISSING, **REFUSED, **CONFLICT}


@router.post("/warm", summary="Warm a version", responses=_ORDER)
async def warm(request: WarmRequest, running: Here, caller: Caller) -> Job:
    """Make a version, or some of its files, resident on the chosen nodes. The same `request_id` is the same job."""
    tokens.check(caller, "warm", request.dataset)
    if request.pin:
        tokens.check(caller, "pin", request.dataset)
    await group.refresh(running)  # nodes look at it as they begin: who joined a moment ago is in it
    return await abreast.ordered(running, lambda: orders.warm(running.service, request, caller.name))


@router.post("/free", summary="Free a version", responses=_ORDER)
async def free(request: FreeRequest, running: Here, caller: Caller) -> Job:
    """Release a version, or some of its files, on the chosen nodes. 409 where it is pinned, unless `force` is set."""
    tokens.check(caller, "free", request.dataset)
    if request.force:  # it takes pins away
        tokens.check(caller, "pin", request.dataset)
    return await abreast.ordered(running, lambda: orders.free(running.service, request))


@router.post("/estimate", summary="What a warm would cost", responses={**MISSING, **REFUSED})
async def estimate(request: WarmRequest, running: Here, caller: Caller) -> Estimate:
    """Files, bytes, seconds with their spread, and what would be evicted, without starting it."""
    tokens.check(caller, "read", request.dataset)
    await abreast.refresh(running)
    return await run_in_threadpool(orders.estimate_warm, running.service, request)


@router.get("/jobs/{job_id}", summary="A job", responses=MISSING)
async def get_job(job_id: str, running: Here, caller: Caller, wait_s: WaitS = 0.0) -> Job:
    """A job: as soon as it has ended, or as it is after `wait_s`."""
    end = time.monotonic() + min(wait_s, MOST_WAIT_S)
    event = activejobs.bell(running.service.active, job_id)
    job = await _looked_at(running, caller, job_id)
    if job.state in ENDED or wait_s <= 0:
        return job
    await bell_heard(event, end - time.monotonic())
    return await _looked_at(running, caller, job_id)


async def _looked_at(running: Running, caller: TokenAnswer, job_id: str) -> Job:
    job = await run_in_threadpool(jobstore.look, running.service, job_id)
    tokens.check(caller, "read", job.dataset)
    if job.state in ENDED and job_id in running.service.active.jobs:
        await abreast.refresh(running)
    return job


@router.get("/jobs", summary="The newest jobs")
def list_jobs(
    running: Here,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    brief: Annotated[bool, Query(description="without what each node says")] = False,
) -> list[Job]:
    """Newest first, of datasets that the token allows."""
    tokens.check(caller, "read")
    with running.service.engine.connect() as connection:
        found = jobstore.newest(connection, limit)
    jobs = [
        jobstore.look(running.service, job)
        for job, dataset in found
        if tokens.dataset_allowed(caller, dataset)
    ]
    return [job.model_copy(update={"nodes": (), "failures": ()}) for job in jobs] if brief else jobs


@router.post("/jobs/{job_id}/cancel", summary="Cancel a warm", responses={**MISSING, **CONFLICT})
async def cancel(job_id: str, running: Here, caller: Caller) -> Job:
    """End a warm. What only it asked for is fetched no further; what is there stays until a node needs the room."""
    job = await run_in_threadpool(jobstore.look, running.service, job_id)
    tokens.check(caller, job.kind, job.dataset)
    return await abreast.ordered(running, lambda: orders.cancel(running.service, job_id, caller.name))


@router.post("/jobs/{job_id}/resume", summary="Go on with a warm", responses=_ORDER)
async def resume(job_id: str, running: Here, caller: Caller) -> Job:
    """A new job that goes on where a failed or cancelled warm was."""
    job = await run_in_threadpool(jobstore.look, running.service, job_id)
    tokens.check(caller, job.kind, job.dataset)
    request = await run_in_threadpool(orders.request_again, running.service, job_id)
    if request.pin:
        tokens.check(caller, "pin", request.dataset)
    return await abreast.ordered(running, lambda: orders.warm(running.service, request, caller.name))
