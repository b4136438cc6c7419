"""Warm early enough, train on verified residency, free by policy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task
from outlap_airflow import forms, training
from outlap_airflow.faults import RETRIES
from outlap_airflow.operators import Free, WaitUntil, Warm
from outlap_airflow.settings import airflow_settings

from lake.config import load_config

settings = airflow_settings(load_config())

with DAG(
    dag_id="scheduled_training",
    description="Warm a version early enough, train when it is resident and verified, free it by policy",
    doc_md="""
`plan` fixes the version and asks the control service for an estimate; warming starts that much, and the lead time,
before training. Training starts when every byte is resident and verified and its time has come, on a node that has
it. `[airflow] launcher` in outlap.toml decides where the command runs: `process` here, `kubernetes` in a pod with
affinity to the warm nodes.
""",
    schedule=None,
    catchup=False,
    max_active_runs=2,
    is_paused_upon_creation=False,
    tags=["outlap", "train"],
    default_args=RETRIES,
    params={
        "dataset": forms.dataset(),
        "ref": forms.ref(),
        "idc": forms.idc("Where to train. Empty: the one destination that has a cache group."),
        "nodes": forms.nodes(),
        "command": Param(
            "python -m outlap_airflow.train {mount}",
            type="string",
            title="Command",
            description="What to run; {mount} stands for the folder of the version. No shell reads it.",
            minLength=1,
        ),
        "start_at": Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="Start",
            description="When training is to start. Empty: as soon as the version is warm.",
        ),
        "lead_minutes": Param(
            5,
            type="number",
            minimum=0,
            title="Lead time (minutes)",
            description="How long before the start the version is to be warm, on top of the estimate.",
        ),
        "free": Param(
            "never",
            type="string",
            enum=["never", "after", "keep-latest"],
            title="Free",
            description="After training: `never`, this version (`after`), or all versions of the dataset but the latest.",
        ),
    },
):

    @task(multiple_outputs=True)
    def plan() -> dict[str, Any]:
        context = get_current_context()
        return training.plan(context["params"], context["dag_run"].run_after)

    @task
    def mount(planned: dict[str, Any]) -> dict[str, Any]:
        return training.mount(planned, get_current_context()["ti"].try_number == 1)

    @task
    def train(planned: dict[str, Any], mounted: dict[str, Any]) -> dict[str, Any]:
        return training.train(planned, mounted, get_current_context()["params"]["command"])

    @task
    def unmount(planned: dict[str, Any], mounted: dict[str, Any] | None) -> None:
        training.unmount(planned, mounted)

    @task
    def what_to_free(planned: dict[str, Any]) -> list[dict[str, Any]]:
        return training.what_to_free(planned, get_current_context()["params"]["free"])

    planned = plan()
    wait_to_warm = WaitUntil(task_id="wait_to_warm", moment=planned["warm_at"])
    warm = Warm(
        task_id="warm",
        dataset=planned["dataset"],
        ref=planned["version"],
        idc=planned["idc"],
        nodes="{{ ti.xcom_pull(task_ids='plan', key='request')['nodes'] }}",
    )
    wait_to_train = WaitUntil(task_id="wait_to_train", moment=planned["train_at"])
    mounted = mount(planned)
    if settings.launcher == "kubernetes":
        from outlap_airflow.kubernetes import TrainOnWarmNodes

        trained: Any = TrainOnWarmNodes(
            task_id="train",
            name="outlap-train",
            planned=planned,
            mounted=mounted,
            command="{{ params.command }}",
            image=settings.image,
            namespace=settings.namespace,
            kubernetes_conn_id=settings.kubernetes_conn_id,
            deferrable=True,
            random_name_suffix=True,
        )
    else:
        trained = train.override(execution_timeout=timedelta(hours=24))(planned, mounted)
    down = unmount(planned, mounted).as_teardown(setups=mounted, on_failure_fail_dagrun=True)
    freeing = what_to_free(planned)
    planned >> wait_to_warm >> warm >> wait_to_train >> mounted >> trained >> down >> freeing
    Free.partial(task_id="free").expand_kwargs(freeing)
