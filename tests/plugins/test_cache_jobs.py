"""Warm and free through a real control service; the node is played by the test, through the control service's own API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from outlap_airflow import training, warm
from outlap_airflow.operators import Free, WaitUntil, Warm
from outlap_airflow.operators.cache import job_result
from outlap_airflow.sensors import ResidencySensor
from outlap_airflow.settings import DEFAULT_QUERY
from outlap_airflow.triggers import MOST_FAILURES, JobTrigger, ResidencyTrigger

from cacheengine.client import control_for
from lake.config import load_config
from lake.publish import publish_query
from lake.stores import lake_store


def run(operator: Any, attempt: int = 1, store: dict[str, Any] | None = None) -> Any:
    """Execute an operator and its trigger as Airflow does."""
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id=operator.task_id, map_index=-1, try_number=attempt)
    # a dict has the get and the part of set that operators use of a task's store
    kept = None if store is None else SimpleNamespace(get=store.get, set=store.__setitem__)
    context = {"ti": ti, "task_state_store": kept}
    try:
        return operator.execute(context)
    except TaskDeferred as deferred:
        where, fields = deferred.trigger.serialize()
        assert where == "outlap_airflow.triggers.JobTrigger"
        assert "a token of the tests" not in str(fields)

        async def event() -> Any:
            async for found in JobTrigger(**fields).run():
                return found.payload

        return getattr(operator, deferred.method_name)(context, event=asyncio.run(event()))


REQUEST = {"idc": "idc-b", "dataset": "front", "ref": "latest", "nodes": "all"}


def test_warm_ends_with_every_file_resident_and_free_releases_it(node: Any) -> None:
    job = run(Warm(task_id="warm", **REQUEST))
    assert (job["state"], job["files_done"], job["files_total"]) == ("done", 6, 6)
    with control_for(load_config(), "idc-b") as control:
        assert [item.node for item in training.warm_nodes(control.nodes(), job["version"])] == ["b1"]
        assert training.warm_nodes(control.nodes(), "0" * 64) == []
    freed = run(Free(task_id="free", **REQUEST))
    assert (freed["kind"], freed["state"]) == ("free", "done")


@pytest.mark.parametrize(("operator", "fields"), [(Warm, {}), (Free, {}), (Warm, {"deferrable": False})])
def test_where_nothing_may_defer_the_worker_waits(
    node: Any, monkeypatch: pytest.MonkeyPatch, operator: Any, fields: dict[str, Any]
) -> None:
    """An IDC whose control service no triggerer reaches; a single task of an Airflow without a triggerer."""
    if not fields:
        monkeypatch.setenv("OUTLAP_AIRFLOW_DEFER", "false")
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="w", map_index=-1, try_number=1)
    assert operator(task_id="w", **REQUEST, **fields).execute({"ti": ti})["state"] == "done"


def test_what_cannot_be_warmed_is_listed_and_another_try_is_another_job(node: Any) -> None:
    node.failing = "its hash is wrong"
    with pytest.raises(AirflowException, match=r"720p/bad\.jpg: its hash is wrong"):
        run(Warm(task_id="warm", **REQUEST))
    node.failing = ""
    job = run(Warm(task_id="warm", **REQUEST), attempt=2)
    assert job["state"] == "done"


def test_tries_share_a_job_until_it_fails(node: Any) -> None:
    """What a worker that was killed leaves behind: the store of its task, with or without the job's id."""
    node.holding, store = 3, dict[str, Any]()
    operator = Warm(task_id="warm", **REQUEST)
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="warm", map_index=-1, try_number=1)
    kept = SimpleNamespace(get=store.get, set=store.__setitem__)

    def begun(attempt: int) -> str:
        ti.try_number = attempt
        with pytest.raises(TaskDeferred):
            operator.execute({"ti": ti, "task_state_store": kept})
        return str(store["job"]["id"])

    first = begun(1)
    assert begun(2) == first
    store.clear()  # killed before it could keep the answer
    assert begun(3) == first
    node.failing = "its hash is wrong"
    with pytest.raises(AirflowException, match="its hash is wrong"):
        run(operator, 3, store)
    node.failing = ""
    second = begun(4)
    assert second != first
    node.holding = 6
    assert run(operator, 5, store)["id"] == second
    # cleared after it went well: it may have been evicted since, so a new job looks again
    assert run(operator, 6, store)["id"] not in (first, second)
    # cleared while it asked for something else
    node.holding = 3
    third = begun(7)
    operator.nodes = "b1"
    assert begun(8) != third


