"""The operators as Airflow runs them: `dag.test()` with real stores and a real control service, whose node the test plays."""

from __future__ import annotations

import inspect
import itertools
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import DAG
from outlap_airflow import ingest
from outlap_airflow.intime import WarmInTime
from outlap_airflow.links import show
from outlap_airflow.openlineage import lineage_of
from outlap_airflow.operators import Announce, Free, Ingest, Publish, Sync, WaitUntil, Warm
from outlap_airflow.sensors import ResidencySensor

from lake import refs
from lake.versions import is_available


@pytest.fixture
def ran(airflow_database: None) -> Callable[[DAG], dict[str, Any]]:
    """ran(dag): task id → (state, its XComs, and `_store_<key>` of its task store) after the DAG has run here."""

    def run(dag: DAG) -> dict[str, Any]:
        from airflow.dag_processing.bundles.manager import DagBundlesManager
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
        from airflow.models.task_state_store import TaskStateStoreModel
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session
        from sqlalchemy import select

        DagBundlesManager().sync_bundles_to_db()
        bag = DagBag(dag_folder=os.devnull)
        dag.fileloc = __file__
        bag.bag_dag(dag)
        sync_bag_to_db(bag, "dags-folder", None)
        done = dag.test()
        found = {}
        with create_session() as session:
            for ti in done.get_task_instances(session=session):
                values = {}
                for row in session.scalars(
                    XComModel.get_many(run_id=done.run_id, dag_ids=dag.dag_id, task_ids=ti.task_id)
                ):
                    values[row.key] = XComModel.deserialize_value(row)
                kept = select(TaskStateStoreModel).where(
                    TaskStateStoreModel.run_id == done.run_id, TaskStateStoreModel.task_id == ti.task_id
                )
                for state in session.scalars(kept):
                    values[f"_store_{state.key}"] = json.loads(state.value)
                found[ti.task_id] = (str(ti.state), values)
        return found

    return run


def test_publish_sync_warm_wait_and_free(
    idcs: Any, frames: Callable[..., None], node: Any, ran: Callable[[DAG], dict[str, Any]]
) -> None:
    frames(idcs.a, "d2")
    with DAG("way", schedule=None) as dag:
        publish = Publish(task_id="publish", dataset="{{ 'ci' ~ 'ty' }}", tag="night")
        announce = Announce(task_id="announce", published=publish.output)
        version = "{{ ti.xcom_pull(task_ids='publish')['version'] }}"
        sync = Sync(task_id="sync", dataset="city", ref=version, idc="idc-b")
        warm = Warm(task_id="warm", dataset="city", ref=version, idc="{{ 'idc-b' }}", files=None)
        wait = ResidencySensor(task_id="wait", dataset="city", ref=version, idc="idc-b", on=None)
        free = Free(task_id="free", dataset="city", ref=version, idc="idc-b")
        publish >> announce >> sync >> warm >> wait >> free
    told = ran(dag)
    assert {name: state for name, (state, _) in told.items()} == dict.fromkeys(dag.task_ids, "success")
    made = told["publish"][1]["return_value"]
    assert (made["files"], made["is_new"], made["idc"]) == (6, True, "idc-a")
    assert refs.resolve(idcs.b, "city", "night").version == made["version"]
    assert is_available(idcs.b, made["version"])
    report, job = told["sync"][1]["return_value"], told["warm"][1]["return_value"]
    assert (report["packs_copied"], report["source_idc"]) == (1, "idc-a")
    assert (job["state"], job["files_done"], job["version"]) == ("done", 6, made["version"])
    assert told["wait"][1]["return_value"]["warm"] == ["b1"]
    assert told["free"][1]["return_value"]["state"] == "done"
    # what the page of a task shows
    page = f"/plugin/outlap-datasets?dataset=city&version={made['version']}"
    for name in ("publish", "announce", "sync", "warm", "wait", "free"):
        assert told[name][1]["_link_VersionLink"].endswith(page), name
    assert told["warm"][1]["_link_JobLink"].endswith(f"?idc=idc-b&job={job['id']}")
    assert told["publish"][1]["_link_JobLink"] == ""
    assert told["sync"][1]["_store_progress"]["done"] == report["bytes_copied"]
    assert told["warm"][1]["_store_job"] == {"id": job["id"], "idc": "idc-b", "round": 1, "open": False}


