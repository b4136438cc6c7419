"""What is restarted, what is written down, and what counts as healthy."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from outlap.stack import health, record, watch
from outlap.stack.layout import Layout
from outlap.stack.record import Started

NODE = Started("node-b1", "node", "http://x", "http://x/healthz", Path("/l"))
OLD = {"statename": "RUNNING", "start": 0, "now": 10_000}


def test_restart_after_so_many_checks_in_a_row() -> None:
    counts: dict[str, int] = {}
    answers = [watch.to_restart(NODE, OLD, False, counts) for _ in range(watch.UNHEALTHY_TICKS)]
    assert answers == [False] * (watch.UNHEALTHY_TICKS - 1) + [True]
    assert not watch.to_restart(NODE, OLD, False, counts)


def test_one_healthy_check_starts_the_count_again() -> None:
    counts: dict[str, int] = {}
    for healthy in [False] * (watch.UNHEALTHY_TICKS - 1) + [True] + [False] * (watch.UNHEALTHY_TICKS - 1):
        assert not watch.to_restart(NODE, OLD, healthy, counts)


@pytest.mark.parametrize("row", [{**OLD, "now": 30}, {**OLD, "statename": "BACKOFF"}])
def test_what_starts_or_does_not_run_is_left_alone(row: dict[str, object]) -> None:
    counts: dict[str, int] = {}
    assert not any(watch.to_restart(NODE, row, False, counts) for _ in range(3 * watch.UNHEALTHY_TICKS))


def test_crashes_are_told_from_wanted_ends() -> None:
    assert watch.crash_text("PROCESS_STATE_EXITED", {"expected": "1", "pid": "7"}) is None
    assert "7" in (watch.crash_text("PROCESS_STATE_EXITED", {"expected": "0", "pid": "7"}) or "")
    assert watch.crash_text("PROCESS_STATE_FATAL", {}) is not None


def test_events_survive_a_torn_line(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.stack.mkdir()
    record.add_event(layout, "node-b1", "crashed")
    with layout.events.open("a") as file:
        file.write('{"at_ns": 1, "pro')
    assert [(one.program, one.what) for one in record.read_events(layout)] == [("node-b1", "crashed")]


def _check(kind: record.Kind, answer: httpx.Response | Exception) -> health.Health:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with httpx.Client(transport=httpx.MockTransport(handle)) as client:
        return health.check(kind, "http://x/healthz", client)


def test_health_is_what_the_program_says() -> None:
    assert _check("store", httpx.Response(200)).healthy
    assert not _check("store", httpx.Response(503, text="no volumes")).healthy
    assert not _check("control", httpx.ConnectError("refused")).healthy
    assert not _check("node", httpx.ReadTimeout("late")).healthy


def test_a_part_that_fails_is_shown_and_is_no_reason_to_restart() -> None:
    found = _check(
        "node", httpx.Response(200, json={"ok": True, "problems": {"heartbeat": "control is away"}})
    )
    assert found.healthy
    assert found.detail == "heartbeat: control is away"


def test_airflow_is_healthy_when_all_its_parts_are() -> None:
    parts = {"metadatabase": {"status": "healthy"}, "scheduler": {"status": "healthy"}, "triggerer": None}
    assert _check("airflow", httpx.Response(200, json=parts)).healthy
    dead = {**parts, "scheduler": {"status": "unhealthy"}}
    found = _check("airflow", httpx.Response(200, json=dead))
    assert not found.healthy and "scheduler" in found.detail
    assert not _check("airflow", httpx.Response(200, text="<html>")).healthy