def test_a_job_that_failed_while_nobody_listened_is_not_taken_for_this_try(node: Any) -> None:
    node.holding, store = 3, dict[str, Any]()
    with pytest.raises(TaskDeferred):
        Warm(task_id="warm", **REQUEST).execute(
            {
                "ti": SimpleNamespace(dag_id="d", run_id="r", task_id="warm", map_index=-1, try_number=1),
                "task_state_store": SimpleNamespace(get=store.get, set=store.__setitem__),
            }
        )
    first = store["job"]["id"]
    node.failing = "no route"
    with control_for(load_config(), "idc-b") as control:
        assert control.wait(first, timeout_s=30).state == "failed"
    node.failing, node.holding = "", 6
    # the heartbeat with the good news may be a moment away: the new job waits for it
    assert run(Warm(task_id="warm", **REQUEST), 2, store)["state"] == "done"
    assert store["job"]["id"] != first


def test_a_user_fault_is_not_tried_again(node: Any) -> None:
    with pytest.raises(AirflowFailException, match="nosuch"):
        run(Warm(task_id="warm", **{**REQUEST, "dataset": "nosuch"}))


def test_a_plan_begins_to_warm_early_enough(node: Any, idcs: Any) -> None:
    from datetime import UTC, datetime, timedelta

    params = {
        "dataset": "front",
        "ref": "v1",
        "idc": None,
        "nodes": None,
        "start_at": "2030-01-01T12:00:00+01:00",
        "lead_minutes": 30,
    }
    planned = training.plan(params, datetime.now(UTC))
    begin = datetime.fromisoformat(planned["warm_at"])
    train = datetime.fromisoformat(planned["train_at"])
    assert train == datetime(2030, 1, 1, 11, tzinfo=UTC)
    assert train - begin == timedelta(minutes=30, seconds=planned["estimate_s"])
    assert (planned["idc"], planned["tag"], planned["files"]) == ("idc-b", "v1", 6)
    with pytest.raises(TaskDeferred):
        WaitUntil(task_id="w", moment=planned["warm_at"]).execute({})
    WaitUntil(task_id="w", moment="2020-01-01T00:00:00+00:00").execute({})
    assert training.what_to_free(planned, "never") == []
    assert training.what_to_free(planned, "after") == [planned["request"]]


def test_keep_latest_frees_what_is_held_but_the_latest(
    node: Any, idcs: Any, frames: Callable[..., None], wait_for: Callable[..., None]
) -> None:
    first = run(Warm(task_id="warm", **REQUEST))["version"]
    planned = {"dataset": "front", "idc": "idc-b", "request": {**REQUEST, "ref": first}}
    assert training.what_to_free(planned, "keep-latest") == []
    frames(lake_store(load_config(), "idc-b"), "d2")
    publish_query(idcs.b, "front", DEFAULT_QUERY, idcs.home / "scratch", {})
    assert [item["ref"] for item in training.what_to_free(planned, "keep-latest")] == [first]


