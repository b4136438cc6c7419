"""Release what a version holds on the nodes."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, get_current_context, task
from outlap_airflow import forms, warm
from outlap_airflow.faults import RETRIES
from outlap_airflow.operators import Free

with DAG(
    dag_id="free_dataset",
    description="Release what a version holds on the nodes of an IDC",
    doc_md="""
Only cached copies go: the version stays in every store. What another version shares, or a mount needs, is kept.
""",
    schedule=None,
    catchup=False,
    max_active_runs=4,
    is_paused_upon_creation=False,
    tags=["outlap", "free"],
    default_args=RETRIES,
    params={
        "dataset": forms.dataset(),
        "ref": forms.ref(),
        "idc": forms.idc("Where. Empty: every destination with a cache group."),
        "nodes": forms.nodes(),
        "files": forms.files(),
    },
):

    @task
    def find() -> list[dict[str, Any]]:
        return warm.requests("free", None, get_current_context()["params"])

    Free.partial(task_id="free").expand_kwargs(find())
