"""What is restarted, what is written down, and what counts as healthy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from outlap.stack import health, record, watch
from outlap.stack.health import Health
from outlap.stack.layout import Layout
from outlap.stack.record import Started
from outlap.stack.starvation import Turns, read_turns, slowdown
from tests.conftest import wait_until

NODE = Started("node-b1", "node", "http://x", "http://x/healthz", Path("/l"))
OLD = {"statename": "RUNNING", "start": 0, "now": 10_000, "pid": 7}
SILENT = Health(False, "does not answer")
WELL = Health(True)
ITS_TURN = Turns(10**9, 0)
PATIENCE_S = watch.PATIENCE_S["node"]


class Watched:
    """Checks of one program that was healthy at second 0, at moments that a test names."""

    def __init__(self, program: Started = NODE) -> None:
        self.program, self.silences = program, dict[str, watch.Silence]()
        self.check(0.0, WELL)

    def check(
        self, now: float, state: Health, turns: Turns = ITS_TURN, row: Mapping[str, object] = OLD
    ) -> bool:
        silences = self.silences
        return watch.to_restart(self.program, row, state, now=now, turns=turns, silences=silences)


def test_a_program_that_stays_without_health_is_restarted_once() -> None:
    watched = Watched()
    moments = (10.0, 15.0, 10.0 + PATIENCE_S - 1, 10.0 + PATIENCE_S)
    assert [watched.check(now, SILENT) for now in moments] == [False, False, False, True]
    young = {**OLD, "pid": 8, "start": 9_999}
    assert not watched.check(11.0 + PATIENCE_S, SILENT, row=young)


def test_one_healthy_check_starts_the_patience_again() -> None:
    watched = Watched()
    assert not watched.check(5.0, SILENT)
    assert not watched.check(4.0 + PATIENCE_S, WELL)
    assert not watched.check(5.0 + PATIENCE_S, SILENT)
    assert not watched.check(4.0 + 2 * PATIENCE_S, SILENT)
    assert watched.check(5.0 + 2 * PATIENCE_S, SILENT)


@pytest.mark.parametrize("row", [{**OLD, "now": 30, "pid": 8}, {**OLD, "statename": "BACKOFF"}])
def test_what_starts_or_does_not_run_is_left_alone(row: dict[str, object]) -> None:
    watched = Watched()
    assert not any(watched.check(float(now), SILENT, row=row) for now in range(0, 29, 5))


@pytest.mark.fault("B3")
def test_patience_follows_how_long_the_machine_lets_a_program_wait() -> None:
    watched = Watched()
    assert not watched.check(1.0, SILENT, Turns(5 * 10**9, 0))
    # of four seconds that it could have run it had one
    busy = Turns(6 * 10**9, 3 * 10**9)
    assert not watched.check(1.0 + 3 * PATIENCE_S, SILENT, busy)
    assert watched.check(1.0 + 4 * PATIENCE_S, SILENT, busy)
    # one that does not even want to run hangs, however busy the machine is
    hanging = Watched()
    assert not hanging.check(1.0, SILENT, busy)
    assert hanging.check(1.0 + PATIENCE_S, SILENT, busy)


@pytest.mark.fault("B3")
def test_parts_of_airflow_are_not_blamed_for_an_api_server_that_is_silent() -> None:
    watched = Watched(Started("airflow-triggerer", "airflow-part", "", "http://x", Path("/l")))
    unknown = Health(False, "the API server of Airflow does not answer", known=False)
    assert not any(watched.check(float(now), unknown) for now in range(0, 1000, 5))
    assert not watched.check(1000.0, SILENT)
    assert watched.check(1000.0 + watch.PATIENCE_S["airflow-part"], SILENT)


@pytest.mark.fault("B3")
def test_the_kernel_tells_how_long_a_process_waited_for_a_processor() -> None:
    cores = sorted(os.sched_getaffinity(0))[:1]
    spin = [sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {cores})\nwhile True: pass"]
    crowd = [subprocess.Popen(spin) for _ in range(4)]
    try:
        pids = [crowd[0].pid]
        wait_until(lambda: read_turns(pids).run_ns > 10**8, "a turn")
        before = read_turns(pids)
        wait_until(lambda: read_turns(pids).run_ns > before.run_ns + 10**9, "a second of turns")
        assert 2.0 < slowdown(before, read_turns(pids)) <= 20.0
        crowd[0].send_signal(signal.SIGSTOP)
        wait_until(lambda: "T" in Path(f"/proc/{pids[0]}/stat").read_text().rsplit(")", 1)[1][:3], "its stop")
        stopped = read_turns(pids)
        wait_until(lambda: read_turns([crowd[1].pid]).run_ns > 2 * 10**9, "turns of the others")
        assert slowdown(stopped, read_turns(pids)) == 1.0
    finally:
        for one in crowd:
            one.kill()
            one.wait()
    assert read_turns(pids) == Turns()


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


def _check(kind: record.Kind, answer: httpx.Response | Exception, name: str = "node-b1") -> health.Health:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with httpx.Client(transport=httpx.MockTransport(handle)) as client:
        return health.check(Started(name, kind, "http://x", "http://x/healthz", Path("/l")), client)


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


@pytest.mark.fault("B3")
def test_each_part_of_airflow_has_its_own_health() -> None:
    parts = {"metadatabase": {"status": "healthy"}, "scheduler": {"status": "unhealthy"}, "triggerer": None}
    answer = httpx.Response(200, json={**parts, "dag_processor": {"status": "healthy"}})
    assert _check("airflow", answer).healthy
    assert _check("airflow-part", answer, "airflow-dag-processor").healthy
    found = _check("airflow-part", answer, "airflow-scheduler")
    assert not found.healthy and found.known and "scheduler unhealthy" in found.detail
    found = _check("airflow-part", answer, "airflow-triggerer")
    assert not found.healthy and found.known and "triggerer not started" in found.detail
    for silent in (httpx.ConnectError("refused"), httpx.Response(503), httpx.ReadTimeout("late")):
        found = _check("airflow-part", silent, "airflow-scheduler")
        assert not found.healthy and not found.known
    assert not _check("airflow", httpx.Response(200, text="<html>")).healthy
    assert not _check("airflow", httpx.Response(200, json={"metadatabase": {"status": "unhealthy"}})).healthy
