"""Warm, free, estimate, and the jobs they make."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool

from cacheengine.control import jobstore, orders, tokens
from cacheengine.control.bell import heard as bell_heard
from cacheengine.control.jobs import ENDED
from cacheengine.control.routes.common import MOST_WAIT_S, Caller, Here, WaitS
from cacheengine.wire import Estimate, FreeRequest, Job, WarmRequest

router = APIRouter(prefix="/v1", tags=["jobs"])


@router.post("/warm")
def warm(request: WarmRequest, running: Here, caller: Caller) -> Job:
    """Make a version, or some of its files, resident on the chosen nodes."""
    tokens.check(caller, "warm", request.dataset)
    if request.pin:
        tokens.check(caller, "pin", request.dataset)
    job = orders.warm(running.service, request)
    running.desired_changed.ring()
    return job


@router.post("/free")
def free(request: FreeRequest, running: Here, caller: Caller) -> Job:
    """Release a version, or some of its files, on the chosen nodes."""
    tokens.check(caller, "free", request.dataset)
    job = orders.free(running.service, request)
    running.desired_changed.ring()
    return job


@router.post("/estimate")
def estimate(request: WarmRequest, running: Here, caller: Caller) -> Estimate:
    """What a warm would cost, without starting it."""
    tokens.check(caller, "read", request.dataset)
    return orders.estimate_warm(running.service, request)


@router.get("/jobs/{job_id}")
async def get_job(job_id: str, running: Here, caller: Caller, wait_s: WaitS = 0.0) -> Job:
    """A job: as soon as it has ended, or as it is after `wait_s`."""
    end = time.monotonic() + min(wait_s, MOST_WAIT_S)
    while True:
        event = running.reports_changed.listen()
        job = await run_in_threadpool(jobstore.look, running.service, job_id)
        tokens.check(caller, "read", job.dataset)
        left = end - time.monotonic()
        if job.state in ENDED or left <= 0:
            return job
        await bell_heard(event, min(left, running.settings.poll_s))


@router.get("/jobs")
def list_jobs(running: Here, caller: Caller, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[Job]:
    """The newest jobs, of datasets that the token allows."""
    tokens.check(caller, "read")
    with running.service.engine.connect() as connection:
        found = jobstore.newest(connection, limit)
    return [
        jobstore.look(running.service, job)
        for job, dataset in found
        if tokens.dataset_allowed(caller, dataset)
    ]
