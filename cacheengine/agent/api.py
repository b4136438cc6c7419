"""The agent's HTTP: a thin skin over mounts and state. /healthz and /metrics are open, /v1 needs a token."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Annotated

import structlog
from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from cacheengine import metrics
from cacheengine.agent import mounts, trace
from cacheengine.agent.state import Node
from cacheengine.answers import body_of, status_of
from cacheengine.errors import Unauthorised
from cacheengine.packs import packcache
from cacheengine.wire import (
    MountAnswer,
    MountReport,
    MountRequest,
    Trace,
    TraceRequest,
    UmountAnswer,
    UmountRequest,
    VersionReport,
)
from lake.errors import Explained, Refused

log = structlog.get_logger()


def make_app(node: Node, tokens: Collection[str]) -> FastAPI:  # noqa: C901 (one small function a route)
    """tokens: any of them opens /v1; none at all: everyone may (the caller sees to it that only this machine is served)."""
    app = FastAPI(title="Outlap node agent", docs_url=None, redoc_url=None)

    def authorised(authorization: Annotated[str, Header()] = "") -> None:
        shown = authorization.removeprefix("Bearer ").encode()
        if tokens and not any([secrets.compare_digest(shown, token.encode()) for token in tokens]):
            raise Unauthorised(
                "this agent", "no token, or a wrong one", "give the token that its settings name"
            )

    @app.exception_handler(Explained)
    def explained(request: Request, error: Explained) -> JSONResponse:
        log.warning("refused", path=request.url.path, error=str(error), kind=type(error).__name__)
        return JSONResponse(body_of(error), status_of(error))

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        causes = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        refused = Refused(
            f"{request.method} {request.url.path}", causes, "see the messages in cacheengine.wire"
        )
        return JSONResponse(body_of(refused), 422)

    @app.get("/healthz")
    def healthz() -> JSONResponse:
        """200 while the agent works; `problems` names parts that fail just now (control away, a store down)."""
        with node.lock:
            problems = dict(node.last_errors)
        return JSONResponse(
            {"ok": True, "node": node.config.name, "idc": node.config.idc, "problems": problems}
        )

    @app.get("/metrics")
    def scrape() -> Response:
        for directory in node.cache.dirs:
            packcache.report(directory)
        return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/residency", dependencies=[Depends(authorised)])
    def residency() -> list[VersionReport]:
        with node.lock:
            return [status.report() for status in node.statuses.values()]

    @app.get("/v1/mounts", dependencies=[Depends(authorised)])
    def list_mounts() -> list[MountReport]:
        with node.lock:
            return [record.report for record in node.mounts.values()]

    @app.post("/v1/mounts", dependencies=[Depends(authorised)])
    def mount(request: MountRequest) -> MountAnswer:
        return mounts.mount(node, request)

    @app.delete("/v1/mounts", dependencies=[Depends(authorised)])
    def umount(request: UmountRequest) -> UmountAnswer:
        return mounts.umount(node, request.target)

    @app.post("/v1/trace", dependencies=[Depends(authorised)])
    def trace_file(request: TraceRequest) -> Trace:
        return trace.trace(node, request.path)

    return app
