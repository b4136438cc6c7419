"""Tokens: who may do what, to which datasets, from where. Only hashes are kept; a token is shown once, at creation.

A token is 32 random bytes, so one BLAKE3 is hash enough: there is nothing to guess.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import time
from pathlib import Path

from sqlalchemy import Connection, Engine, delete, insert, select
from sqlalchemy.exc import IntegrityError

from cacheengine.control import changes, tables
from cacheengine.errors import Unauthorised
from cacheengine.wire import TokenAnswer, TokenRequest
from lake.canonical import blake3_hex
from lake.errors import Conflict, NotFound, Refused
from lake.names import PART

VERBS = ("read", "warm", "free", "pin", "publish", "admin", "node")
READERS = frozenset(("read", "warm", "free", "pin", "publish", "admin"))
ADMIN = "admin"
SHORTEST = 20  # a token that someone made by hand must not be guessable


def hash_token(token: str) -> str:
    return blake3_hex(token.encode("utf-8", "surrogateescape"))


def dataset_allowed(scope: TokenAnswer, dataset: str) -> bool:
    """Whether one of the name prefixes fits (`*` fits all; a star at the end of a prefix says nothing)."""
    return any(dataset.startswith(prefix.removesuffix("*")) for prefix in scope.datasets)


def verb_allowed(scope: TokenAnswer, verb: str) -> bool:
    """`admin` may do all; who may warm, free, pin or publish may read what they did."""
    if ADMIN in scope.verbs or verb in scope.verbs:
        return True
    return verb == "read" and bool(READERS.intersection(scope.verbs))


def address_allowed(scope: TokenAnswer, address: str | None) -> bool:
    if scope.cidr is None:
        return True
    try:
        found: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found in ipaddress.ip_network(scope.cidr)


def check(scope: TokenAnswer, verb: str, dataset: str | None = None) -> None:
    """Raises Unauthorised when the token does not allow the verb, or not for this dataset."""
    if not verb_allowed(scope, verb):
        raise Unauthorised(
            f"{verb} with the token {scope.name!r}",
            f"it allows: {', '.join(scope.verbs)}",
            f"ask for a token with the verb {verb}",
        )
    if dataset is not None and not dataset_allowed(scope, dataset):
        raise Unauthorised(
            f"{verb} of {dataset!r} with the token {scope.name!r}",
            f"it allows datasets that begin with: {', '.join(scope.datasets)}",
            "ask for a token that allows this dataset",
        )


def identify(connection: Connection, header: str | None) -> TokenAnswer:
    """The scope of `Authorization: Bearer …`. Raises Unauthorised, the same for a wrong token and an unknown one."""
    kind, _, token = (header or "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise Unauthorised("this request", "it carries no token", "send `Authorization: Bearer TOKEN`")
    found = connection.execute(
        select(tables.tokens.c.scope).where(tables.tokens.c.hash == hash_token(token.strip()))
    ).scalar()
    if found is None:
        raise Unauthorised(
            "this request", "its token is not known here", "check the token that the settings name"
        )
    return TokenAnswer.model_validate_json(found)


def check_address(scope: TokenAnswer, address: str | None) -> None:
    """Raises Unauthorised for a caller outside the CIDR of its token."""
    if not address_allowed(scope, address):
        raise Unauthorised(
            f"the token {scope.name!r}", "it is not allowed from this address", "use it from inside its CIDR"
        )


def _checked(request: TokenRequest) -> TokenAnswer:
    what = f"the token {request.name[:80]!r}"
    if PART.fullmatch(request.name) is None:
        raise Refused(what, "a name is letters, digits and . _ + = -", "choose another name")
    unknown = [verb for verb in request.verbs if verb not in VERBS]
    if unknown or not request.verbs:
        raise Refused(
            what, f"it has no legal verb: {', '.join(unknown)[:80]}", f"verbs are: {', '.join(VERBS)}"
        )
    if not request.datasets or any(not prefix for prefix in request.datasets):
        raise Refused(what, "it allows no dataset", "give name prefixes, or * for all")
    cidr = request.cidr
    if cidr is not None:
        try:
            cidr = str(ipaddress.ip_network(cidr))
        except ValueError as error:
            raise Refused(what, f"its CIDR is none: {error}", "give one like 10.0.0.0/8") from error
    return TokenAnswer(name=request.name, verbs=request.verbs, datasets=request.datasets, cidr=cidr)


def create(connection: Connection, request: TokenRequest) -> TokenAnswer:
    """A new token; `token` of the answer is its only showing. Raises Refused, Conflict when the name is taken."""
    scope, token = _checked(request), secrets.token_urlsafe(32)
    changes.touch(connection, "tokens")
    try:
        connection.execute(
            insert(tables.tokens).values(
                name=scope.name,
                hash=hash_token(token),
                scope=scope.model_dump_json(),
                created_ns=time.time_ns(),
            )
        )
    except IntegrityError as error:
        raise Conflict(
            f"the token {scope.name!r}",
            "there is one of that name",
            "delete it first, or choose another name",
        ) from error
    return scope.model_copy(update={"token": token})


def list_tokens(connection: Connection) -> list[TokenAnswer]:
    """All scopes, without tokens."""
    found = connection.execute(select(tables.tokens.c.scope).order_by(tables.tokens.c.name)).scalars()
    return [TokenAnswer.model_validate_json(scope) for scope in found]


def remove(connection: Connection, name: str) -> None:
    """Raises NotFound; Refused for the admin token, which lives in its file."""
    if name == ADMIN:
        raise Refused(
            "the token 'admin'", "it is the one of the admin token file", "change the file and start again"
        )
    changes.touch(connection, "tokens")
    if connection.execute(delete(tables.tokens).where(tables.tokens.c.name == name)).rowcount == 0:
        raise NotFound(f"the token {name[:80]!r}", "there is none of that name", "list them")


def _new_file(path: Path) -> None:
    """A new token at `path`, mode 0600, whole or not at all; whoever is first wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(handle)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def admin_token(engine: Engine, path: Path) -> None:
    """Let the token in the file be the admin's; write a new file, mode 0600, when there is none. Raises Refused."""
    if not path.exists():
        _new_file(path)
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < SHORTEST:
        raise Refused(
            f"the admin token in {path}",
            f"it has fewer than {SHORTEST} characters",
            "delete the file: a new one is made at the next start",
        )
    scope = TokenAnswer(name=ADMIN, verbs=(ADMIN,), datasets=("*",))
    with tables.writing(engine) as connection:
        changes.touch(connection, "tokens")
        connection.execute(delete(tables.tokens).where(tables.tokens.c.name == ADMIN))
        connection.execute(
            insert(tables.tokens).values(
                name=ADMIN, hash=hash_token(token), scope=scope.model_dump_json(), created_ns=time.time_ns()
            )
        )
