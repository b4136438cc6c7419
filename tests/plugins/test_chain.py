"""A publish followed through sync and warm, and cancelled on its way: the scheduler's and the worker's own code, in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cacheengine.client import Control

Call = Callable[..., httpx.Response]
PUBLISH = "/outlap/api/v1/publish"


@pytest.fixture(scope="module")
def dags(server: str, site: Any) -> dict[str, Any]:
    """The DAGs of dags/ by id, as the server knows them."""
    from airflow.dag_processing.dagbag import DagBag

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTLAP_HOME", str(site.home))
        return dict(DagBag().dags)


def follow(dag_id: str) -> list[str]:
    """Let the scheduler make the runs that events ask for; ids of the runs of a DAG, newest first."""
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        SchedulerJobRunner(job=Job())._create_dagruns_for_partitioned_asset_dags(session)
        session.commit()
        return list(
            session.scalars(select(DagRun.run_id).where(DagRun.dag_id == dag_id).order_by(DagRun.id.desc()))
        )


def work(dag: Any, run_id: str, triggerer: bool = True) -> str:
    """Run the tasks of a run, as the loop of `dag.test()` does; the run's state. Without a triggerer a task that waits stays so."""
    from airflow.models.dagrun import DagRun
    from airflow.sdk.definitions.dag import _run_task
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag.dag_id, DagRun.run_id == run_id))
        run.dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
        run.state = "running"
        for _ in range(20):
            session.expire_all()
            run.dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
            ready, _ = run.update_state(session=session)
            if run.state != "running" or (not triggerer and not ready):
                break
            for ti in ready:
                ti.try_number += 1
                ti.state = "scheduled"
            session.commit()
            for ti in [ti for ti in run.get_task_instances(session=session) if ti.state == "scheduled"]:
                _run_task(ti=ti, task=dag.task_dict[ti.task_id], run_triggerer=triggerer)
        return str(run.state)


