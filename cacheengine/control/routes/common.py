"""What all routes share: who asks, and the running service."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request

from cacheengine.control import tokens
from cacheengine.control.service import Running
from cacheengine.wire import TokenAnswer

MOST_WAIT_S = 60.0
WaitS = Annotated[float, Query(ge=0, description=f"seconds to wait, at most {MOST_WAIT_S:.0f}")]


def _running(request: Request) -> Running:
    running: Running = request.app.state.running
    return running


def _caller(request: Request, running: Annotated[Running, Depends(_running)]) -> TokenAnswer:
    address = request.client.host if request.client else None
    with running.service.engine.connect() as connection:
        scope = tokens.identify(connection, request.headers.get("authorization"), address)
    request.state.caller = scope.name  # from here on a refusal is 403: we know who asks
    return scope


Here = Annotated[Running, Depends(_running)]
Caller = Annotated[TokenAnswer, Depends(_caller)]
