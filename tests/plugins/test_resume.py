"""A worker is killed in mid-work: the next try waits for the same job, keeps the version, copies only what has not arrived."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cacheengine.client import Control
from lake import refs, stores
from lake.versions import is_available

WORKER = """
import os, signal, sys
from airflow.api.common.trigger_dag import trigger_dag
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from airflow.sdk import DAG
from airflow.sdk.definitions.dag import _run_task
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from outlap_airflow.operators import Publish, Sync, Warm
from sqlalchemy import select

def die_after(module, name):
    "The worker is killed once the function has done its work."
    real = getattr(module, name)
    def last(*args, **kwargs):
        real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(module, name, last)

name, tasks, fault = sys.argv[2:]
with DAG(name, schedule=None, default_args={"retries": 3}) as dag:
    exec(tasks)
exec(fault)
dag.fileloc = sys.argv[1]
DagBundlesManager().sync_bundles_to_db()
bag = DagBag(dag_folder=os.devnull)
bag.bag_dag(dag)
sync_bag_to_db(bag, "dags-folder", None)
if not DagRun.find(dag_id=name, run_id="once"):
    trigger_dag(name, run_id="once", triggered_by=DagRunTriggeredByType.TEST)
with create_session() as session:
    run = session.scalar(select(DagRun).where(DagRun.dag_id == name, DagRun.run_id == "once"))
    run.dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    run.state = "running"
    run.update_state(session=session)
    for task_id in dag.topological_sort():
        ti = run.get_task_instance(task_id.task_id, session=session)
        if ti.state == "success":
            continue
        ti.try_number += 1
        # what Airflow does with a task whose worker is dead
        ti.clear_next_method_args()
        ti.trigger_id = None
        ti.state = "scheduled"
        session.commit()
        _run_task(ti=ti, task=dag.task_dict[ti.task_id], run_triggerer=True)
        session.expire_all()
        print("STATE", ti.task_id, ti.state, "TRY", ti.try_number)
        if ti.state != "success":
            break
    for row in session.scalars(XComModel.get_many(run_id="once", dag_ids=name, key="return_value")):
        print("GAVE", row.task_id, XComModel.deserialize_value(row))
"""


def start(folder: Path, name: str, dag: str, tasks: str, fault: str = "") -> subprocess.Popen[bytes]:
    """A worker with the DAG `dag` of these tasks; `fault` ends it in mid-work. Its output is the file `name`."""
    with (folder / name).open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder / "dag.py"), dag, tasks, fault],
            env=os.environ,
            stdout=out,
            stderr=out,
        )


def test_a_killed_worker_is_followed_by_one_that_waits_for_the_same_job(
    airflow_database: None, node: Any, tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    node.holding = 3
    log = tmp_path / "log"
    warm = "Warm(task_id='warm', dataset='front', idc='idc-b')"
    with Control(node.url, node.token) as control:
        worker = start(tmp_path, "log", "killed", warm)
        waits = b"running trigger in line"
        wait_for(lambda: waits in log.read_bytes() or worker.poll() is not None, "the wait", 120)
        assert worker.poll() is None, log.read_text()[-3000:]
        (job,) = control.jobs()
        assert job.state == "running"
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        node.holding = 6
        last = start(tmp_path, "log", "killed", warm)
        assert last.wait(120) == 0, log.read_text()[-3000:]
        assert "STATE warm TaskInstanceState.SUCCESS TRY 2" in log.read_text(), log.read_text()[-3000:]
        (same,) = control.jobs()
        assert (same.id, same.state) == (job.id, "done")


MOVED = """
Publish(task_id="publish", dataset="front", query="select * from frames") >> Sync(
    task_id="sync", dataset="front", ref="latest", idc="idc-b", outlets=[]
)
"""
# one pack after the other, so that exactly one has arrived
IN_SYNC = """
import lake.stores, lake.sync
lake.sync.PARALLEL = 1
die_after(lake.stores, "put_file")
"""
IN_PUBLISH = """
from outlap_airflow import publish
die_after(publish, "_publish")
"""


@pytest.mark.slow
def test_a_killed_publish_keeps_its_version_and_a_killed_sync_what_arrived(
    airflow_database: None, idcs: Any, frames: Callable[..., None], tmp_path: Path
) -> None:
    for drive in ("d1", "d2", "d3"):
        frames(idcs.a, drive)

    def arrived() -> int:
        return sum(key.key.endswith(".tar") for key in stores.list_objects(idcs.b, "packs/"))

    def run(fault: str = "") -> tuple[int, str]:
        worker = start(tmp_path, "log", "moved", MOVED, fault)
        return worker.wait(120), (tmp_path / "log").read_text()

    code, log = run(IN_PUBLISH)
    assert code == -signal.SIGKILL, log[-3000:]
    made = refs.resolve(idcs.a, "front")
    frames(idcs.a, "d4")  # the catalogue grows before the next try
    code, log = run(IN_SYNC)
    assert code == -signal.SIGKILL and "STATE publish TaskInstanceState.SUCCESS TRY 2" in log, log[-3000:]
    assert [ref.tag for ref in refs.list_refs(idcs.a, "front")] == ["v1", "latest"]
    assert arrived() == 1 and not is_available(idcs.b, made.version)
    code, log = run()
    assert code == 0 and "STATE sync TaskInstanceState.SUCCESS TRY 2" in log, log[-3000:]
    assert "STATE publish" not in log
    assert arrived() == 3 and is_available(idcs.b, made.version)
    report = next(line for line in log.splitlines() if line.startswith("GAVE sync"))
    assert "'packs_copied': 2, 'packs_present': 1" in report
    assert f"'version': '{made.version}'" in report
