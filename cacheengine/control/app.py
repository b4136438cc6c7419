"""The HTTP service: routes, and errors as JSON."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version as installed

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from cacheengine.answers import body_of, status_of
from cacheengine.control import abreast, metrics, tables, tokens, watch
from cacheengine.control.board import Board
from cacheengine.control.routes import group, health, jobs, nodes, pins
from cacheengine.control.routes import settings as settings_routes
from cacheengine.control.routes import tokens as token_routes
from cacheengine.control.service import Running, Service
from cacheengine.control.settings import ControlSettings
from cacheengine.errors import CacheError, Unauthorised
from lake.errors import Explained, NotFound, Refused
from lake.stores import Store

log = structlog.get_logger("outlap.control")


def create_app(settings: ControlSettings, lake: Callable[[], Store], idc: str = "") -> FastAPI:
    """The app. `lake` opens the lake of this IDC each time it is needed; `idc`: whose nodes are taken ("": any).

    Raises Refused when the database or the admin token file cannot be used.
    """
    engine = tables.open_database(settings.database_url)
    tokens.admin_token(engine, settings.admin_token_path)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = Service(engine, lake, Board(time.time_ns()), settings.defaults())
        running = Running(settings, idc, service)
        app.state.running = running
        await abreast.refresh(running)
        async with watch.watching(running):
            yield
        engine.dispose()

    app = FastAPI(
        title="Outlap control",
        summary="Nodes of one IDC's cache group, what each should hold, and the jobs that change it.",
        version=installed("outlap"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    for module in (health, nodes, group, jobs, pins, token_routes, settings_routes):
        app.include_router(module.router)
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
