"""Warm and free through a real control service; the node is played by the test, through the control service's own API."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from outlap_airflow import training
from outlap_airflow.operators import CacheJob, WaitUntil, job_result
from outlap_airflow.settings import DEFAULT_QUERY
from outlap_airflow.triggers import MOST_FAILURES, JobTrigger

from cacheengine.client import Control, control_for
from cacheengine.errors import CacheError
from cacheengine.wire import Desired, DirReport, Failure, Heartbeat, VersionReport
from lake.config import load_config
from lake.errors import NotFound
from lake.publish import publish_query
from lake.stores import lake_store

TOKEN = "a token of the tests that nobody guesses"


class Node(threading.Thread):
    """Heartbeats until stopped. `hold` decides what it says of each desired version."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.ended, self.failing = url, threading.Event(), ""
        self.error: Exception | None = None

    def beat(self, control: Control) -> None:
        try:
            desired = control.desired("b1")
        except NotFound:  # before the first heartbeat
            desired = Desired(node="b1", generation=0)
        reports = []
        for item in desired.versions:
            bad = (Failure(path="720p/bad.jpg", cause=self.failing),) if self.failing else ()
            reports.append(
                VersionReport(
                    dataset=item.dataset,
                    tag=item.tag,
                    version=item.version,
                    list_id=item.list_id,
                    state="failed" if bad else "resident",
                    files_total=6,
                    files_resident=6 - len(bad),
                    bytes_total=FILES_BYTES,
                    bytes_resident=FILES_BYTES if not bad else FILES_BYTES - 1,
                    failures=bad,
                )
            )
        dirs = (DirReport(path="/c", medium="ssd", quota=1 << 30, used=0, free_on_disk=1 << 30),)
        control.heartbeat(
            Heartbeat(
                node="b1",
                idc="idc-b",
                address="127.0.0.1:9",
                role="gpu",
                agent_version="1",
                boot_id="1",
                generation=desired.generation,
                dirs=dirs,
                versions=tuple(reports),
            )
        )

    def run(self) -> None:
        with Control(self.url, TOKEN) as control:
            while not self.ended.wait(0.1):
                try:
                    self.beat(control)
                except CacheError as error:
                    self.error = error


FILES_BYTES = 16_800


@pytest.fixture
def node(idcs: Any, frames: Callable[..., None], wait_for: Callable[..., None], port: int) -> Iterator[Node]:
    """A control service of idc-b with one node, and the dataset `front` published there."""
    frames(idcs.b, "d1")
    publish_query(idcs.b, "front", DEFAULT_QUERY, idcs.home / "scratch", {})
    secret = idcs.home / "token"
    secret.write_text(TOKEN)
    settings = idcs.home / "outlap.toml"
    url = f"http://127.0.0.1:{port}"
    settings.write_text(
        settings.read_text().replace(
            'control = "http://127.0.0.1:9"', f'control = "{url}"\ntoken = {{ file = "{secret}" }}'
        )
    )
    environment = {
        **os.environ,
        "OUTLAP_CONTROL_IDC": "idc-b",
        "OUTLAP_CONTROL_LISTEN": f"127.0.0.1:{port}",
        "OUTLAP_CONTROL_STATE_DIR": str(idcs.home / "control"),
        "OUTLAP_CONTROL_ADMIN_TOKEN_FILE": str(secret),
        "OUTLAP_CONTROL_POLL_S": "0.1",
    }
    (idcs.home / "control").mkdir()
    with (idcs.home / "control.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "cacheengine.control"], env=environment, stderr=log)
    played = Node(url)
    try:
        with control_for(load_config(), "idc-b") as control:
            wait_for(control.healthy, "the control service")
            played.start()
            wait_for(lambda: [item.node for item in control.nodes() if item.alive], "the node")
        yield played
    finally:
        played.ended.set()
        process.terminate()
        process.wait(20)


def run(operator: CacheJob, attempt: int = 1) -> Any:
    """Execute an operator and its trigger as Airflow does."""
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id=operator.task_id, map_index=-1, try_number=attempt)
    try:
        return operator.execute({"ti": ti})
    except TaskDeferred as deferred:
        where, fields = deferred.trigger.serialize()
        assert where == "outlap_airflow.triggers.JobTrigger"
        assert TOKEN not in str(fields)

        async def event() -> Any:
            async for found in JobTrigger(**fields).run():
                return found.payload

        return getattr(operator, deferred.method_name)({}, event=asyncio.run(event()))


REQUEST = {"idc": "idc-b", "dataset": "front", "ref": "latest", "nodes": "all"}


