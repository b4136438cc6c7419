"""Every night: new drives only, then the datasets of the settings again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param, get_current_context, task
from outlap_airflow import forms, nightly
from outlap_airflow.faults import RETRIES

with DAG(
    dag_id="nightly_incremental",
    description="Ingest new drives, publish the datasets of the settings again; sync and warm follow",
    doc_md="""
Runs `ingest_drives` (which takes only what is new), then `publish_dataset` for each entry of `[[airflow.datasets]]`
in outlap.toml. A dataset whose query selects the same frames as before keeps its version, and nothing follows. A
failed drive does not keep the others from being published; the run then ends as failed.
""",
    schedule="@daily",
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["outlap", "nightly"],
    default_args=RETRIES,
    params={
        **forms.cut(),
        "dataset": Param(
            None,
            type=["null", "string"],
            title="Dataset",
            description="Only this one of the settings. Empty: all of them.",
        ),
    },
):
    ingest = TriggerDagRunOperator(
        task_id="ingest",
        trigger_dag_id="ingest_drives",
        # the same id when this is cleared: that run is run again instead of a second one
        trigger_run_id="nightly__{{ run_id }}",
        conf="{{ {'cut': params.cut, 'rate_hz': params.rate_hz} | tojson }}",
        logical_date=None,
        reset_dag_run=True,
        wait_for_completion=True,
        deferrable=True,
        poke_interval=5,
        execution_timeout=timedelta(hours=12),
    )

    @task(trigger_rule="all_done")
    def find() -> list[dict[str, Any]]:
        context = get_current_context()
        return nightly.publishes(context["run_id"], context["params"]["dataset"])

    publish = TriggerDagRunOperator.partial(
        task_id="publish",
        trigger_dag_id="publish_dataset",
        logical_date=None,
        reset_dag_run=True,
        wait_for_completion=True,
        deferrable=True,
        poke_interval=5,
        execution_timeout=timedelta(hours=6),
    ).expand_kwargs(find_publishes := find())

    @task(trigger_rule="none_failed")
    def done() -> None:
        """Fails with what came before: a failed ingest would else be hidden by publishes that went well."""

    ingest >> find_publishes
    [ingest, publish] >> done()
