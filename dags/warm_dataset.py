"""A synced version → resident and verified on the nodes."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, PartitionedAssetTimetable, get_current_context, task
from outlap_airflow import forms, warm
from outlap_airflow.assets import dataset_synced
from outlap_airflow.faults import RETRIES
from outlap_airflow.operators import Warm

with DAG(
    dag_id="warm_dataset",
    description="Make a version resident and verified on the nodes of an IDC",
    doc_md="""
Follows `dataset_synced` (one run per version and IDC), or runs from the form. The wait holds no worker. The run
succeeds only when every file is resident and verified on every chosen node; otherwise the task fails and lists the
paths.
""",
    schedule=PartitionedAssetTimetable(assets=dataset_synced),
    catchup=False,
    max_active_runs=8,
    is_paused_upon_creation=False,
    tags=["outlap", "warm"],
    default_args=RETRIES,
    params={
        "dataset": forms.dataset(required=False),
        "ref": forms.ref(),
        "idc": forms.idc("Where. Empty: every destination with a cache group."),
        "nodes": forms.nodes(),
        "files": forms.files(),
        "pin": Param(
            False, type="boolean", title="Pin", description="Keep it from eviction until it is unpinned."
        ),
    },
):

    @task
    def find() -> list[dict[str, Any]]:
        context = get_current_context()
        return warm.requests("warm", context["dag_run"].partition_key, context["params"])

    Warm.partial(task_id="warm").expand_kwargs(find())
