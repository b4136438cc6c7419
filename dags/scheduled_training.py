"""Warm early enough, train on verified residency, free by policy: one DAG for the form, and one for each of [[airflow.trainings]]."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, DeadlineReference, Param, get_current_context, task
from outlap_airflow import alerts, forms, pinning, training
from outlap_airflow.assets import announce_trained, dataset_trained
from outlap_airflow.faults import RETRIES
from outlap_airflow.intime import WarmInTime, late_id, tell_if_late
from outlap_airflow.operators import Free, WaitUntil
from outlap_airflow.pools import TRAINING_POOL
from outlap_airflow.settings import Training, airflow_settings
from outlap_airflow.timetable import TrainingTimetable

from lake.config import load_config

settings = airflow_settings(load_config())
DOC = """
`plan` fixes the version and asks the control service for an estimate; warming starts that much, and the lead time, before training.
While it warms, an alert goes out as soon as the ETA says that it will be late. Training starts when every byte is resident and verified
(or as much as the policy says) and its time has come, on a node that has it. The version is pinned from before the warm until the end.
`[airflow] launcher` in outlap.toml decides where the command runs: `process` here, `kubernetes` in a pod and `kubernetes-job` in a job
with affinity to the warm nodes.
"""


def form(entry: Training) -> dict[str, Any]:
    """The fields of the form, with what the settings say as defaults."""
    fields: dict[str, Any] = {
        "dataset": forms.dataset(),
        "ref": forms.ref(),
        "idc": forms.idc("Where to train. Empty: the one destination that has a cache group."),
        "nodes": forms.nodes(),
        "command": Param(
            entry.command,
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
            description="When training is to start. Empty: at its scheduled time, else as soon as the version is warm.",
        ),
        "lead_minutes": Param(
            entry.margin_minutes,
            type="number",
            minimum=0,
            title="Lead time (minutes)",
            description="How long before the start the version is to be warm, on top of the estimate.",
        ),
        "min_resident_percent": Param(
            entry.min_resident_percent,
            type="number",
            exclusiveMinimum=0,
            maximum=100,
            title="Enough (percent)",
            description="Below 100: from the start on, so much of the bytes on a node is enough; the rest is read on demand.",
        ),
        "priority": Param(
            entry.priority,
            type="integer",
            minimum=-100,
            maximum=100,
            title="Priority",
            description="Of the warm-up against others: nodes warm higher ones first.",
        ),
        "free": Param(
            entry.free,
            type="string",
            enum=["never", "after", "keep-latest"],
            title="Free",
            description="After training: `never`, this version (`after`), or all versions of the dataset but the latest.",
        ),
    }
    fields["dataset"].value = entry.dataset
    fields["ref"].value = entry.ref
    fields["idc"].value, fields["nodes"].value = entry.idc, entry.nodes
    return fields


def training_dag(dag_id: str, entry: Training, scheduled: bool) -> DAG:
    """The DAG of one entry; the one that is not scheduled is for the form."""
    timetable = TrainingTimetable(entry.cron, timezone=entry.timezone, lead=timedelta(hours=entry.lead_hours))
    # the second net, for a run that hangs: our own alert comes before it is late. The logical date is `lead` before training
    net = DeadlineAlert(
        reference=DeadlineReference.DAGRUN_LOGICAL_DATE,
        interval=timedelta(hours=entry.lead_hours + entry.ends_within_hours),
        callback=AsyncCallback(
            alerts.deadline_missed,
            kwargs={"what": f"It was to end within {entry.ends_within_hours:g} hours of its training time."},
        ),
    )
    with DAG(
        dag_id=dag_id,
        description="Warm a version early enough, train when it is resident and verified, free it by policy",
        doc_md=DOC,
        schedule=timetable if scheduled else None,
        deadline=net if scheduled else None,
        catchup=False,
        max_active_runs=2,
        is_paused_upon_creation=False,
        tags=["outlap", "train"],
        # between runs that compete for workers and slots, as between their warms
        default_args={**RETRIES, "priority_weight": 101 + entry.priority, "weight_rule": "absolute"},
        params=form(entry),
    ) as dag:

        @task(multiple_outputs=True)
        def plan() -> dict[str, Any]:
            context = get_current_context()
            run = context["dag_run"]
            planned = training.plan(
                context["params"], run.run_after, run.data_interval_end if scheduled else None
            )
            tell_if_late(planned, context["ti"])
            return planned

        @task
        def pin(planned: dict[str, Any]) -> dict[str, Any]:
            return pinning.pin(planned)

        @task
        def mount(planned: dict[str, Any]) -> dict[str, Any]:
            context = get_current_context()
            alerts.ended(late_id(context["ti"]), "It is warm, and trains.")
            return training.mount(
                planned, context["ti"].try_number == 1, context["params"]["min_resident_percent"]
            )

        @task
        def train(planned: dict[str, Any], mounted: dict[str, Any]) -> dict[str, Any]:
            context = get_current_context()
            command, percent = context["params"]["command"], context["params"]["min_resident_percent"]
            if context["ti"].try_number > 1:
                return training.train_again(planned, mounted, command, percent)
            return training.train(planned, mounted, command)

        @task(outlets=[dataset_trained])
        def record(planned: dict[str, Any], mounted: dict[str, Any]) -> str:
            return announce_trained(planned, mounted, get_current_context()["outlet_events"])

        @task
        def unmount(planned: dict[str, Any], mounted: dict[str, Any] | None) -> None:
            training.unmount(planned, mounted)

        @task
        def unpin(planned: dict[str, Any], pinned: dict[str, Any] | None) -> None:
            pinning.unpin(planned, pinned)

        @task
        def what_to_free(planned: dict[str, Any]) -> list[dict[str, Any]]:
            return training.what_to_free(planned, get_current_context()["params"]["free"])

        planned = plan()
        wait_to_warm = WaitUntil(task_id="wait_to_warm", moment=planned["warm_at"])
        pinned = pin(planned)
        warm = WarmInTime(
            task_id="warm",
            dataset=planned["dataset"],
            ref=planned["version"],
            idc=planned["idc"],
            nodes=planned["nodes"],
            pin=True,
            priority="{{ params.priority }}",
            deadline=planned["deadline"],
            percent="{{ params.min_resident_percent }}",
        )
        wait_to_train = WaitUntil(task_id="wait_to_train", moment=planned["train_at"])
        mounted = mount(planned)
        if settings.launcher == "process":
            trained: Any = train.override(execution_timeout=timedelta(hours=24), pool=TRAINING_POOL)(
                planned, mounted
            )
        else:
            from outlap_airflow.kubernetes import LAUNCHERS

            trained = LAUNCHERS[settings.launcher](
                task_id="train",
                name="outlap-train",
                planned=planned,
                mounted=mounted,
                command="{{ params.command }}",
                percent="{{ params.min_resident_percent }}",
                image=settings.image,
                namespace=settings.namespace,
                kubernetes_conn_id=settings.kubernetes_conn_id,
                deferrable=True,
                random_name_suffix=True,
                pool=TRAINING_POOL,
            )
        down = unmount(planned, mounted).as_teardown(setups=mounted, on_failure_fail_dagrun=True)
        loose = unpin(planned, pinned).as_teardown(setups=pinned, on_failure_fail_dagrun=True)
        freeing = what_to_free(planned)
        (
            planned
            >> wait_to_warm
            >> pinned
            >> warm
            >> wait_to_train
            >> mounted
            >> trained
            >> down
            >> loose
            >> freeing
        )
        trained >> record(planned, mounted)
        Free.partial(task_id="free").expand_kwargs(freeing)
    return dag


training_dag(
    "scheduled_training", Training(name="form", dataset="frames-720p", cron="0 0 * * *"), scheduled=False
)
for training_entry in settings.trainings:
    training_dag(f"train_{training_entry.name}", training_entry, scheduled=True)
