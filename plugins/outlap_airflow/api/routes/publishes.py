"""Publish, and follow or cancel a publish through sync and warm."""

from __future__ import annotations

from typing import Annotated

from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from fastapi import APIRouter, Header, Query
from fastapi import Path as PathParam
from sqlalchemy import select

from outlap_airflow.api import chain, starting
from outlap_airflow.api.access import CANCELS, FOLLOWS, PUBLISH, PUBLISHES, READS
from outlap_airflow.api.cancelling import cancel_publish
from outlap_airflow.api.errors import problems
from outlap_airflow.api.models import (
    DATASET,
    RUN_ID,
    PublishRequest,
    PublishRun,
    PublishRuns,
    PublishStatus,
)

router = APIRouter(prefix="/api/v1/publish", tags=["publish"])
RunId = Annotated[str, PathParam(pattern=RUN_ID, examples=["api__night-17"])]
Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=255, description="Like request_id, any text."),
]


@router.post("", status_code=202, responses=problems(400, 404, 409, 413), dependencies=PUBLISHES)
def publish(asked: PublishRequest, user: GetUserDep, idempotency_key: Key = None) -> PublishRun:
    """Start publishing. The answer names the run to ask for; the same id and the same body again are the same run."""
    run_id = starting.run_id_of(asked.request_id, idempotency_key)
    starting.start(run_id, starting.conf_of(asked), user.get_name())
    known = chain.read_chain(run_id)
    return chain.head_of(known.publish, known.made)


@router.get("", responses=problems(), dependencies=READS)
def list_publishes(
    dataset: Annotated[str | None, Query(pattern=DATASET, examples=["front"])] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> PublishRuns:
    """The newest publishes, of the last thousand runs."""
    with create_session() as session:
        query = select(DagRun).where(DagRun.dag_id == PUBLISH).order_by(DagRun.id.desc()).limit(1000)
        found = [run for run in session.scalars(query) if dataset in (None, (run.conf or {}).get("dataset"))][
            :limit
        ]
        made = chain.returned(session, [run.run_id for run in found])
        runs = [chain.plain_run(run) for run in found]
    return PublishRuns(runs=[chain.head_of(run, made.get(run.id, {})) for run in runs])


@router.get("/{run_id}", responses=problems(404), dependencies=FOLLOWS)
def published(run_id: RunId) -> PublishStatus:
    """How far a publish is: published, synced to each IDC, warm there; with progress and ETA."""
    return chain.describe(run_id)


@router.post("/{run_id}/cancel", responses=problems(404), dependencies=CANCELS)
def cancel(run_id: RunId, user: GetUserDep) -> PublishStatus:
    """End a publish, its syncs and its warm jobs. What has ended stays: a version is never taken back."""
    cancel_publish(run_id, user)
    return chain.describe(run_id)
