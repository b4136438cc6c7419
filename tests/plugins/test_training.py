"""Scheduled training: in time when the clocks change, late told before it is late, enough by policy, pinned, again on its node."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pendulum
import pytest
from airflow.sdk.exceptions import AirflowException, TaskDeferred
from airflow.timetables.base import DataInterval, TimeRestriction
from outlap_airflow import alerts, intime, pinning, training
from outlap_airflow.alerts import Alert
from outlap_airflow.intime import InTimeTrigger, WarmInTime, late_by, resident_percent
from outlap_airflow.settings import airflow_settings
from outlap_airflow.timetable import TrainingTimetable

from cacheengine.client import Control, control_for
from cacheengine.wire import PinRequest
from lake import refs
from lake.config import load_config
from lake.errors import Refused
from tests.deploy.test_manifests import problems

BERLIN = ZoneInfo("Europe/Berlin")


# --- timetable


@pytest.mark.parametrize("day", [datetime(2026, 3, 29, tzinfo=BERLIN), datetime(2026, 10, 25, tzinfo=BERLIN)])
@pytest.mark.parametrize(("cron", "hour"), [("0 6 * * *", 6), ("30 1 * * *", 1)])
def test_training_times_follow_the_clocks_and_the_lead_does_not(day: datetime, cron: str, hour: int) -> None:
    timetable = TrainingTimetable(cron, timezone="Europe/Berlin", lead=timedelta(hours=7))
    again = TrainingTimetable.deserialize(json.loads(json.dumps(timetable.serialize())))
    start = pendulum.instance((day - timedelta(days=1)).astimezone(UTC))
    last = None
    for number in range(3):
        restriction = TimeRestriction(earliest=start, latest=None, catchup=True)
        info = again.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
        assert info is not None and info.data_interval is not None and info.logical_date is not None
        assert info.logical_date == info.run_after, "no task starts before the logical date"
        trains = info.data_interval.end.astimezone(BERLIN)
        assert (trains.date() - day.date()).days == number - 1 and trains.hour == hour
        assert info.data_interval.end - info.run_after == timedelta(hours=7), (
            "seven real hours, whatever the clock says"
        )
        last = DataInterval(info.data_interval.start, info.data_interval.end)


def test_a_training_that_is_near_still_begins_and_one_that_has_passed_before_the_dag_does_not() -> None:
    timetable = TrainingTimetable("0 * * * *", timezone="UTC", lead=timedelta(hours=3))
    restriction = TimeRestriction(earliest=None, latest=None, catchup=False)
    info = timetable.next_dagrun_info(last_automated_data_interval=None, restriction=restriction)
    now = datetime.now(UTC)
    assert info is not None and info.data_interval is not None
    assert now - timedelta(seconds=5) <= info.data_interval.end <= now + timedelta(hours=1)
    assert info.run_after < now, "its lead has begun: it starts at once"
    late = TimeRestriction(earliest=None, latest=pendulum.datetime(2020, 1, 1), catchup=False)
    assert timetable.next_dagrun_info(last_automated_data_interval=None, restriction=late) is None


def test_settings_of_trainings_are_checked(idcs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"name": "night", "dataset": "front", "cron": "0 6 * * *", "timezone": "Europe/Berlin"}
    monkeypatch.setenv("OUTLAP_AIRFLOW_TRAININGS", json.dumps([good]))
    (entry,) = airflow_settings(load_config()).trainings
    assert (entry.lead_hours, entry.min_resident_percent, entry.priority) == (6.0, 100.0, 0)
    for bad in (
        {"name": "A b"},
        {"cron": "at six"},
        {"timezone": "x"},
        {"min_resident_percent": 0},
        {"priority": 101},
    ):
        monkeypatch.setenv("OUTLAP_AIRFLOW_TRAININGS", json.dumps([{**good, **bad}]))
        with pytest.raises(Refused, match="trainings"):
            airflow_settings(load_config())


# --- late, and enough


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Alert]:
    """What is told; alerts themselves have tests of their own."""
    found: list[Alert] = []
    monkeypatch.setattr(alerts, "tell", lambda alert, *_: bool(found.append(alert)) or True)
    return found


def run(operator: WarmInTime, rounds: int = 5) -> Any:
    """An operator and its triggers, as Airflow runs them."""
    ti = SimpleNamespace(dag_id="train_night", run_id="r", task_id="warm", map_index=-1, try_number=1)
    context: dict[str, Any] = {"ti": ti, "task": operator}
    step: Callable[[], Any] = lambda: operator.execute(context)  # noqa: E731
    for _ in range(rounds):
        try:
            return step()
        except TaskDeferred as deferred:
            where, fields = deferred.trigger.serialize()
            assert where == "outlap_airflow.intime.InTimeTrigger"

            async def event(fields: dict[str, Any] = fields) -> Any:
                async for found in InTimeTrigger(**fields).run():
                    return found.payload

            payload = json.loads(json.dumps(asyncio.run(event())))
            step = lambda payload=payload: operator.finish(context, payload)  # noqa: E731
    raise AssertionError("it never ends")


def warm(deadline: datetime, **more: Any) -> WarmInTime:
    fields = {"dataset": "front", "idc": "idc-b", "nodes": "all", "pin": True, "poll_s": 0.3, **more}
    return WarmInTime(task_id="warm", deadline=deadline.isoformat(), **fields)


def test_late_is_told_before_it_is_late_and_once(
    node: Any, told: list[Alert], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ETA says two hours, training is in one: told at once, and the warm goes on until it is done."""
    node.holding = 3
    real = intime._job
    looks = 0

    def slow(*asked: Any) -> Any:
        nonlocal looks
        job, looks = real(*asked), looks + 1
        if looks == 6:
            node.holding = 6
        return job if job.state in intime.ENDED else job.model_copy(update={"eta_s": 7200.0})

    monkeypatch.setattr(intime, "_job", slow)
    deadline = datetime.now(UTC) + timedelta(hours=1)
    job = run(warm(deadline))
    assert job["state"] == "done"
    (alert,) = told
    assert alert.id == "late/train_night/r" and datetime.now(UTC) < deadline
    assert "about 60 minutes late" in alert.title and "54 % are resident" in alert.text


