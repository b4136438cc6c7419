"""Every night: new drives only, then the datasets of the settings again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, Param, get_current_context, task
from outlap_airflow import forms, nightly
from outlap_airflow.faults import RETRIES
from outlap_airflow.operators import RunDag
from outlap_airflow.settings import airflow_settings

from lake.config import load_config

settings = airflow_settings(load_config())

with DAG(
    dag_id="nightly_incremental",
    description="Ingest new drives, publish the datasets of the settings again; sync and warm follow",
    doc_md="""
Takes the uploads that ended before the moment this run stands for, then runs `publish_dataset` for each entry of `[[airflow.datasets]]`
in outlap.toml. A dataset whose query selects the same frames as before keeps its version, and nothing follows; one whose
query selects nothing yet is skipped. A failed drive does not keep the others from being published; the run then ends as failed.

A night begins where the last one ended, so a missed night is caught up by the next. A night that is run again, or backfilled,
finds the catalogue as it left it and publishes the same; one that a later night has caught up does nothing. `[airflow] nightly` and
`timezone` say when.
""",
    # a stack that is started after midnight does not begin the night that has passed: the next one takes what it would have
    schedule=CronTriggerTimetable(settings.nightly, timezone=settings.timezone, run_immediately=timedelta(0)),
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

    @task
    def look() -> dict[str, Any]:
        context = get_current_context()
        run, params = context["dag_run"], context["params"]
        return nightly.look(
            nightly.until_of(run.data_interval_end, run.run_after), params["cut"], params["rate_hz"]
        )

    night = look()
    ingest = RunDag(
        task_id="ingest",
        trigger_dag_id="ingest_drives",
        # the same night is the same run, which is run again instead of a second one
        trigger_run_id="nightly__{{ ti.xcom_pull(task_ids='look')['night'] }}",
        conf="{{ ti.xcom_pull(task_ids='look')['ingest'] | tojson }}",
        logical_date=None,
        reset_dag_run=True,
        wait_for_completion=True,
        deferrable=True,
        poke_interval=5,
        execution_timeout=timedelta(hours=12),
    )

    @task(trigger_rule="all_done_min_one_success")
    def find(night: dict[str, Any]) -> list[dict[str, Any]]:
        return nightly.publishes(night, get_current_context()["params"]["dataset"])

    publish = RunDag.partial(
        task_id="publish",
        trigger_dag_id="publish_dataset",
        logical_date=None,
        reset_dag_run=True,
        wait_for_completion=True,
        deferrable=True,
        poke_interval=5,
        execution_timeout=timedelta(hours=6),
    ).expand_kwargs(find_publishes := find(night))

    @task(trigger_rule="none_failed")
    def done() -> None:
        """Fails with what came before: a failed ingest would else be hidden by publishes that went well."""

    night >> ingest >> find_publishes
    [ingest, publish] >> done()
