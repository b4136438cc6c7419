"""What all routes share: who asks, and the running service."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Request, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from cacheengine.control import tokens
from cacheengine.control.service import Running, Service
from cacheengine.wire import TokenAnswer

MOST_WAIT_S = 60.0
MOST_SCOPES = 10_000
WaitS = Annotated[float, Query(ge=0, description=f"seconds to wait, at most {MOST_WAIT_S:.0f}")]

_BEARER = HTTPBearer(auto_error=False, description="A token of `POST /v1/tokens`, or the admin token.")


class Problem(BaseModel):
    """How every error is answered: its kind, the thing, the cause and the next step."""

    kind: str
    what: str
    why: str
    fix: str


ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No token, or one that is not known."},
    403: {"model": Problem, "description": "The token does not allow this verb, dataset or address."},
    422: {"model": Problem, "description": "The request is not of this form."},
    503: {"model": Problem, "description": "The database or the store does not answer; try again."},
}
MISSING: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "What is named is not there."},
}
REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The request cannot be granted: a bad name, selector or value."},
}
CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "It stands against something that is so already."},
}


async def _running(request: Request) -> Running:
    running: Running = request.app.state.running
    return running


def _identify(service: Service, header: str) -> TokenAnswer:
    with service.engine.connect() as connection:
        return tokens.identify(connection, header)


async def _caller(
    request: Request,
    running: Annotated[Running, Depends(_running)],
    _shown_in_openapi: Annotated[Any, Security(_BEARER)] = None,
) -> TokenAnswer:
    header = request.headers.get("authorization") or ""
    service, key = running.service, tokens.hash_token(header)
    scope = service.scopes.get(key)
    if scope is None:
        before = service.board.revisions.get("tokens")
        scope = await run_in_threadpool(_identify, service, header)
        # else it may have been deleted while we looked
        if before == service.board.revisions.get("tokens") and len(service.scopes) < MOST_SCOPES:
            service.scopes[key] = scope
    tokens.check_address(scope, request.client.host if request.client else None)
    request.state.caller = scope.name  # from here on a refusal is 403: we know who asks
    return scope


Here = Annotated[Running, Depends(_running)]
Caller = Annotated[TokenAnswer, Depends(_caller)]
