"""Tokens: made, listed and deleted by who has the verb admin."""

from __future__ import annotations

from fastapi import APIRouter

from cacheengine.control import abreast, tokens
from cacheengine.control.routes.common import CONFLICT, ERRORS, MISSING, REFUSED, Caller, Here
from cacheengine.control.tables import writing
from cacheengine.wire import TokenAnswer, TokenRequest

router = APIRouter(prefix="/v1", tags=["tokens"], responses=ERRORS)


@router.post("/tokens", summary="Make a token", responses={**REFUSED, **CONFLICT})
async def create(request: TokenRequest, running: Here, caller: Caller) -> TokenAnswer:
    """A new token; the answer shows it this once."""
    tokens.check(caller, "admin")

    def make() -> TokenAnswer:
        with writing(running.service.engine) as connection:
            return tokens.create(connection, request)

    return await abreast.ordered(running, make)


@router.get("/tokens", summary="All tokens")
def list_all(running: Here, caller: Caller) -> list[TokenAnswer]:
    """Every token's scope, and no token."""
    tokens.check(caller, "admin")
    with running.service.engine.connect() as connection:
        return tokens.list_tokens(connection)


@router.delete("/tokens/{name}", status_code=204, summary="Delete a token", responses={**MISSING, **REFUSED})
async def delete(name: str, running: Here, caller: Caller) -> None:
    """Whoever uses it is refused from now on; by other instances from their next look into the database on."""
    tokens.check(caller, "admin")

    def remove() -> None:
        with writing(running.service.engine) as connection:
            tokens.remove(connection, name)

    await abreast.ordered(running, remove)
