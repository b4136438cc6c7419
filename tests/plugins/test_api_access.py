"""Who may call which route of the publish API: all routes are walked as nobody, viewer, user, op and admin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from fastapi.routing import APIRoute

ROOT = Path(__file__).resolve().parents[2]
ROLES = {"nobody": None, "viewer": "ann", "user": "ben", "op": "cleo", "admin": "dora"}
BODIES: dict[str, Any] = {"/api/v1/publish": {"dataset": "walked", "request_id": "walked"}}


def routes() -> list[tuple[str, str]]:
    """(method, path) of every route of the app, those that no description names included."""
    from outlap_airflow.api.app import create_app

    found = []
    for route in create_app().routes:
        assert isinstance(route, APIRoute), f"{route} has no dependencies that could refuse"
        found += [(method, route.path) for method in sorted(route.methods - {"HEAD"})]
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


def test_every_route_asks_the_host_who_may(call: Callable[..., httpx.Response]) -> None:
    lines = ["| route | " + " | ".join(ROLES) + " |", "|---|" + "---|" * len(ROLES)]
    for method, path in routes():
        real = path.format(run_id="api__nosuch", dataset="front", ref="v1", dag_id="publish_dataset")
        if path.endswith("/diff"):
            real += "?old=v1&new=v2"
        cells = []
        for user in ROLES.values():
            body = BODIES.get(path, {}) if method == "POST" else {}
            status = call(method, f"/outlap{real}", user, **body).status_code
            assert status < 500
            cells.append(str(status) if status in (401, 403) else "yes")
        lines.append(f"| `{method} /outlap{path}` | " + " | ".join(cells) + " |")
    matrix = "\n".join(lines)
    print(matrix)
    assert matrix in (ROOT / "docs" / "airflow.md").read_text(), f"docs/airflow.md is to say:\n{matrix}"


def test_a_token_that_is_none_is_refused_without_a_word_of_it(server: str) -> None:
    for header, status in (("Bearer forged.token.here", 403), ("Basic YW5uOnB3", 401), ("Bearer", 401)):
        answer = httpx.get(
            f"{server}/outlap/api/v1/datasets", headers={"Authorization": header}, trust_env=False
        )
        assert (answer.status_code, set(answer.json())) == (status, {"kind", "what", "why", "fix"}), header
        assert "forged" not in answer.text


def test_the_description_names_each_route_with_examples_and_problems(
    call: Callable[..., httpx.Response],
) -> None:
    described = call("GET", "/outlap/openapi.json", "ann").json()
    assert described["servers"] == [{"url": "/outlap"}]
    named = {(method.upper(), path) for path, item in described["paths"].items() for method in item}
    assert named == {pair for pair in routes() if pair[1] != "/openapi.json"}
    for path, item in described["paths"].items():
        for method, route in item.items():
            assert route["security"], f"{method} {path}"
            assert {"401", "403", "422"} <= set(route["responses"]), f"{method} {path}"
            assert len(route["description"]) > 20, f"{method} {path}"
            for parameter in route.get("parameters", []):
                wanted = "schema" in parameter and parameter["in"] == "path"
                assert not wanted or "example" in json.dumps(parameter), (
                    f"{method} {path} {parameter['name']}"
                )
    assert described["components"]["schemas"]["PublishRequest"]["examples"]
    for name in ("PublishStatus", "VersionShown", "Datasets", "Problem", "DiffLine"):
        assert name in described["components"]["schemas"]
