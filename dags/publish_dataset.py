"""A query over the catalogue → an immutable version, announced to whoever follows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from outlap_airflow import forms, publish
from outlap_airflow.assets import dataset_published
from outlap_airflow.faults import RETRIES

with DAG(
    dag_id="publish_dataset",
    description="Publish what a query selects as the next version of a dataset",
    doc_md="""
The form, `POST /outlap/api/v1/publish` and the nightly DAG all run this. The same content is the same version:
publishing it again writes nothing. The last task emits the asset `dataset_published` with the partition key
`<dataset>@<version>`; `sync_dataset` follows it.
""",
    schedule=None,
    catchup=False,
    max_active_runs=4,
    is_paused_upon_creation=False,
    tags=["outlap", "publish"],
    default_args={**RETRIES, "execution_timeout": timedelta(hours=2)},
    params={
        "dataset": forms.dataset(),
        "query": forms.query(),
        "tag": forms.tag(),
        "announce": Param(
            "always",
            type="string",
            enum=["always", "new"],
            title="Announce",
            description="`always`: sync and warm follow, and find nothing to do when all is there. `new`: only for a new version.",
        ),
    },
):

    @task(task_id="publish")
    def publish_version() -> dict[str, Any]:
        context = get_current_context()
        params, run = context["params"], context["dag_run"]
        return publish.publish(params["dataset"], params["query"], params["tag"], run.dag_id, run.run_id)

    @task(outlets=[dataset_published])
    def announce(published: dict[str, Any]) -> str:
        context = get_current_context()
        if not publish.worth_announcing(published, context["params"]["announce"]):
            raise AirflowSkipException(
                f"{published['dataset']} is still {published['tag']}: nothing new to announce"
            )
        return publish.announce(published, context["outlet_events"])

    announce(publish_version())