FACTS = {"dataset": "city", "version": "ab" * 32, "tag": "v2", "idc": "idc-b", "files": 6, "bytes": 600}


def test_lineage_names_what_a_task_read_and_wrote() -> None:
    there = {"namespace": "outlap://idc-b", "name": "city", "version": "ab" * 32, "files": 6, "bytes": 600}
    made = lineage_of(FACTS)
    assert made["outputs"] == [there]
    assert made["inputs"] == [{"namespace": "outlap://idc-b", "name": "frames"}]
    parent = {"dataset": "all", "version": "cd" * 32}
    assert lineage_of({**FACTS, "parents": [parent]})["inputs"][0]["name"] == "all"
    synced = lineage_of({**FACTS, "source_idc": "idc-a"})
    assert (synced["inputs"][0]["namespace"], synced["outputs"]) == ("outlap://idc-a", [there])
    assert lineage_of({**FACTS, "job": "1"}) == {"inputs": [there], "outputs": []}
    assert lineage_of({"drive": "d", "vehicle": "v"})["outputs"][0]["name"] == "drives/v/d"


def test_names_join_a_drive_to_the_warm_of_a_training(idcs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each step wrote is, by namespace and name, what the next one read."""
    monkeypatch.setattr(ingest, "ingest_one", lambda *_: {"outcome": "ingested"})
    cut = Ingest(task_id="i", pair={"vehicle": "car1", "drive": "d1"})
    cut.execute({})
    made = {**FACTS, "idc": "idc-a"}
    steps = [lineage_of(cut.shown), lineage_of(made)]
    steps += [lineage_of({**FACTS, "source_idc": "idc-a"}), lineage_of({**FACTS, "job": "1"})]

    def names(items: list[dict[str, Any]]) -> set[tuple[str, str]]:
        return {(item["namespace"], item["name"]) for item in items}

    assert ("outlap://idc-a", "drives/car1/d1") in names(steps[0]["outputs"])
    for before, after in itertools.pairwise(steps):
        assert names(before["outputs"]) & names(after["inputs"])


OPERATORS = (Announce, Free, Ingest, Publish, ResidencySensor, Sync, WaitUntil, Warm, WarmInTime)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda one: one.__name__)
def test_templated_fields_are_arguments_with_types(operator: Any) -> None:
    known: dict[str, inspect.Parameter] = {}
    for part in operator.__mro__:
        if part.__module__.startswith("outlap_airflow"):
            known |= inspect.signature(part.__init__).parameters
    for field in operator.template_fields:
        assert known[field].annotation is not inspect.Parameter.empty, field
    assert {link.name for link in operator.operator_extra_links} <= {"Version", "Job", "Way of the version"}
    assert lineage_of({}) == {"inputs": [], "outputs": []}


def test_the_provider_of_openlineage_can_send_it() -> None:
    from openlineage.client.serde import Serde

    operator = Publish(task_id="p", dataset="city")
    show(operator, **FACTS)
    found = operator.get_openlineage_facets_on_complete(None)
    told = json.loads(Serde.to_json(found.outputs[0]))
    assert (told["namespace"], told["name"]) == ("outlap://idc-b", "city")
    assert told["facets"]["version"]["datasetVersion"] == "ab" * 32
    assert told["outputFacets"]["outputStatistics"]["rowCount"] == 6
    assert json.loads(Serde.to_json(found.inputs[0]))["name"] == "frames"
