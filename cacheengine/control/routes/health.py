"""Health and metrics: open to whoever reaches the port, and nothing there names a dataset or a node."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from cacheengine.control import metrics, tables
from cacheengine.control.board import heard as heard_now
from cacheengine.control.routes.common import Here

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether all is well", responses={503: {"description": "It is not."}})
def healthz(running: Here) -> JSONResponse:
    """200 when the database answers and the background loops run, else 503 with the cause."""
    problem = "; ".join(running.watch.problems.values()) or None
    try:
        with running.service.engine.connect() as connection:
            connection.execute(select(tables.changes.c.topic)).first()
    except SQLAlchemyError as error:
        problem = f"the database does not answer ({type(error).__name__})"
    body = {"status": "failing" if problem else "ok", "idc": running.idc, "problem": problem}
    return JSONResponse(body, status_code=503 if problem else 200)


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
def show_metrics(running: Here) -> Response:
    """All metrics of cacheengine.control.metrics, in the text format of Prometheus."""
    service = running.service
    heard = heard_now(service.board)
    limit_s = service.limits.dead_after_s
    alive = sum((service.now_ns() - h.seen_ns) / 1e9 <= limit_s for h in heard.values())
    metrics.nodes.labels("alive").set(alive)
    metrics.nodes.labels("dead").set(len(heard) - alive)
    metrics.jobs_active.set(len(service.active.jobs))
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)
