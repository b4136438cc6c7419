"""Every error leaves as `{"kind", "what", "why", "fix"}`: no traceback, and of what nobody foresaw not even its text."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as PlainHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cacheengine.answers import body_of, status_of
from lake.errors import Explained, Refused

log = logging.getLogger(__name__)
_SEE = "see /outlap/openapi.json"
_KINDS = {
    401: "Unauthenticated",
    403: "Unauthorised",
    404: "NotFound",
    405: "Refused",
    413: "Refused",
    422: "Refused",
}
_FIX = {
    401: "send `Authorization: Bearer` with a token of /auth/token",
    403: "ask for the role, or send a token that is valid",
}


class Problem(BaseModel):
    """kind: the family of the error; what failed; why; fix: the next step."""

    kind: str = Field(examples=["NotFound"])
    what: str = Field(examples=["the dataset 'fron'"])
    why: str = Field(examples=["store lake-a of idc-a has: front"])
    fix: str = Field(
        examples=["check the name, publish it (`outlap publish`), or sync it here (`outlap sync`)"]
    )


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: these statuses and those that every route may give."""
    return {status: {"model": Problem} for status in sorted({401, 403, 422, 500, 503, *statuses})}


def answer(kind: str, what: str, why: str, fix: str, status: int, headers: Any = None) -> JSONResponse:
    return JSONResponse({"kind": kind, "what": what, "why": why, "fix": fix}, status, headers=headers)


def explain(app: FastAPI) -> None:
    """Let the app answer every error in our form."""

    @app.exception_handler(Explained)
    async def explained(request: Request, error: Explained) -> JSONResponse:
        status = 422 if isinstance(error, Refused) else status_of(error)
        if status >= 500:
            log.error("%s %s: %s", request.method, request.url.path, error)
        return JSONResponse(body_of(error), status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # never the values: one of them may be a secret that someone put in the wrong place
        causes = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()[:10]
        )
        return answer("Refused", f"{request.method} {request.url.path[:200]}", causes[:2000], _SEE, 422)

    @app.exception_handler(PlainHTTPException)
    async def plain(request: Request, error: PlainHTTPException) -> JSONResponse:
        status = error.status_code
        what, kind = f"{request.method} {request.url.path[:200]}", _KINDS.get(status, "Refused")
        headers = dict(error.headers or {})
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return answer(kind, what, str(error.detail)[:500], _FIX.get(status, _SEE), status, headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("unforeseen error at %s %s", request.method, request.url.path, exc_info=error)
        why = f"an error that was not foreseen ({type(error).__name__})"
        what = f"{request.method} {request.url.path[:200]}"
        return answer("Error", what, why, "the log of the API server says more", 500)


def once(app: ASGIApp) -> ASGIApp:
    """`app`, with each query parameter at most once: which of two was meant cannot be known."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        query = scope.get("query_string", b"").decode("latin-1")
        names = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
        if len(names) == len(set(names)):
            await app(scope, receive, send)
            return
        request = Request(scope)
        what, why = f"{request.method} {request.url.path[:200]}", "a query parameter stands there twice"
        await answer("Refused", what, why, "send each once", 422)(scope, receive, send)

    return wrapped


def bounded(app: ASGIApp, most_bytes: int) -> ASGIApp:
    """`app`, with request bodies of at most `most_bytes`: they are refused before they fill memory."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most_bytes:
                raise HTTPException(413, f"it has more than {most_bytes:,} bytes")
            return message

        await app(scope, counted, send)

    return wrapped
