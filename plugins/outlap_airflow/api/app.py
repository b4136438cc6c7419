"""The app that the plugin mounts at /outlap of Airflow's API server: publishing is a run of the DAG publish_dataset.

A mounted app inherits no authorisation, so every router names its own (outlap_airflow.api.access), the OpenAPI description
included. Documentation pages are left out: they could not send a token.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from outlap_airflow.api.access import DESCRIBES
from outlap_airflow.api.errors import bounded, explain, once, problems
from outlap_airflow.api.models import DiffLine
from outlap_airflow.api.routes import datasets, publishes, runs

MOST_BODY_BYTES = 8 << 20


def create_app() -> FastAPI:
    """The app."""
    app = FastAPI(
        title="Outlap",
        version="1",
        description=(
            "Publish datasets and follow them until they are warm. Authorise as for Airflow's own API: "
            "`Authorization: Bearer` with a token of /auth/token. Errors are {kind, what, why, fix}."
        ),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(bounded, most_bytes=MOST_BODY_BYTES)
    app.add_middleware(once)
    explain(app)
    app.include_router(publishes.router)
    app.include_router(datasets.router)
    app.include_router(runs.router)

    @app.get("/openapi.json", include_in_schema=False, dependencies=DESCRIBES, responses=problems())
    def openapi(request: Request) -> JSONResponse:
        return JSONResponse(describe(app, str(request.scope.get("root_path", "")) or "/outlap"))

    return app


def describe(app: FastAPI, base: str) -> dict[str, Any]:
    """The OpenAPI description, served below `base`, with the lines of a diff."""
    found = {**app.openapi(), "servers": [{"url": base}]}
    schemas = {**found["components"]["schemas"], "DiffLine": DiffLine.model_json_schema()}
    return {**found, "components": {**found["components"], "schemas": schemas}}
