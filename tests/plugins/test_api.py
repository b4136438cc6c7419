"""The publish API in Airflow's own API server: who may call it, and what a call does. The plugin is loaded as Airflow loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

SEED = """
import sys
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.dag_processing.bundles.manager import DagBundlesManager
DagBundlesManager().sync_bundles_to_db()
bag = DagBag()
assert not bag.import_errors, bag.import_errors
sync_bag_to_db(bag, "dags-folder", None)
from airflow.utils.session import create_session
from airflow.models.dag import DagModel
with create_session() as session:
    for dag in session.query(DagModel):
        dag.is_paused = False
"""


def airflow_python() -> str:
    return str(Path(sys.executable))


@pytest.fixture(scope="module")
def server(
    airflow_database: None, tmp_path_factory: pytest.TempPathFactory, wait_for: Callable[..., None]
) -> Iterator[str]:
    """The address of a running `airflow api-server`, with the DAGs in its database."""
    import socket

    home = tmp_path_factory.mktemp("outlap")
    base = tmp_path_factory.mktemp("stores")
    (home / "outlap.toml").write_text(
        f'here = "idc-a"\n[idc.idc-a]\nstore = "lake-a"\n[store.lake-a]\nidc = "idc-a"\nurl = "file://{base}"\n'
    )
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    environment = {
        **os.environ,
        "OUTLAP_HOME": str(home),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
    }
    seeded = subprocess.run(
        [airflow_python(), "-c", SEED], env=environment, capture_output=True, text=True, check=False
    )
    assert seeded.returncode == 0, seeded.stderr[-3000:]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "airflow"),
                *("api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            ],
            env=environment,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (home / "log").read_text()[-3000:]
        try:
            return httpx.get(f"{url}/api/v2/version", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(answers, "the API server", 120)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def call(server: str) -> Iterator[Callable[..., httpx.Response]]:
    """call(method, path, user=None, **json body)."""
    passwords = json.loads(
        (Path(os.environ["AIRFLOW_HOME"]) / "simple_auth_manager_passwords.json.generated").read_text()
    )
    tokens: dict[str, str] = {}
    with httpx.Client(base_url=server, trust_env=False, timeout=60) as client:

        def ask(method: str, path: str, user: str | None = None, **body: Any) -> httpx.Response:
            if user is not None and user not in tokens:
                login = {"username": user, "password": passwords[user]}
                tokens[user] = client.post("/auth/token", json=login).json()["access_token"]
            headers = {"Authorization": f"Bearer {tokens[user]}"} if user else {}
            return client.request(method, path, json=body or None, headers=headers)

        yield ask


PUBLISH = "/outlap/api/v1/publish"
VIEWER, USER = "ann", "ben"


def test_no_route_answers_a_stranger(call: Callable[..., httpx.Response]) -> None:
    described = call("GET", "/outlap/openapi.json", VIEWER)
    assert described.status_code == 200
    routes = {(method, path) for path, item in described.json()["paths"].items() for method in item}
    assert routes == {("post", "/api/v1/publish"), ("get", "/api/v1/publish/{run_id}")}
    for method, path in [*routes, ("get", "/openapi.json")]:
        assert (
            call(method.upper(), "/outlap" + path.replace("{run_id}", "r"), dataset="front").status_code
            == 401
        )
    for path in ("/outlap/docs", "/outlap/redoc"):
        assert call("GET", path).status_code == 404
    forged = httpx.post(
        f"{call('GET', '/outlap/openapi.json', VIEWER).request.url.copy_with(path=PUBLISH)}",
        json={"dataset": "front"},
        headers={"Authorization": "Bearer forged"},
        trust_env=False,
    )
    assert forged.status_code == 403


def test_a_viewer_may_look_and_not_publish(call: Callable[..., httpx.Response]) -> None:
    assert call("POST", PUBLISH, VIEWER, dataset="front").status_code == 403
    assert call("GET", f"{PUBLISH}/nosuch", VIEWER).status_code == 404


def test_a_publish_is_a_run_and_the_same_request_is_the_same_run(call: Callable[..., httpx.Response]) -> None:
    first = call("POST", PUBLISH, USER, dataset="front", request_id="one")
    again = call("POST", PUBLISH, USER, dataset="front", request_id="one")
    assert (first.status_code, again.status_code) == (202, 202), first.text
    assert first.json() == again.json()
    assert first.json()["state"] == "queued"
    other = call("POST", PUBLISH, USER, dataset="back", request_id="one")
    assert other.status_code == 409
    assert other.json()["fix"] == "choose another"
    assert call("GET", f"{PUBLISH}/{first.json()['run_id']}", VIEWER).json()["dataset"] == "front"
    run = call("GET", f"/api/v2/dags/publish_dataset/dagRuns/{first.json()['run_id']}", USER).json()
    assert run["conf"]["dataset"] == "front"
    assert run["triggering_user_name"] == USER
    free = {call("POST", PUBLISH, USER, dataset="front").json()["run_id"] for _ in range(2)}
    assert len(free) == 2


@pytest.mark.parametrize(
    "body",
    [
        {"dataset": "Bad/Name"},
        {"dataset": "front", "tag": "abcdef12"},
        {"dataset": "front", "query": ""},
        {"dataset": "front", "request_id": "a/b"},
        {"dataset": "front", "unknown": 1},
        {"tag": "t"},
    ],
)
def test_a_bad_request_is_refused_before_a_run(
    call: Callable[..., httpx.Response], body: dict[str, Any]
) -> None:
    assert call("POST", PUBLISH, USER, **body).status_code == 422


def test_a_paused_dag_is_said_so(call: Callable[..., httpx.Response]) -> None:
    assert call("PATCH", "/api/v2/dags/publish_dataset", USER, is_paused=True).status_code == 200
    try:
        answer = call("POST", PUBLISH, USER, dataset="front")
        assert (answer.status_code, answer.json()["fix"]) == (409, "unpause it")
    finally:
        call("PATCH", "/api/v2/dags/publish_dataset", USER, is_paused=False)