@pytest.mark.fault("E4")
def test_a_publish_is_followed_until_it_is_warm(
    call: Call,
    dags: dict[str, Any],
    site: Any,
    group: Any,
    wait_for: Callable[..., None],
    server: str,
    tokens: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OUTLAP_AIRFLOW_URL", server)
    monkeypatch.setenv("OUTLAP_AIRFLOW_TOKEN", tokens["ann"])
    run_id = call("POST", PUBLISH, "ben", dataset="way", query="select * from frames").json()["run_id"]

    def status() -> dict[str, Any]:
        return dict(call("GET", f"{PUBLISH}/{run_id}", "ann").json())

    begun = status()
    assert (begun["stage"], begun["version"]) == ("queued", None)
    assert [(idc["idc"], idc["sync"]["state"], idc["warm"]["state"]) for idc in begun["idcs"]] == [
        ("idc-b", "waiting", "waiting")
    ]
    assert work(dags["publish_dataset"], run_id) == "success"
    published = status()
    assert (published["stage"], published["version"], published["files"]) == ("syncing", site.versions[1], 12)
    assert published["idcs"][0]["sync"]["state"] == "waiting"
    sync_run = follow("sync_dataset")[0]
    assert status()["idcs"][0]["sync"]["run_id"] == sync_run
    assert work(dags["sync_dataset"], sync_run) == "success"
    synced = status()
    assert synced["stage"] == "warming"
    step = synced["idcs"][0]["sync"]
    assert (step["state"], step["bytes_done"]) == ("success", step["bytes_total"])
    assert step["bytes_done"] is not None
    warm_run = follow("warm_dataset")[0]
    # half of it is there: the files of the job, its rate and what is left are those of the control service
    group.files, group.holding = 12, 6

    def watch() -> dict[str, Any]:
        try:
            wait_for(lambda: status()["idcs"][0]["warm"]["files_done"] == 6, "the job's progress")
            return status()
        finally:
            group.holding = 12

    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(watch)
        assert work(dags["warm_dataset"], warm_run) == "success"
        warming = seen.result()
    step = warming["idcs"][0]["warm"]
    assert (step["run_id"], step["files_total"], step["job_state"]) == (warm_run, 12, "running")
    assert warming["stage"] == "warming"
    done = status()
    assert (done["stage"], done["error"]) == ("done", None)
    assert (done["idcs"][0]["warm"]["job_state"], done["idcs"][0]["warm"]["files_done"]) == ("done", 12)
    # what has ended stays as it ended
    assert call("POST", f"{PUBLISH}/{run_id}/cancel", "ben").json()["stage"] == "done"
    check_lineage(call, site, run_id, sync_run, warm_run)
    # another publish of the same content is the same version with a way of its own
    again = call("POST", PUBLISH, "ben", dataset="way", query="select * from frames").json()["run_id"]
    assert work(dags["publish_dataset"], again) == "success"
    told = call("GET", f"{PUBLISH}/{again}", "ann").json()
    assert (told["version"], told["is_new"], told["stage"]) == (site.versions[1], False, "syncing")
    assert status()["stage"] == "done"


def check_lineage(call: Call, site: Any, run_id: str, sync_run: str, warm_run: str) -> None:
    """Runs of a version, versions of a run; then the same by the command, from the drive to the training and back."""
    trained = train(site.versions[1])
    told = call("GET", "/outlap/api/v1/datasets/way/versions/v1/runs", "ann").json()["runs"]
    assert [(run["step"], run["run_id"], run["idc"], run["state"]) for run in told] == [
        ("publish", run_id, None, "success"),
        ("sync", sync_run, "idc-b", "success"),
        ("warm", warm_run, "idc-b", "success"),
        ("train", trained, "idc-b", "success"),
    ]
    assert told[3]["nodes"] == ["b1"]
    for dag, run in (("publish_dataset", run_id), ("warm_dataset", warm_run), ("trains", trained)):
        (one,) = call("GET", f"/outlap/api/v1/runs/{dag}/{run}", "ann").json()["runs"]
        assert (one["dataset"], one["version"]) == ("way", site.versions[1])
    up = command("lineage", "--run", f"trains/{trained}")[0]
    assert [drive["drive"] for drive in up["drives"]] == ["d1", "d2"]
    assert up["drives"][0]["raw"] == ["raw/car1/2026-01-02/d1"]
    assert up["available"] == {"idc-a": True, "idc-b": True}
    down = command("lineage", "d2")
    runs = [run["run_id"] for one in down["versions"] for run in one["runs"] if run["step"] == "train"]
    assert runs == [trained]
    assert command("lineage", "way@v1")["version"]["origin"]["run"] == run_id
    assert command("lineage", "--run", f"publish_dataset/{run_id}")[0]["version"]["dataset"] == "way"


def command(*arguments: str) -> Any:
    """The JSON that `outlap` prints; Airflow is where the environment says."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "outlap"), *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def train(version: str) -> str:
    """A run that says that it trained, as scheduled_training does; its id."""
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.sdk import DAG, get_current_context, task
    from outlap_airflow.assets import announce_trained, dataset_trained

    with DAG("trains", schedule=None) as dag:

        @task(outlets=[dataset_trained])
        def record() -> str:
            planned = {"dataset": "way", "version": version, "idc": "idc-b", "tag": "v1"}
            mounted = {"nodes": [{"node": "b1"}]}
            return announce_trained(planned, mounted, get_current_context()["outlet_events"])

        record()
    dag.fileloc = __file__
    bag = DagBag(dag_folder=os.devnull)
    bag.bag_dag(dag)
    sync_bag_to_db(bag, "dags-folder", None)
    done = dag.test()
    assert str(done.state) == "success"
    return str(done.run_id)


def test_a_cancel_ends_what_runs_and_what_follows(
    call: Call, dags: dict[str, Any], site: Any, group: Any, wait_for: Callable[..., None]
) -> None:
    query = "select * from frames where drive = 'd1'"
    run_id = call("POST", PUBLISH, "ben", dataset="halted", query=query).json()["run_id"]
    assert work(dags["publish_dataset"], run_id) == "success"
    assert work(dags["sync_dataset"], follow("sync_dataset")[0]) == "success"
    warm_run = follow("warm_dataset")[0]
    group.holding = 3
    assert work(dags["warm_dataset"], warm_run, triggerer=False) == "running"
    waiting = call("GET", f"{PUBLISH}/{run_id}", "ann").json()
    assert (waiting["stage"], waiting["idcs"][0]["warm"]["state"]) == ("warming", "running")
    answer = call("POST", f"{PUBLISH}/{run_id}/cancel", "ben")
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["stage"], told["cancelled_by"], told["state"]) == ("cancelled", "ben", "success")
    assert told["idcs"][0]["warm"]["state"] == "failed"
    with Control(group.url, group.token) as control:
        assert control.job(told["idcs"][0]["warm"]["job"]).state == "cancelled"
    run = call("GET", f"/api/v2/dags/warm_dataset/dagRuns/{warm_run}", "ann").json()
    assert (run["state"], run["note"]) == ("failed", "cancelled by ben")
    # the version is published, and stays
    assert call("GET", "/outlap/api/v1/datasets/halted/versions/latest", "ann").json()["files"] == 6


def test_a_publish_that_waits_is_cancelled_before_it_begins(call: Call) -> None:
    run_id = call("POST", PUBLISH, "ben", dataset="front", tag="never").json()["run_id"]
    told = call("POST", f"{PUBLISH}/{run_id}/cancel", "ben").json()
    assert (told["stage"], told["state"], told["version"]) == ("cancelled", "failed", None)
    assert call("POST", f"{PUBLISH}/{run_id}/cancel", "dora").json()["cancelled_by"] == "ben"


@pytest.mark.fault("E4")
def test_a_publish_that_fails_names_its_task(call: Call, dags: dict[str, Any], group: Any) -> None:
    query = "select nothing_like_it from frames"
    run_id = call("POST", PUBLISH, "ben", dataset="broken", query=query).json()["run_id"]
    assert work(dags["publish_dataset"], run_id) == "failed"
    told = call("GET", f"{PUBLISH}/{run_id}", "ann").json()
    assert told["stage"] == "failed"
    assert told["error"].startswith(f"publish_dataset {run_id}: publish failed: the query: Binder Error")
    assert "nothing_like_it" in told["error"] and "Next: correct the SQL" in told["error"]


def test_a_sync_under_way_tells_rate_and_eta_and_a_control_that_is_away_costs_its_step_only(
    idcs: Any,
) -> None:
    from outlap_airflow.api.chain import Chain, Run, status_of

    from lake.config import load_config

    key = f"front@{'ab' * 32}|idc-b"
    progress = {"done": 50, "total": 200, "began_ns": 0, "at_ns": 10 * 10**9}
    sync = Run("sync_dataset", "s", key, "running", 1, {}, None, {("copy_to_idc-b", "progress"): progress})
    job = {"id": "j", "idc": "idc-b", "open": True}
    warm = Run("warm_dataset", "w", key, "running", 1, {}, None, {("warm", "job"): job})
    made = {"dataset": "front", "version": "ab" * 32, "files": 6}
    publish = Run("publish_dataset", "p", None, "success", 1, {}, None)
    told = status_of(Chain(publish, made, [sync], [warm], []), load_config())
    (idc,) = told.idcs
    assert (idc.sync.rate_bps, idc.sync.eta_s, told.eta_s) == (5.0, 30.0, 30.0)
    assert (told.stage, told.error) == ("syncing", None)
    assert idc.warm is not None and idc.warm.job == "j"
    assert "does not answer" in str(idc.warm.error)


def test_airflow_backfills_nights_for_their_own_moments(call: Call) -> None:
    """Three nights, asked of Airflow: a run for each midnight, and each stands for that midnight whenever it runs."""
    from outlap_airflow import nightly

    days = [f"2026-03-{day}T00:00:00Z" for day in (28, 29, 30)]
    asked = {"dag_id": "nightly_incremental", "from_date": days[0], "to_date": days[-1], "max_active_runs": 1}
    made = call("POST", "/api/v2/backfills", "dora", **asked)
    assert made.status_code == 200, made.text
    rows = call("GET", "/api/v2/dags/nightly_incremental/dagRuns?run_type=backfill", "ann").json()["dag_runs"]
    moments = [datetime.fromisoformat(row["data_interval_end"]) for row in rows]
    assert sorted(moments) == [datetime.fromisoformat(day) for day in days]
    until = {nightly.until_of(moment, datetime.now(UTC)) for moment in moments}
    assert until == {int(moment.timestamp()) * 10**9 for moment in moments}
    # what follows events is not for backfills: publish or sync again instead
    refused = call("POST", "/api/v2/backfills", "dora", **{**asked, "dag_id": "sync_dataset"})
    assert refused.status_code in (409, 422) and "schedule" in refused.text


def test_each_link_and_the_trainings_have_a_pool(airflow_database: None, idcs: Any) -> None:
    from airflow.models.pool import Pool
    from outlap_airflow.pools import ensure_pools

    ensure_pools()
    found = {name: Pool.get_pool(name) for name in ("sync_idc-a_idc-b", "training")}
    assert {name: pool.slots for name, pool in found.items() if pool} == {
        "sync_idc-a_idc-b": 2,
        "training": 16,
    }
    # the slots that somebody gave it stay
    Pool.create_or_update_pool("training", slots=3, description="ours", include_deferred=True)
    assert ensure_pools() == []
    kept = Pool.get_pool("training")
    assert kept is not None and kept.slots == 3
    Pool.create_or_update_pool("training", slots=16, description="Trainings that run", include_deferred=True)
