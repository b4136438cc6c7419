"""The whole local stack on a machine that something else keeps busy: nothing that works is restarted, what hangs is, alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from outlap.stack import leftovers
from outlap.stack.down import down
from outlap.stack.layout import Layout
from outlap.stack.status import Process, read_status
from outlap.stack.up import up
from tests.conftest import wait_until

CALM_S = 120.0  # longer than any patience on a machine that is free


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    """A home for a stack, which is taken down after."""
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path / "h"))
    for name in ("OUTLAP_IDC", "OUTLAP_CONFIG", "OUTLAP_STACK_PORTS"):
        monkeypatch.delenv(name, raising=False)
    yield Layout(tmp_path / "h")
    down()


@pytest.fixture
def crowd() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Twice as many endless loops as there are cores."""
    count = 2 * len(os.sched_getaffinity(0))
    found = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    yield found
    for one in found:
        one.kill()
        one.wait()


def _pids(layout: Layout) -> dict[str, int | None]:
    return {one.name: one.pid for one in read_status(layout).processes}


def _process(layout: Layout, name: str) -> Process:
    return next(one for one in read_status(layout).processes if one.name == name)


@pytest.mark.slow
@pytest.mark.fault("B3")
@pytest.mark.timeout(1800)
def test_a_busy_machine_restarts_nothing_that_works_and_only_what_hangs(
    layout: Layout, crowd: list[subprocess.Popen[bytes]]
) -> None:
    said: list[str] = []
    done = up(say=said.append)
    assert {program.name for program in done.programs} >= {
        "airflow",
        "airflow-scheduler",
        "airflow-triggerer",
    }
    assert any("waiting for" in line for line in said)
    before, ends = _pids(layout), time.monotonic() + CALM_S
    wait_until(lambda: time.monotonic() > ends or read_status(layout).events, "calm", CALM_S + 10)
    assert read_status(layout).events == ()
    assert _pids(layout) == before
    assert up().was_up

    (triggerer,) = {before["airflow-triggerer"]}
    assert triggerer is not None
    for pid in leftovers.processes(layout, "airflow-triggerer"):
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: _pids(layout)["airflow-triggerer"] not in (None, triggerer), "its restart", 600)
    wait_until(lambda: _process(layout, "airflow-triggerer").healthy, "its health", 600)
    (event,) = read_status(layout).events
    assert event.program == "airflow-triggerer" and "triggerer unhealthy" in event.what
    after = _pids(layout)
    assert {name for name in after if after[name] != before[name]} == {"airflow-triggerer"}
