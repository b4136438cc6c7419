"""A worker is killed in mid-warm, and so is what waits for the job: the next try waits for the same job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cacheengine.client import Control

WORKER = """
import os, sys
from airflow.api.common.trigger_dag import trigger_dag
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.models.dagrun import DagRun
from airflow.sdk import DAG
from airflow.sdk.definitions.dag import _run_task
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from outlap_airflow.operators import Warm
from sqlalchemy import select

with DAG("killed", schedule=None) as dag:
    Warm(task_id="warm", dataset="front", idc="idc-b", retries=3)
dag.fileloc = sys.argv[1]
DagBundlesManager().sync_bundles_to_db()
bag = DagBag(dag_folder=os.devnull)
bag.bag_dag(dag)
sync_bag_to_db(bag, "dags-folder", None)
if not DagRun.find(dag_id="killed", run_id="once"):
    trigger_dag("killed", run_id="once", triggered_by=DagRunTriggeredByType.TEST)
with create_session() as session:
    run = session.scalar(select(DagRun).where(DagRun.dag_id == "killed", DagRun.run_id == "once"))
    run.dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    run.state = "running"
    run.update_state(session=session)
    (ti,) = run.get_task_instances(session=session)
    ti.try_number += 1
    # what Airflow does with a task whose worker is dead
    ti.clear_next_method_args()
    ti.trigger_id = None
    ti.state = "scheduled"
    session.commit()
    _run_task(ti=ti, task=dag.task_dict["warm"], run_triggerer=True)
    session.expire_all()
    print("STATE", ti.state, "TRY", ti.try_number)
"""


def start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    with (folder / name).open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder / "dag.py")], env=os.environ, stdout=out, stderr=out
        )


def test_a_killed_worker_is_followed_by_one_that_waits_for_the_same_job(
    airflow_database: None, node: Any, tmp_path: Path, wait_for: Callable[..., None]
) -> None:
    node.holding = 3
    log = tmp_path / "log"
    with Control(node.url, node.token) as control:
        worker = start(tmp_path, "log")
        waits = b"running trigger in line"
        wait_for(lambda: waits in log.read_bytes() or worker.poll() is not None, "the wait", 120)
        assert worker.poll() is None, log.read_text()[-3000:]
        (job,) = control.jobs()
        assert job.state == "running"
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        node.holding = 6
        last = start(tmp_path, "log")
        assert last.wait(120) == 0, log.read_text()[-3000:]
        assert "STATE TaskInstanceState.SUCCESS TRY 2" in log.read_text(), log.read_text()[-3000:]
        (same,) = control.jobs()
        assert (same.id, same.state) == (job.id, "done")
