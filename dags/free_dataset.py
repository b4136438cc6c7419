"""Release what a version holds on the nodes."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from outlap_airflow import forms, warm
from outlap_airflow.faults import RETRIES
from outlap_airflow.operators import Free

with DAG(
    dag_id="free_dataset",
    description="Release what a version holds on the nodes of an IDC",
    doc_md="""
Only cached copies go: the version stays in every store. What another version shares, or a mount needs, is kept, and a pinned
version is freed only by force. The task says how many bytes each node freed, and what is left and why.
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
        "force": Param(
            False,
            type="boolean",
            title="Also where it is pinned",
            description="Without it a pinned version is not freed: the run fails and names who pinned it, and when.",
        ),
    },
):

    @task
    def find() -> list[dict[str, Any]]:
        return warm.requests("free", None, get_current_context()["params"])

    Free.partial(task_id="free").expand_kwargs(find())