@pytest.mark.fault("C11")
def test_what_somebody_pinned_is_freed_by_no_training_and_by_a_task_only_by_force(
    node: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(Warm(task_id="warm", pin=True, **REQUEST))["version"]
    planned = {
        "dataset": "front",
        "idc": "idc-b",
        "version": first,
        "request": {**REQUEST, "ref": first},
    }
    for policy in ("after", "keep-latest"):
        caplog.clear()
        assert training.what_to_free(planned, policy) == []
        assert policy == "keep-latest" or "pinned on b1 by admin" in caplog.text
    with pytest.raises(AirflowFailException, match=r"pinned on b1 by admin at .*--force"):
        run(Free(task_id="free", **REQUEST))
    forms = warm.requests("free", None, {**REQUEST, "force": True})
    assert forms == [{**REQUEST, "force": True}]
    assert run(Free(task_id="free", **forms[0]))["state"] == "done"


def test_a_mount_needs_verified_residency(node: Any) -> None:
    planned = {"dataset": "front", "version": "0" * 64, "idc": "idc-b"}
    with pytest.raises(AirflowException, match="resident and verified"):
        training.mount(planned, True)


def test_a_control_service_that_is_away_is_tried_again(idcs: Any) -> None:
    with pytest.raises(AirflowException, match="does not answer") as caught:
        run(Warm(task_id="warm", **REQUEST))
    assert not isinstance(caught.value, AirflowFailException)

    async def event() -> Any:
        async for found in JobTrigger("idc-b", "j", patience_s=-1).run():
            return found.payload

    told = asyncio.run(event())
    assert told["again"] is True
    operator = Warm(task_id="warm", **REQUEST)
    with pytest.raises(AirflowException, match="does not answer"):
        operator.finish({}, told)


def test_only_the_first_failures_travel() -> None:
    job = {
        "kind": "warm",
        "dataset": "d",
        "version": "a" * 64,
        "id": "1",
        "state": "failed",
        "files_done": 0,
        "files_total": 500,
        "error": None,
        "failures": [{"path": f"p{at}", "cause": "gone"} for at in range(MOST_FAILURES)],
        "failures_total": 500,
    }
    with pytest.raises(AirflowException, match="and 400 more") as caught:
        job_result(job)
    assert "p99: gone" in str(caught.value)


def test_a_person_who_ends_the_task_ends_the_job_and_nothing_that_is_over(node: Any) -> None:
    store = dict[str, Any]()
    assert run(Warm(task_id="warm", **REQUEST), 1, store)["state"] == "done"
    node.holding = 3
    operator = Warm(task_id="other", **REQUEST)
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="other", map_index=-1, try_number=1)
    with pytest.raises(TaskDeferred) as waiting:
        operator.execute({"ti": ti})
    asyncio.run(waiting.value.trigger.on_kill())
    asyncio.run(JobTrigger("idc-b", store["job"]["id"]).on_kill())
    with control_for(load_config(), "idc-b") as control:
        assert control.job(waiting.value.trigger.job).state == "cancelled"
        assert control.job(store["job"]["id"]).state == "done"


def test_residency_is_waited_for(node: Any) -> None:
    node.holding = 3
    with pytest.raises(AirflowException, match="running: 3 of 6 files"):
        run(Warm(task_id="warm", **REQUEST, wait_limit=timedelta(seconds=1), deferrable=False))
    fields = {"dataset": "front", "ref": "latest", "idc": "idc-b", "nodes": "role=gpu", "poll_s": 0.1}
    half = ResidencySensor(task_id="half", at_least="0.5", **fields).execute({})
    assert (half["warm"], half["nodes"]) == (["b1"], {"b1": 0.5})
    sensor = ResidencySensor(task_id="all", on=None, **fields)
    with pytest.raises(TaskDeferred) as waiting:
        sensor.execute({})
    where, kept = waiting.value.trigger.serialize()
    assert where == "outlap_airflow.triggers.ResidencyTrigger"

    async def event() -> Any:
        async for found in ResidencyTrigger(**kept).run():
            return found.payload

    async def waited() -> Any:
        task = asyncio.create_task(event())
        await asyncio.sleep(0.5)
        assert not task.done()
        node.holding = 6
        return await asyncio.wait_for(task, 30)

    assert sensor.finish({}, asyncio.run(waited()))["warm"] == ["b1"]
    with pytest.raises(AirflowFailException, match="share"):
        ResidencySensor(task_id="x", at_least=2, **fields).execute({})
    with pytest.raises(AirflowFailException, match="nosuch"):
        ResidencySensor(task_id="x", **{**fields, "dataset": "nosuch"}).execute({})