def test_in_time_is_not_told(node: Any, told: list[Alert]) -> None:
    assert run(warm(datetime.now(UTC) + timedelta(hours=1)))["state"] == "done"
    assert told == []


def test_enough_by_policy_starts_in_time_and_less_is_waited_for(node: Any, told: list[Alert]) -> None:
    node.holding = 3
    past = datetime.now(UTC) - timedelta(seconds=1)
    job = run(warm(past, percent=50))
    assert job["state"] == "running" and 50 <= resident_percent(job) < 60
    with control_for(load_config(), "idc-b") as control:
        nodes = control.nodes()
    assert training.warm_nodes(nodes, job["version"]) == []
    assert [one.node for one in training.warm_nodes(nodes, job["version"], 50)] == ["b1"]
    assert training.warm_nodes(nodes, job["version"], 51) == []
    # 60 % are asked for: late, and told so; it goes on when more is there
    waiting = warm(past, percent=60)
    began = time.monotonic()

    def more() -> Any:
        if told and time.monotonic() - began > 1:
            node.holding = 5
        return None

    watching = intime.short
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intime, "short", lambda job: (more(), watching(job))[1])
        assert resident_percent(run(waiting)) > 80
    assert [alert.id for alert in told] == ["late/train_night/r"]


def test_a_failed_warm_is_enough_only_by_policy(node: Any, told: list[Alert]) -> None:
    node.failing = "its hash is wrong"
    later = datetime.now(UTC) + timedelta(hours=1)
    assert run(warm(later, percent=80))["state"] == "failed"
    with pytest.raises(AirflowException, match="its hash is wrong"):
        run(warm(later, percent=90))
    with pytest.raises(AirflowException, match="its hash is wrong"):
        run(warm(later))


def test_without_a_deadline_it_is_a_warm(node: Any) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        node.holding = 1
        WarmInTime(task_id="w", dataset="front", idc="idc-b", deadline="").execute(
            {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="w", map_index=-1, try_number=1)}
        )
    assert type(deferred.value.trigger).__name__ == "JobTrigger"


def test_an_estimate_that_misses_the_time_is_told_before_anything_is_warmed(told: list[Alert]) -> None:
    now = datetime(2026, 6, 1, 4, tzinfo=UTC)
    planned = {
        "dataset": "front",
        "version": "a" * 64,
        "warm_at": "2026-06-01T03:00:00+00:00",
        "estimate_s": 9000,
    }
    planned |= {"deadline": "2026-06-01T06:00:00+00:00"}
    assert late_by(planned, now) == 1800
    assert late_by({**planned, "estimate_s": 7200}, now) == 0
    assert late_by({**planned, "warm_at": "2026-06-01T05:00:00+00:00"}, now) == 5400
    assert late_by({**planned, "deadline": ""}, now) == 0
    assert intime.tell_if_late(planned, SimpleNamespace(dag_id="train_night", run_id="r"))
    assert told[0].id == "late/train_night/r"


