"""Tokens: made, listed and deleted by who has the verb admin."""

from __future__ import annotations

from fastapi import APIRouter

from cacheengine.control import tokens
from cacheengine.control.routes.common import Caller, Here
from cacheengine.control.tables import writing
from cacheengine.wire import TokenAnswer, TokenRequest

router = APIRouter(prefix="/v1", tags=["tokens"])


@router.post("/tokens")
def create(request: TokenRequest, running: Here, caller: Caller) -> TokenAnswer:
    """A new token; the answer shows it this once."""
    tokens.check(caller, "admin")
    with writing(running.service.engine) as connection:
        return tokens.create(connection, request)


@router.get("/tokens")
def list_all(running: Here, caller: Caller) -> list[TokenAnswer]:
    """Every token's scope."""
    tokens.check(caller, "admin")
    with running.service.engine.connect() as connection:
        return tokens.list_tokens(connection)


@router.delete("/tokens/{name}", status_code=204)
def delete(name: str, running: Here, caller: Caller) -> None:
    """Whoever uses it is refused from now on."""
    tokens.check(caller, "admin")
    with writing(running.service.engine) as connection:
        tokens.remove(connection, name)
