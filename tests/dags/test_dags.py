"""DAG files: read as the DAG processor reads them, with the plugins folder, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = {
    "ingest_drives",
    "publish_dataset",
    "sync_dataset",
    "warm_dataset",
    "nightly_incremental",
    "scheduled_training",
    "free_dataset",
    "watch",
}

READ = """
import json, socket, sys

import airflow.settings
import pendulum
from airflow.timetables.base import TimeRestriction
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

reached = []
def note(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        reached.append(f"{event} {args!r}"[:200])
sys.addaudithook(note)

def first_run(stored):
    # of a DAG that Airflow first sees at half past midnight
    from unittest import mock
    with mock.patch("airflow.timetables.trigger.utcnow", lambda: pendulum.datetime(2026, 1, 10, 0, 30)):
        found = stored.timetable.next_dagrun_info(
            last_automated_data_interval=None, restriction=TimeRestriction(None, None, False)
        )
    return found.run_after.isoformat()

bag = DagBag()
read = {name for name in sys.modules}
dags = {}
for dag in bag.dags.values():
    stored = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    dags[dag.dag_id] = {
        "file": dag.fileloc,
        "doc": dag.doc_md or "",
        "description": dag.description or "",
        "tags": sorted(dag.tags),
        "max_active_runs": dag.max_active_runs,
        "catchup": dag.catchup,
        "paused": dag.is_paused_upon_creation,
        "timetable": type(dag.timetable).__name__,
        "first_run": first_run(stored) if dag.dag_id == "nightly_incremental" else None,
        "params": {
            name: {"schema": dag.params.get_param(name).schema, "description": dag.params.get_param(name).description,
                   "value": dag.params[name]}
            for name in dag.params
        },
        "tasks": {
            task.task_id: {
                "pool": task.pool,
                "retries": task.retries,
                "upstream": sorted(task.upstream_task_ids),
                "outlets": [asset.name for asset in task.outlets],
                "teardown": bool(task.is_teardown),
                "mapped": task.is_mapped,
                "at_once": task.max_active_tis_per_dagrun,
            }
            for task in dag.tasks
        },
    }
heavy = sorted(read & {"obstore", "duckdb", "av", "pyarrow", "kubernetes", "boto3", "numpy", "pandas", "PIL"})
print("READ" + json.dumps({"errors": bag.import_errors, "dags": dags, "reached": reached, "heavy": heavy}))
"""

SETTINGS = """
here = "idc-a"
[idc.idc-a]
store = "lake-a"
[idc.idc-b]
store = "lake-b"
control = "http://127.0.0.1:9"
[idc.idc-c]
store = "lake-b"
[[airflow.trainings]]
name = "night"
dataset = "front"
cron = "0 6 * * *"
timezone = "Europe/Berlin"
priority = 7
"""


def read_dags(home: Path, settings: str, **variables: str) -> dict[str, Any]:
    (home / "outlap").mkdir(parents=True)
    (home / "outlap" / "outlap.toml").write_text(settings)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OUTLAP_", "AIRFLOW"))
    }
    environment |= {
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "OUTLAP_HOME": str(home / "outlap"),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=False, cwd=home
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.split("READ", 1)[1])
    return told


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return read_dags(tmp_path_factory.mktemp("dags"), SETTINGS)


def test_every_dag_can_be_read_and_stored(told: dict[str, Any]) -> None:
    assert told["errors"] == {}
    assert set(told["dags"]) == EXPECTED | {"train_night"}
    for name, dag in told["dags"].items():
        assert Path(dag["file"]).name == ("scheduled_training.py" if name == "train_night" else f"{name}.py")


def test_reading_does_no_work(told: dict[str, Any]) -> None:
    assert told["reached"] == []
    assert told["heavy"] == []


@pytest.mark.fault("C17")
def test_a_night_that_has_passed_does_not_begin_by_itself_on_a_new_stack(told: dict[str, Any]) -> None:
    assert told["dags"]["nightly_incremental"]["first_run"] == "2026-01-11T00:00:00+00:00"


def test_every_dag_explains_itself_and_runs_from_the_start(told: dict[str, Any]) -> None:
    for name, dag in told["dags"].items():
        assert len(dag["doc"]) > 80, name
        assert dag["description"], name
        assert "outlap" in dag["tags"], name
        assert dag["catchup"] is False, name
        assert dag["paused"] is False, name
        assert 1 <= dag["max_active_runs"] <= 8, name


def test_every_field_of_a_form_is_typed_described_and_has_a_legal_default(told: dict[str, Any]) -> None:
    import jsonschema

    for name, dag in told["dags"].items():
        assert dag["params"] or name == "watch", name
        for field, param in dag["params"].items():
            assert param["schema"].get("type"), f"{name}.{field}"
            assert param["schema"].get("title"), f"{name}.{field}"
            assert len(param["description"] or "") > 10, f"{name}.{field}"
            jsonschema.validate(param["value"], param["schema"])


def test_events_lead_from_publish_to_sync_to_warm(told: dict[str, Any]) -> None:
    dags = told["dags"]
    assert dags["publish_dataset"]["tasks"]["announce"]["outlets"] == ["dataset_published"]
    assert dags["publish_dataset"]["tasks"]["announce"]["upstream"] == ["publish"]
    for name in ("sync_dataset", "warm_dataset"):
        assert dags[name]["timetable"] == "PartitionedAssetTimetable"
    copies = {key: task for key, task in dags["sync_dataset"]["tasks"].items() if key.startswith("copy_to_")}
    assert {key: task["pool"] for key, task in copies.items()} == {
        "copy_to_idc-b": "sync_idc-a_idc-b",
        "copy_to_idc-c": "sync_idc-a_idc-c",
    }
    for task in copies.values():
        assert task["outlets"] == ["dataset_synced"]


def test_what_is_mapped_over_drives_and_shards_runs_a_few_at_once(told: dict[str, Any]) -> None:
    """How many there may be in all is bounded where they are found (test_loop, test_shards). The others map over IDCs and datasets."""
    mapped = {
        f"{name}.{key}": task["at_once"]
        for name, dag in told["dags"].items()
        for key, task in dag["tasks"].items()
        if task["mapped"]
    }
    few = {"ingest_drives.cut_shard": 16, "ingest_drives.ingest_drive": 8}
    assert {key: bound for key, bound in mapped.items() if bound} == few
    by_settings = {"warm_dataset.warm", "free_dataset.free", "nightly_incremental.publish"}
    assert set(mapped) - set(few) - by_settings == {"scheduled_training.free", "train_night.free"}


def test_training_follows_residency_and_always_unmounts(told: dict[str, Any]) -> None:
    assert told["dags"]["train_night"]["timetable"] == "TrainingTimetable"
    assert told["dags"]["train_night"]["tasks"]["train"]["pool"] == "training"
    tasks = told["dags"]["scheduled_training"]["tasks"]
    assert {"warm"} <= set(tasks["wait_to_train"]["upstream"])
    assert {"wait_to_train"} <= set(tasks["mount"]["upstream"])
    assert tasks["unmount"]["teardown"] and tasks["unpin"]["teardown"]
    assert {"pin"} <= set(tasks["warm"]["upstream"])
    assert {"train", "unmount", "unpin"} & set(tasks["what_to_free"]["upstream"])


def test_the_launcher_is_chosen_by_configuration(tmp_path: Path, told: dict[str, Any]) -> None:
    pods = read_dags(tmp_path, SETTINGS, OUTLAP_AIRFLOW_LAUNCHER="kubernetes")
    assert pods["errors"] == {}
    assert set(pods["dags"]["scheduled_training"]["tasks"]) == set(
        told["dags"]["scheduled_training"]["tasks"]
    )
    assert "kubernetes" in pods["heavy"]


def test_no_settings_at_all_still_give_every_dag(tmp_path: Path) -> None:
    empty = read_dags(tmp_path, "")
    assert empty["errors"] == {}
    assert set(empty["dags"]) == EXPECTED


def test_the_plugins_folder_loads_one_file_only() -> None:
    ignored = (ROOT / "plugins" / ".airflowignore").read_text().split("\n")
    assert "outlap_airflow" in ignored
    assert sorted(path.name for path in (ROOT / "plugins").glob("*.py")) == ["outlap_plugin.py"]
