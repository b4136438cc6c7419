"""`dag.test()` of every DAG: its tasks in order, templates rendered, triggers run, in a process with a database of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outlap_airflow import publish, sync

from lake import refs
from lake.config import load_config
from lake.stores import lake_store
from tests.plugins.conftest import add_frames

RUNS = """
import json, sys
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from outlap_airflow.faults import RETRIES
RETRIES["retries"] = 0  # a failure is to be seen, not waited out
DagBundlesManager().sync_bundles_to_db()
bag = DagBag()
assert not bag.import_errors, bag.import_errors
sync_bag_to_db(bag, "dags-folder", None)
found = {}
for name, (conf, done) in json.loads(sys.argv[1]).items():
    # dag.test of Airflow 3.3 looks for deadlines by an id that only a stored DAG has
    bag.dags[name].deadline = None
    run = bag.dags[name].test(run_conf=conf, mark_success_pattern=done)
    states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
    found[name] = {"state": str(run.state), "tasks": states}
print("RAN" + json.dumps(found))
"""

WANTED: dict[str, tuple[dict[str, Any], str | None]] = {
    "ingest_drives": ({}, None),
    "publish_dataset": ({"dataset": "city"}, None),
    "sync_dataset": ({"dataset": "front", "idc": "idc-b"}, None),
    "warm_dataset": ({"dataset": "front", "idc": "idc-b"}, None),
    "free_dataset": ({"dataset": "front", "idc": "idc-b"}, None),
    # the runs that it starts have tests of their own, and an agent to mount is not here
    "nightly_incremental": ({}, "ingest|publish"),
    "scheduled_training": (
        {"dataset": "front", "idc": "idc-b", "free": "after"},
        "mount|train|unmount|record",
    ),
    "train_night": ({"start_at": "2020-01-01T00:00:00+00:00"}, "mount|train|unmount|record"),
    "watch": ({}, None),
}
TRAINING = """
[[airflow.trainings]]
name = "night"
dataset = "front"
cron = "0 6 * * *"
"""


@pytest.mark.timeout(400)
def test_every_dag_runs(
    node: Any, idcs: Any, tmp_path: Path, airflow_database: None, frames: Callable[..., None]
) -> None:
    settings = idcs.home / "outlap.toml"
    settings.write_text(settings.read_text() + TRAINING)
    add_frames(lake_store(load_config()), tmp_path, "d1")
    sync_me = publish.publish("front", "select * from frames", None, "d", "r")
    done = subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps(WANTED)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "RAN" in done.stdout, done.stderr[-4000:]
    found = json.loads(done.stdout.rsplit("RAN", 1)[1])
    failed = {name: one["tasks"] for name, one in found.items() if one["state"] != "success"}
    assert failed == {}, done.stdout[-3000:]
    tasks = {name: one["tasks"] for name, one in found.items()}
    assert tasks["sync_dataset"]["copy_to_idc-b"] == "success"
    assert tasks["scheduled_training"]["warm"] == tasks["scheduled_training"]["unpin"] == "success"
    assert tasks["scheduled_training"]["free"] == "success"
    assert refs.resolve(idcs.a, "city").version == sync_me["version"]
    assert sync.sync_to("front", "latest", "idc-b")["packs_copied"] == 0