# --- plan, pin, node


FORM = {"dataset": "front", "ref": "latest", "idc": None, "nodes": None, "start_at": None, "lead_minutes": 5}


def test_a_scheduled_plan_is_for_its_training_time_and_its_version_stays(node: Any, idcs: Any) -> None:
    at = datetime(2030, 1, 1, 6, tzinfo=UTC)
    planned = training.plan(FORM, datetime.now(UTC), at)
    assert planned["deadline"] == planned["train_at"] == at.isoformat()
    assert planned["version"] == refs.resolve(idcs.b, "front").version == planned["request"]["ref"]
    assert training.plan(FORM, datetime.now(UTC))["deadline"] == ""
    form = training.plan({**FORM, "start_at": "2031-01-01T00:00:00+00:00"}, datetime.now(UTC), at)
    assert form["deadline"].startswith("2031")


@pytest.mark.fault("E13")
def test_the_estimate_counts_what_airflow_itself_takes(
    node: Any, idcs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime(2030, 1, 1, 6, tzinfo=UTC)
    form = {**FORM, "lead_minutes": 0}
    planned = {}
    for seconds in ("0", "45"):
        monkeypatch.setenv("OUTLAP_AIRFLOW_ORCHESTRATION_S", seconds)
        planned[seconds] = training.plan(form, datetime.now(UTC), at)
    assert planned["45"]["estimate_s"] == planned["0"]["estimate_s"] + 45
    begins = [datetime.fromisoformat(planned[seconds]["warm_at"]) for seconds in ("0", "45")]
    assert (begins[0] - begins[1]).total_seconds() == pytest.approx(45, abs=1)


def pinned_now(control: Control) -> list[bool]:
    return [item.pinned for item in control.desired("b1").versions]


def test_a_version_is_pinned_during_a_run_and_a_persons_pin_stays(
    node: Any, wait_for: Callable[..., None]
) -> None:
    planned = training.plan(FORM, datetime.now(UTC))
    first = pinning.pin(planned)
    assert first == {"ours": True}
    run(warm(datetime.now(UTC) + timedelta(hours=1)))
    with control_for(load_config(), "idc-b") as control:
        assert pinned_now(control) == [True]
        pinning.unpin(planned, first)
        assert pinned_now(control) == [False]
        wait_for(lambda: training.warm_nodes(control.nodes(), planned["version"]), "the report")
        # what is there already is kept from before the warm on
        second = pinning.pin(planned)
        assert second == {"ours": True} and pinned_now(control) == [True]
        pinning.unpin(planned, second)
        control.pin(PinRequest(dataset="front"))
        third = pinning.pin(planned)
        assert third == {"ours": False}
        pinning.unpin(planned, third)
        assert pinned_now(control) == [True]
    pinning.unpin(planned, None)


def test_a_retry_keeps_its_node_while_that_is_warm(
    node: Any, wait_for: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(warm(datetime.now(UTC) + timedelta(hours=1)))
    planned = training.plan(FORM, datetime.now(UTC))
    with control_for(load_config(), "idc-b") as control:
        wait_for(lambda: training.warm_nodes(control.nodes(), planned["version"]), "the report")
    here = {"node": "b1", "address": "x", "target": "/m", "ours": True}
    gone = {"node": "b0", "address": "x", "target": "/n", "ours": True}
    seen: list[Any] = []
    monkeypatch.setattr(
        training, "train", lambda planned, mounted, command: seen.append(mounted["nodes"]) or {}
    )
    monkeypatch.setattr(training, "mount", lambda *_: {"target": "/o", "nodes": [{**here, "target": "/o"}]})
    monkeypatch.setattr(training, "unmount", lambda planned, mounted: seen.append("unmounted"))
    training.train_again(planned, {"target": "/n", "nodes": [gone, here]}, "c", 100)
    assert seen == [[here]]
    training.train_again(planned, {"target": "/n", "nodes": [gone]}, "c", 100)
    assert seen[1:] == [[{**here, "target": "/o"}], "unmounted"]


# --- Kubernetes


POD = """
import json
from kubernetes.client import ApiClient
from outlap_airflow import training
from outlap_airflow.kubernetes import LAUNCHERS
from types import SimpleNamespace

nodes = [{"node": name, "target": "/m/d@v1"} for name in ("b2", "b1", "b3")]
mounted = {"target": "/m/d@v1", "nodes": nodes}
training.still_warm = lambda planned, mounted, percent: {**mounted, "nodes": nodes[:2]}
store, made = {}, {}
state = SimpleNamespace(get=store.get, set=store.__setitem__)
for launcher, kind in LAUNCHERS.items():
    operator = kind(
        task_id="train", name="outlap-train", image="i", namespace="outlap", planned={"dataset": "d", "version": "v"},
        mounted=mounted, command="python -m outlap_airflow.train {mount}", percent="100",
    )
    from outlap_airflow import kubernetes
    kubernetes.place_warm(operator, {"task_state_store": state})
    if launcher == "kubernetes":
        made[launcher] = operator.build_pod_request_obj(dry_run=True)
        kubernetes.KubernetesPodOperator.post_complete_action = lambda self, **_: None
        remote = SimpleNamespace(spec=SimpleNamespace(node_name="b2"))
        operator.post_complete_action(pod=None, remote_pod=remote, context={"task_state_store": state})
    else:
        operator.__dict__["hook"] = SimpleNamespace(is_in_cluster=False, get_namespace=lambda: "outlap")
        made[launcher] = operator.build_job_request_obj()
training.still_warm = lambda *_: {**mounted, "nodes": []}
try:
    kubernetes.place_warm(operator, {})
except Exception as error:
    made["none"] = str(error)
print("MADE" + json.dumps({name: ApiClient().sanitize_for_serialization(one) for name, one in made.items()}))
"""


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """The pod and the job that the operators would send, as JSON; the job is of a second try."""
    done = subprocess.run([sys.executable, "-c", POD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.split("MADE", 1)[1]))


def test_pod_and_job_are_what_kubernetes_knows(made: dict[str, Any]) -> None:
    assert list(problems(made["kubernetes"], "V1Pod", "pod")) == []
    assert list(problems(made["kubernetes-job"], "V1Job", "job")) == []
    spec = made["kubernetes-job"]["spec"]
    assert (spec["backoffLimit"], spec["ttlSecondsAfterFinished"]) == (0, 3600)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_they_may_run_on_warm_nodes_only_and_again_where_they_ran(made: dict[str, Any]) -> None:
    pod, again = made["kubernetes"]["spec"], made["kubernetes-job"]["spec"]["template"]["spec"]
    for spec in (pod, again):
        near = spec["affinity"]["nodeAffinity"]
        (term,) = near["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        (match,) = term["matchExpressions"]
        assert (match["key"], match["operator"], match["values"]) == (
            "kubernetes.io/hostname",
            "In",
            ["b1", "b2"],
        )
        (container,) = spec["containers"]
        assert container["command"] == ["python"] and container["args"] == [
            "-m",
            "outlap_airflow.train",
            "/m/d@v1",
        ]
        view = next(item for item in container["volumeMounts"] if item["name"] == "view")
        assert (view["mountPath"], view["readOnly"], view["mountPropagation"]) == (
            "/m/d@v1",
            True,
            "HostToContainer",
        )
    wish = "preferredDuringSchedulingIgnoredDuringExecution"
    assert wish not in pod["affinity"]["nodeAffinity"]
    (preferred,) = again["affinity"]["nodeAffinity"][wish]
    assert preferred["preference"]["matchExpressions"][0]["values"] == ["b2"], "where the try before ran"


def test_a_real_api_server_takes_them(made: dict[str, Any]) -> None:
    """A dry run, which makes nothing: where a cluster is at hand."""
    from kubernetes import client, config

    try:
        config.load_kube_config()
    except config.ConfigException as error:
        pytest.skip(f"no Kubernetes API server is at hand: {error}")
    pod, job = made["kubernetes"], made["kubernetes-job"]
    for one in (pod, job):
        one["metadata"]["namespace"] = "default"
    client.CoreV1Api().create_namespaced_pod("default", pod, dry_run="All")
    client.BatchV1Api().create_namespaced_job("default", job, dry_run="All")


def test_no_node_that_is_warm_any_more_is_an_error(made: dict[str, Any]) -> None:
    assert made["none"].startswith("no node that had the view is warm any more")
