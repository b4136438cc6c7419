"""The publish API, mounted at /outlap of Airflow's API server: publishing is a run of the DAG publish_dataset.

A mounted app inherits no authorisation, so every route here, the OpenAPI description included, asks the host's auth
manager. Documentation pages are left out: they could not send a token.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from airflow.api.common.trigger_dag import trigger_dag
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_access_view
from airflow.exceptions import DagNotFound, DagRunAlreadyExists, ParamValidationError
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from fastapi import Depends, FastAPI, Request
from fastapi import Path as PathParam
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from lake.errors import Conflict, Explained, NotFound, Refused
from lake.names import check_dataset, check_tag
from outlap_airflow.settings import DEFAULT_QUERY

DAG_ID = "publish_dataset"
RUN_ID = r"^[A-Za-z0-9_.~:+-]{1,200}$"
_STATUS: tuple[tuple[type[Explained], int], ...] = ((NotFound, 404), (Conflict, 409), (Refused, 422))


class PublishRequest(BaseModel):
    """`request_id`: the same id twice is the same run, so a caller may try again."""

    model_config = ConfigDict(extra="forbid")
    dataset: str
    query: str = Field(DEFAULT_QUERY, min_length=1, max_length=100_000)
    tag: str | None = None
    request_id: str | None = Field(None, pattern=r"^[A-Za-z0-9_.~-]{1,100}$")


class PublishRun(BaseModel):
    """state: of the run (queued, running, success, failed). The fields after it are filled once the version is published."""

    run_id: str
    dataset: str
    state: str
    tag: str | None = None
    version: str | None = None
    files: int | None = None
    bytes: int | None = None
    is_new: bool | None = None


class Problem(BaseModel):
    what: str
    why: str
    fix: str


def _trigger(asked: PublishRequest, user_name: str) -> PublishRun:
    check_dataset(asked.dataset)
    if asked.tag is not None:
        check_tag(asked.tag)
    conf = {"dataset": asked.dataset, "query": asked.query, "tag": asked.tag}
    run_id = f"api__{asked.request_id or uuid.uuid4()}"
    with create_session() as session:
        dag = session.scalar(select(DagModel).where(DagModel.dag_id == DAG_ID, ~DagModel.is_stale))
        if dag is None:
            raise NotFound(
                f"the DAG {DAG_ID}", "Airflow has not read it yet, or no more", "see the DAG folder"
            )
        if dag.is_paused:
            raise Conflict(f"the DAG {DAG_ID}", "it is paused, so the run would wait", "unpause it")
    try:
        run = trigger_dag(
            DAG_ID,
            triggered_by=DagRunTriggeredByType.REST_API,
            triggering_user_name=user_name,
            run_id=run_id,
            conf=conf,
        )
    except DagRunAlreadyExists:
        return _again(run_id, conf)
    except DagNotFound as error:
        raise NotFound(f"the DAG {DAG_ID}", str(error), "see the DAG folder") from error
    except (ParamValidationError, ValueError) as error:
        raise Refused("the request", str(error), "correct it") from error
    return PublishRun(run_id=run_id, dataset=asked.dataset, state=str(run.state if run else "queued"))


def _again(run_id: str, conf: dict[str, Any]) -> PublishRun:
    """The run that the same request started before. Raises Conflict when that asked for something else."""
    known = DagRun.find(dag_id=DAG_ID, run_id=run_id)
    if not known or known[0].conf != conf:
        raise Conflict(f"the request id of {run_id}", "another request used it", "choose another")
    return _describe(run_id)


def _describe(run_id: str) -> PublishRun:
    with create_session() as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == DAG_ID, DagRun.run_id == run_id))
        if run is None:
            raise NotFound(f"the publish {run_id!r}", "there is no such run", "use the run_id that POST gave")
        query = XComModel.get_many(run_id=run_id, dag_ids=DAG_ID, task_ids="publish", key="return_value")
        row = session.scalars(query.limit(1)).first()
        published = XComModel.deserialize_value(row) if row is not None else {}
        conf = run.conf or {}
        shown = {name: published.get(name) for name in ("tag", "version", "files", "bytes", "is_new")}
        dataset = published.get("dataset") or conf.get("dataset") or ""
        return PublishRun(run_id=run_id, dataset=dataset, state=str(run.state), **shown)


def _explained(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Explained)
    status = next((code for family, code in _STATUS if isinstance(error, family)), 500)
    return JSONResponse({"what": error.what, "why": error.why, "fix": error.fix}, status)


def create_app() -> FastAPI:
    """The app that the plugin mounts."""
    app = FastAPI(
        title="Outlap",
        version="1",
        description="Publish datasets. Authorise as for Airflow's own API: `Authorization: Bearer` with a token of /auth/token.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(Explained, _explained)
    problems: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (404, 409)}

    @app.post(
        "/api/v1/publish",
        status_code=202,
        responses=problems,
        dependencies=[Depends(requires_access_dag("POST", DagAccessEntity.RUN, DAG_ID))],
    )
    def publish(asked: PublishRequest, user: GetUserDep) -> PublishRun:
        """Start publishing what a query selects; the answer names the run to ask for."""
        return _trigger(asked, user.get_name())

    @app.get(
        "/api/v1/publish/{run_id}",
        responses=problems,
        dependencies=[
            Depends(requires_access_dag("GET", DagAccessEntity.RUN, DAG_ID)),
            Depends(requires_access_dag("GET", DagAccessEntity.XCOM, DAG_ID)),
        ],
    )
    def published(run_id: Annotated[str, PathParam(pattern=RUN_ID)]) -> PublishRun:
        """How far a publish is, and what it published."""
        return _describe(run_id)

    @app.get(
        "/openapi.json",
        include_in_schema=False,
        dependencies=[Depends(requires_access_view(AccessView.DOCS))],
    )
    def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    return app
