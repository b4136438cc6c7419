"""The same DAGs with a worker in an IDC that can only dial out: EdgeExecutor, beside the central executor.

The worker has settings, folders and logs of its own, no database that it could reach, and listens nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from lake import refs
from lake.config import load_config
from lake.stores import lake_store
from lake.versions import is_available
from outlap import airflow_api as api
from outlap.stack import ports
from outlap.stack.layout import Layout
from tests.plugins import parts as airflow_parts
from tests.plugins import test_executors as executors
from tests.plugins.conftest import ROOT, add_frames
from tests.plugins.parts import Parts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
database = executors.database

# config/airflow_local_settings.py of the scheduler, as docs/airflow.md has it: which tasks go to which IDC's workers
ROUTES = """
def task_instance_mutation_hook(task_instance, dag_run):
    run = dag_run or task_instance.dag_run
    key = (run.partition_key if run else None) or ""
    warms = task_instance.dag_id == "warm_dataset" and key.endswith("|idc-b")
    if warms or task_instance.task_id == "copy_to_idc-b":
        task_instance.executor, task_instance.queue = "EdgeExecutor", "idc-b"
"""
CENTRAL = {
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor,airflow.providers.edge3.executors.EdgeExecutor",
    "AIRFLOW__EDGE__API_ENABLED": "True",
    "AIRFLOW__EDGE__JOB_POLL_INTERVAL": "1",
    "AIRFLOW__EDGE__HEARTBEAT_INTERVAL": "2",
}
NOWHERE = "postgresql+psycopg://nobody@127.0.0.1:9/none"


def add_worker(parts: Parts, layout: Layout, home: Path) -> None:
    """`airflow edge worker` as idc-b would run it: the central settings as they are seen from there, and its own folders."""
    home.mkdir()
    seen = layout.settings.read_text()
    (home / "outlap.toml").write_text(f"{seen}\n[airflow]\ndefer = false\n")
    page = parts.environment["AIRFLOW__API__BASE_URL"]
    environment = {
        "OUTLAP_HOME": str(home),
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": NOWHERE,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": NOWHERE,
        "AIRFLOW__EDGE__API_URL": f"{page}/edge_worker/v1/rpcapi",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
    }
    arguments = ("edge", "worker", "--queues", "idc-b", "--concurrency", "2", "--edge-hostname", "edge-b")
    parts.add("edge", arguments, layout.logs / "part-edge.log", environment)


@pytest.fixture(scope="module")
def running(
    database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Layout, Parts, api.Airflow]]:
    home = tmp_path_factory.mktemp("edge")
    with (
        airflow_parts.stack(home, '[airflow]\nnodes = "all"\n') as layout,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("OUTLAP_HOME", str(home))
        for name in ("OUTLAP_IDC", "OUTLAP_CONFIG"):
            patch.delenv(name, raising=False)
        (layout.airflow / "config").mkdir(parents=True)
        (layout.airflow / "config" / "airflow_local_settings.py").write_text(ROUTES)
        with (
            airflow_parts.airflow(layout, database, CENTRAL, {}) as parts,
            airflow_parts.session(layout, parts) as session,
        ):
            add_worker(parts, layout, home / "at-b")
            yield layout, parts, session


def sockets_of(parts: Parts, name: str) -> tuple[set[int], set[int]]:
    """(ports that a part and its children listen at, ports that they speak to)."""
    listening: set[int] = set()
    spoken: set[int] = set()
    process = parts.parts[name].process
    if process is None:
        return listening, spoken
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid)
        for one in [family, *family.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                for socket in one.net_connections(kind="inet"):
                    if socket.status == psutil.CONN_LISTEN:
                        listening.add(socket.laddr.port)
                    elif socket.raddr:
                        spoken.add(socket.raddr.port)
    return listening, spoken


def test_a_worker_that_only_dials_out_syncs_and_warms(
    running: tuple[Layout, Parts, api.Airflow], tmp_path: Path
) -> None:
    layout, parts, session = running
    assert ROUTES in (ROOT / "docs" / "airflow.md").read_text(), "the page says what is tested"
    config = load_config()
    for number in range(3):
        add_frames(lake_store(config), tmp_path, f"d{number}")
    listening: set[int] = set()
    spoken: set[int] = set()
    states: set[str] = set()
    rows: dict[str, dict[str, Any]] = {}

    def look(run: api.Run, task: str) -> bool:
        heard, said = sockets_of(parts, "edge")
        listening.update(heard)
        spoken.update(said)
        for row in api.tasks(session, run):
            if row["task_id"] == task:
                states.add(row["state"] or "")
                rows[task] = row
                assert row["state"] not in ("failed", "upstream_failed"), parts.tail("edge", 60)
        return bool(rows) and rows.get(task, {}).get("state") == "success"

    first = api.trigger(session, "publish_dataset", {"dataset": "edge", "query": executors.QUERY})
    assert api.follow(session, first, print).state == "success"
    version = api.result(session, first, "publish")["version"]
    key = executors.KEY.format(dataset="edge", version=version)

    def there(dag: str, task: str) -> api.Run:
        run = api.new_run(session, dag, set(), key, print)
        executors.until(lambda: look(run, task), f"{task} in the worker of idc-b")
        assert api.follow(session, run, print).state == "success"
        return run

    copied, warmed = there("sync_dataset", "copy_to_idc-b"), there("warm_dataset", "warm")
    told = {
        task: {name: row[name] for name in ("state", "try_number", "hostname", "executor", "queue")}
        for task, row in rows.items()
    }
    print(json.dumps({"tasks": told, "spoken to": sorted(spoken), "listening": sorted(listening)}, indent=1))
    for task in ("copy_to_idc-b", "warm"):
        assert (told[task]["hostname"], told[task]["queue"]) == ("edge-b", "idc-b")
    assert "deferred" not in states, "no triggerer reaches that IDC"
    assert is_available(lake_store(config, "idc-b"), version)
    assert refs.resolve(lake_store(config, "idc-b"), "edge").version == version
    job = api.result(session, warmed, "warm", 0)
    assert (job["state"], job["files_done"]) == ("done", 18)
    known = {port: name for name, port in ports.read_kept(layout.ports).items()}
    known[int(parts.environment["AIRFLOW__API__PORT"])] = "airflow"
    asked = {known.get(port, str(port)) for port in spoken}
    assert listening == set()
    allowed = {"airflow", "control-idc-a", "control-idc-b", "store-idc-a-s3", "store-idc-b-s3"}
    assert {"airflow", "control-idc-b"} <= asked <= allowed
    # what the task wrote there can be read here
    path = f"/dags/sync_dataset/dagRuns/{quote(copied.id, safe='')}/taskInstances/copy_to_idc-b/logs/1"
    assert "100 %" in json.dumps(api.ask(session, "GET", path))


def test_a_worker_that_is_killed_is_missed_and_the_sync_goes_on(
    running: tuple[Layout, Parts, api.Airflow], tmp_path: Path
) -> None:
    _, parts, session = running
    config = load_config()
    add_frames(lake_store(config), tmp_path, "killed")
    first = api.trigger(session, "publish_dataset", {"dataset": "killed", "query": executors.QUERY})
    assert api.follow(session, first, print).state == "success"
    version = api.result(session, first, "publish")["version"]
    key = executors.KEY.format(dataset="killed", version=version)
    run = api.new_run(session, "sync_dataset", set(), key, print)
    task = "copy_to_idc-b"
    executors.until(lambda: executors.ti_state(session, run, task)[0] == "running", "the copy to begin")
    assert parts.kill("edge") >= 2, "the worker and its task"
    assert api.follow(session, run, print).state == "success"
    assert executors.ti_state(session, run, task) == ("success", 2)
    assert parts.parts["edge"].starts >= 2
    assert is_available(lake_store(config, "idc-b"), version)
    assert [ref.tag for ref in refs.list_refs(lake_store(config, "idc-b"), "killed")] == ["v1", "latest"]
    warmed = api.new_run(session, "warm_dataset", set(), key, print)
    assert api.follow(session, warmed, print).state == "success"
