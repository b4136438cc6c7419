"""Every few minutes: what is wrong, told once, and when it is over."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable, task
from outlap_airflow import watch
from outlap_airflow.settings import airflow_settings

from lake.config import load_config

settings = airflow_settings(load_config())

with DAG(
    dag_id="watch",
    description="Refused drives, sync lag, disks, nodes: tell what is wrong once, and when it is over",
    doc_md="""
Looks at the rate of refused drives, at what other IDCs lack of the newest versions, and at the disks and nodes of every cache group.
What is new is told by email or webhook (`[airflow.alerts]` in outlap.toml), and once more when it has ended. Without such settings
it is not scheduled.
""",
    schedule=CronTriggerTimetable(settings.alerts.watch, timezone="UTC")
    if settings.alerts.email or settings.alerts.webhook
    else None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["outlap", "alerts"],
    default_args={
        "retries": 1,
        "retry_delay": timedelta(seconds=30),
        "execution_timeout": timedelta(minutes=5),
    },
):

    @task
    def look() -> dict[str, Any]:
        return watch.look()

    look()
