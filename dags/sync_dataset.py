"""A published version → every other IDC, one run for each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, PartitionedAssetTimetable, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException
from outlap_airflow import forms, sync
from outlap_airflow.assets import dataset_published
from outlap_airflow.faults import RETRIES
from outlap_airflow.mappers import FanOutIdc
from outlap_airflow.operators import Sync
from outlap_airflow.pools import link_pool
from outlap_airflow.settings import destinations

from lake.config import load_config

# A pool cannot be chosen while a run runs, so each link has its own task; the settings files name the links
config = load_config()

with DAG(
    dag_id="sync_dataset",
    description="Copy what other IDCs lack of a version, then let it appear there",
    doc_md="""
Follows `dataset_published`, with one run for each destination IDC (partition key `<dataset>@<version>|<idc>`), or
runs from the form. Only what the destination lacks is copied; the version appears there when all of it is there. Then
`dataset_synced` is emitted with the same key. Each link between two IDCs has a pool, `sync_<from>_<to>`.
""",
    schedule=PartitionedAssetTimetable(assets=dataset_published, default_partition_mapper=FanOutIdc()),
    catchup=False,
    max_active_runs=8,
    is_paused_upon_creation=False,
    tags=["outlap", "sync"],
    default_args={**RETRIES, "execution_timeout": timedelta(hours=24)},
    params={
        "dataset": forms.dataset(required=False),
        "ref": forms.ref(),
        "idc": forms.idc("Where to. Empty: every destination."),
    },
):

    @task(multiple_outputs=False)
    def find() -> dict[str, Any]:
        context = get_current_context()
        return sync.what_to_sync(context["dag_run"].partition_key, context["params"])

    @task.branch
    def choose(asked: dict[str, Any]) -> list[str]:
        known = get_current_context()["dag"].task_ids
        chosen = [f"copy_to_{idc}" for idc in asked["idcs"]]
        missing = sorted(set(chosen) - set(known))
        if missing:
            raise AirflowFailException(
                f"the tasks {', '.join(missing)}: this DAG was read before the settings named that IDC. "
                "Next: wait for the next parse, then clear this task"
            )
        return chosen

    chosen = choose(find())
    for idc in destinations(config):
        copy = Sync(
            task_id=f"copy_to_{idc}",
            pool=link_pool(config.idc, idc),
            dataset="{{ ti.xcom_pull(task_ids='find')['dataset'] }}",
            ref="{{ ti.xcom_pull(task_ids='find')['ref'] }}",
            idc=idc,
        )
        chosen >> copy
