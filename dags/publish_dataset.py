"""A query over the catalogue, or another source → an immutable version, announced to whoever follows."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param
from outlap_airflow import forms
from outlap_airflow.faults import RETRIES
from outlap_airflow.operators import Announce, Publish

with DAG(
    dag_id="publish_dataset",
    description="Publish what a query or another source gives as the next version of a dataset",
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
        "source": forms.source(),
        "tag": forms.tag(),
        "announce": Param(
            "always",
            type="string",
            enum=["always", "new"],
            title="Announce",
            description="`always`: sync and warm follow, and find nothing to do when all is there. `new`: only for a new version.",
        ),
        "night": Param(
            None,
            type=["null", "string"],
            title="Night",
            description="Set by the nightly run: ask the query of the catalogue as that night left it.",
        ),
    },
):
    publish = Publish(
        task_id="publish",
        dataset="{{ params.dataset }}",
        query="{{ params.query }}",
        source="{{ params.source | tojson if params.source else '' }}",
        tag="{{ params.tag or '' }}",
        night="{{ params.night or '' }}",
    )
    Announce(task_id="announce", published=publish.output, announce="{{ params.announce }}")