def test_warm_ends_with_every_file_resident_and_free_releases_it(node: Node) -> None:
    job = run(CacheJob(task_id="warm", kind="warm", request=REQUEST))
    assert (job["state"], job["files_done"], job["files_total"]) == ("done", 6, 6)
    with control_for(load_config(), "idc-b") as control:
        assert [item.node for item in training.warm_nodes(control.nodes(), job["version"])] == ["b1"]
        assert training.warm_nodes(control.nodes(), "0" * 64) == []
    freed = run(CacheJob(task_id="free", kind="free", request=REQUEST))
    assert (freed["kind"], freed["state"]) == ("free", "done")


def test_what_cannot_be_warmed_is_listed_and_another_try_is_another_job(node: Node) -> None:
    node.failing = "its hash is wrong"
    with pytest.raises(AirflowException, match=r"720p/bad\.jpg: its hash is wrong"):
        run(CacheJob(task_id="warm", kind="warm", request=REQUEST))
    node.failing = ""
    job = run(CacheJob(task_id="warm", kind="warm", request=REQUEST), attempt=2)
    assert job["state"] == "done"


def test_a_user_fault_is_not_tried_again(node: Node) -> None:
    with pytest.raises(AirflowFailException, match="nosuch"):
        run(CacheJob(task_id="warm", kind="warm", request={**REQUEST, "dataset": "nosuch"}))


def test_a_plan_begins_to_warm_early_enough(node: Node, idcs: Any) -> None:
    from datetime import UTC, datetime, timedelta

    params = {
        "dataset": "front",
        "ref": "v1",
        "idc": None,
        "nodes": None,
        "start_at": "2030-01-01T12:00:00+01:00",
        "lead_minutes": 30,
    }
    planned = training.plan(params, datetime.now(UTC))
    begin = datetime.fromisoformat(planned["warm_at"])
    train = datetime.fromisoformat(planned["train_at"])
    assert train == datetime(2030, 1, 1, 11, tzinfo=UTC)
    assert train - begin == timedelta(minutes=30, seconds=planned["estimate_s"])
    assert (planned["idc"], planned["tag"], planned["files"]) == ("idc-b", "v1", 6)
    with pytest.raises(TaskDeferred):
        WaitUntil(task_id="w", moment=planned["warm_at"]).execute({})
    WaitUntil(task_id="w", moment="2020-01-01T00:00:00+00:00").execute({})
    assert training.what_to_free(planned, "never") == []
    assert training.what_to_free(planned, "after") == [planned["request"]]


def test_keep_latest_frees_what_is_held_but_the_latest(
    node: Node, idcs: Any, frames: Callable[..., None], wait_for: Callable[..., None]
) -> None:
    first = run(CacheJob(task_id="warm", kind="warm", request=REQUEST))["version"]
    planned = {"dataset": "front", "idc": "idc-b", "request": {**REQUEST, "ref": first}}
    assert training.what_to_free(planned, "keep-latest") == []
    frames(lake_store(load_config(), "idc-b"), "d2")
    publish_query(idcs.b, "front", DEFAULT_QUERY, idcs.home / "scratch", {})
    assert [item["ref"] for item in training.what_to_free(planned, "keep-latest")] == [first]


def test_a_mount_needs_verified_residency(node: Node) -> None:
    planned = {"dataset": "front", "version": "0" * 64, "idc": "idc-b"}
    with pytest.raises(AirflowException, match="resident and verified"):
        training.mount(planned, True)


def test_a_control_service_that_is_away_is_tried_again(idcs: Any) -> None:
    with pytest.raises(AirflowException, match="does not answer") as caught:
        run(CacheJob(task_id="warm", kind="warm", request=REQUEST))
    assert not isinstance(caught.value, AirflowFailException)

    async def event() -> Any:
        async for found in JobTrigger("idc-b", "j", patience_s=-1).run():
            return found.payload

    told = asyncio.run(event())
    assert told["again"] is True
    operator = CacheJob(task_id="warm", kind="warm", request=REQUEST)
    with pytest.raises(AirflowException, match="does not answer"):
        operator.finish({}, told)


def test_only_the_first_failures_travel() -> None:
    job = {
        "kind": "warm",
        "dataset": "d",
        "version": "a" * 64,
        "id": "1",
        "state": "failed",
        "files_done": 0,
        "files_total": 500,
        "error": None,
        "failures": [{"path": f"p{at}", "cause": "gone"} for at in range(MOST_FAILURES)],
        "failures_total": 500,
    }
    with pytest.raises(AirflowException, match="and 400 more") as caught:
        job_result(job)
    assert "p99: gone" in str(caught.value)
