"""The HTTP service: routes, errors as JSON, and the watch over jobs whose nodes fall silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from cacheengine.answers import body_of, status_of
from cacheengine.control import jobstore, metrics, tables, tokens
from cacheengine.control.bell import Bell
from cacheengine.control.jobs import Limits
from cacheengine.control.routes import health, jobs, nodes, pins
from cacheengine.control.routes import tokens as token_routes
from cacheengine.control.service import Running, Service
from cacheengine.control.settings import ControlSettings
from cacheengine.errors import CacheError, Unauthorised
from lake.errors import Explained, NotFound, Refused
from lake.stores import Store

log = structlog.get_logger("outlap.control")
PRUNE_EVERY_S = 3600.0


def create_app(settings: ControlSettings, lake: Callable[[], Store], idc: str = "") -> FastAPI:
    """The app. `lake` opens the lake of this IDC each time it is needed; `idc`: whose nodes are taken ("": any).

    Raises Refused when the database or the admin token file cannot be used.
    """
    engine = tables.open_database(settings.database_url)
    tokens.admin_token(engine, settings.admin_token_path)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        limits = Limits(settings.dead_after_s, settings.dead_grace_s)
        service = Service(engine, lake, limits, time.time_ns())
        running = Running(settings, idc, service, Bell(), Bell())
        app.state.running = running
        watching = asyncio.create_task(_watch(running))
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            engine.dispose()

    app = FastAPI(title="Outlap control", lifespan=lifespan, docs_url=None, redoc_url=None)
    for router in (health.router, nodes.router, jobs.router, pins.router, token_routes.router):
        app.include_router(router)
    _explain(app)
    return app


def _answer(error: Explained, status: int) -> JSONResponse:
    metrics.errors.labels(type(error).__name__).inc()
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(body_of(error), status_code=status, headers=headers)


def _explain(app: FastAPI) -> None:
    """Every error leaves as `{"kind", "what", "why", "fix"}`."""

    @app.exception_handler(Explained)
    async def explained(request: Request, error: Explained) -> JSONResponse:
        unknown = isinstance(error, Unauthorised) and not hasattr(request.state, "caller")
        status = 401 if unknown else status_of(error)
        if status >= 500:
            log.error("answered an error", path=request.url.path, error=str(error))
        return _answer(error, status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        causes = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()[:10]
        )
        what = f"{request.method} {request.url.path}"
        return _answer(
            Refused(what, causes[:2000], "correct the request: /openapi.json says what is legal"), 422
        )

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        what = f"{request.method} {request.url.path[:200]}"
        kind = NotFound if error.status_code == 404 else Refused
        fix = "/openapi.json says what there is"
        return _answer(kind(what, str(error.detail), fix), error.status_code)

    @app.exception_handler(SQLAlchemyError)
    async def database(request: Request, error: SQLAlchemyError) -> JSONResponse:
        log.error("the database failed", path=request.url.path, error=type(error).__name__)
        cause = f"its database does not answer ({type(error).__name__})"
        return _answer(
            CacheError("the control service", cause, "try again; the log of the service says more"), 503
        )

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("unforeseen error", path=request.url.path, exc_info=error)
        cause = f"it met an error that it did not foresee ({type(error).__name__})"
        return _answer(CacheError("the control service", cause, "the log of the service says more"), 500)


def _look_at_all(service: Service) -> bool:
    """End jobs that have ended without a heartbeat to say so: their nodes died. True when one did."""
    with service.engine.connect() as connection:
        active = jobstore.active_jobs(connection)
    return any([jobstore.look(service, job).ended_ns is not None for job in active])


def _prune(running: Running) -> None:
    before_ns = running.service.now_ns() - int(running.settings.keep_days * 86400 * 1e9)
    with tables.writing(running.service.engine) as connection:
        jobstore.prune(connection, before_ns)


async def _watch(running: Running) -> None:
    """Every `poll_s`. What goes wrong reaches the log, a metric and /healthz, and the next round tries again."""
    pruned = 0.0
    while True:
        try:
            if await run_in_threadpool(_look_at_all, running.service):
                running.reports_changed.ring()
            if time.monotonic() - pruned > PRUNE_EVERY_S:
                await run_in_threadpool(_prune, running)
                pruned = time.monotonic()
            running.watch.problem = None
        except Exception as error:
            running.watch.problem = f"the watch over jobs fails ({type(error).__name__})"
            metrics.background_failures.inc()
            log.error("the watch over jobs failed", exc_info=error)
        await asyncio.sleep(running.settings.poll_s)
