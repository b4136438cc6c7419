"""The OpenAPI page is whole, its examples are legal, and every route of it is authorised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cacheengine.control.tokens import VERBS
from cacheengine.wire import SettingRequest, TokenRequest, WarmRequest
from lake.publish import Published
from tests.cacheengine.played import Serve, Served, beat, lake, published, serve

__all__ = ["lake", "published", "serve"]

READS = {"read", "warm", "free", "pin", "publish", "admin"}
# which verbs of a token each route takes; None: open to all. A route that is not here fails the test.
ALLOWED: dict[str, set[str] | None] = {
    "GET /healthz": None,
    "GET /metrics": None,
    "POST /v1/nodes/{node}/heartbeat": {"node", "admin"},
    "GET /v1/nodes/{node}/desired": {"node", "admin"},
    "GET /v1/lists/{list_id}": {"node", "admin"},
    "GET /v1/nodes": READS,
    "GET /v1/group": {"node", "admin"},
    "GET /v1/members": READS,
    "POST /v1/nodes/{node}/drain": {"admin"},
    "DELETE /v1/nodes/{node}/drain": {"admin"},
    "DELETE /v1/nodes/{node}": {"admin"},
    "POST /v1/warm": {"warm", "admin"},
    "POST /v1/free": {"free", "admin"},
    "POST /v1/estimate": READS,
    "GET /v1/jobs/{job_id}": READS,
    "GET /v1/jobs": READS,
    "POST /v1/jobs/{job_id}/cancel": {"warm", "admin"},
    "POST /v1/jobs/{job_id}/resume": {"warm", "admin"},
    "POST /v1/pin": {"pin", "admin"},
    "POST /v1/unpin": {"pin", "admin"},
    "POST /v1/tokens": {"admin"},
    "GET /v1/tokens": {"admin"},
    "DELETE /v1/tokens/{name}": {"admin"},
    "GET /v1/config": READS,
    "POST /v1/config": {"admin"},
    "GET /v1/config/history": READS,
    "POST /v1/config/revert": {"admin"},
    "GET /v1/links/{source}/{target}/budget": READS,
}


@pytest.fixture
def served(serve: Serve, published: Published) -> Served:
    return serve()


@pytest.fixture
def page(served: Served) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{served.url}/openapi.json", trust_env=False).json()
    return found


def operations(page: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in page["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def example(page: dict[str, Any], operation: dict[str, Any]) -> Any:
    """The example of a request's body; None when it has none."""
    if "requestBody" not in operation:
        return None
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    return page["components"]["schemas"][reference.rpartition("/")[2]]["examples"][0]


def test_every_route_is_described_with_its_errors(page: dict[str, Any]) -> None:
    for method, path, operation in operations(page):
        where = f"{method} {path}"
        assert operation["summary"] and operation["description"].strip(), where
        if ALLOWED[where] is not None:
            assert operation["security"], where
            for status in ("401", "403", "422"):
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                assert schema["$ref"].endswith("/Problem"), where
        if method == "POST" and "requestBody" in operation:
            assert example(page, operation), where


def test_every_route_is_authorised(served: Served, page: dict[str, Any], published: Published) -> None:
    assert {f"{method} {path}" for method, path, _ in operations(page)} == set(ALLOWED)
    with served.client() as admin:
        beat(admin, "b1")
        job = admin.warm(WarmRequest(dataset="city")).id
        admin.change_setting(SettingRequest(key="keep_days", value=7))
        bearers = {
            verb: str(admin.create_token(TokenRequest(name=f"only-{verb}", verbs=(verb,))).token)
            for verb in VERBS
        }
    names = {"node": "b1", "job_id": job, "list_id": "f" * 64, "name": "nobody", "source": "a", "target": "b"}
    with httpx.Client(base_url=served.url, trust_env=False) as http:
        for method, path, operation in operations(page):
            where, body = f"{method} {path}", example(page, operation)

            def ask(token: str | None, method: str = method, path: str = path, body: Any = body) -> int:
                headers = {} if token is None else {"Authorization": f"Bearer {token}"}
                return http.request(method, path.format(**names), headers=headers, json=body).status_code

            allowed = ALLOWED[where]
            if allowed is None:
                assert ask(None) == 200, where
                continue
            assert ask(None) == ask("wrong" * 8) == 401, where
            for verb, token in bearers.items():
                if verb not in allowed:
                    assert ask(token) == 403, f"{where} as {verb}"
            for verb in sorted(allowed):
                assert ask(bearers[verb]) not in (401, 403, 422, 500), f"{where} as {verb}"
