"""Airflow as its parts, each a process that is started again when it dies, as a service manager does it; a stack without Airflow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from outlap import airflow_api as api
from outlap.stack import ports, programs, secrets
from outlap.stack.layout import Layout, scripts

AIRFLOW = str(scripts() / "airflow")
OUTLAP = str(scripts() / "outlap")
# so that what was killed is missed in seconds, not in minutes
SOON = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
}


@dataclass
class Part:
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0


@dataclass
class Parts:
    """kill(name) ends a part and all of its children with SIGKILL; it is started again unless `hold` has its name."""

    environment: Mapping[str, str]
    parts: dict[str, Part] = field(default_factory=dict)
    hold: set[str] = field(default_factory=set)
    ending: threading.Event = field(default_factory=threading.Event)

    def _start(self, part: Part) -> None:
        with part.log.open("ab") as log:
            part.process = subprocess.Popen(
                part.command,
                env={**self.environment, **part.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        part.starts += 1

    def add(self, name: str, arguments: tuple[str, ...], log: Path, environment: Mapping[str, str]) -> None:
        """One more part: arguments of `airflow`, and what differs in its environment."""
        self.parts = {**self.parts, name: Part((AIRFLOW, *arguments), log, environment)}

    def watch(self) -> None:
        while not self.ending.wait(0.2):
            for name, part in self.parts.items():
                if name not in self.hold and (part.process is None or part.process.poll() is not None):
                    self._start(part)

    def kill(self, name: str) -> int:
        """How many processes were killed."""
        part = self.parts[name]
        assert part.process is not None
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(part.process.pid)
            whole = [*family.children(recursive=True), family]
            for process in reversed(whole):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            part.process.wait(20)
            return len(whole)
        return 0

    def end(self) -> None:
        self.ending.set()
        for name in self.parts:
            self.kill(name) if self.parts[name].process is not None else None

    def tail(self, name: str, lines: int = 30) -> str:
        return "\n".join(self.parts[name].log.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def stack(home: Path, settings: str = "") -> Iterator[Layout]:
    """`outlap up --no-airflow` in a home of its own, taken down after."""
    (home / "outlap.toml").write_text(settings)
    environment = {**os.environ, "OUTLAP_HOME": str(home)}
    for name in ("OUTLAP_IDC", "OUTLAP_CONFIG"):
        environment.pop(name, None)
    up = subprocess.run(
        [OUTLAP, "up", "--no-airflow"], env=environment, capture_output=True, text=True, check=False
    )
    try:
        assert up.returncode == 0, up.stderr[-3000:]
        yield Layout(home)
    finally:
        subprocess.run([OUTLAP, "down"], env=environment, check=True, capture_output=True, timeout=180)


@contextmanager
def airflow(
    layout: Layout, database: str, extra: Mapping[str, str], more: Mapping[str, tuple[str, ...]]
) -> Iterator[Parts]:
    """API server, scheduler, DAG processor, triggerer and `more` (name → arguments of `airflow`), with the stack's settings."""
    chosen = ports.read_kept(layout.ports)
    if "airflow" not in chosen:
        chosen = ports.choose(ports.NAMES, chosen, {}, str(layout.home))
    environment = {
        **programs.base_environment(layout),
        **programs.airflow_environment(layout, chosen, 4),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": database,
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        **SOON,
        **extra,
    }
    environment.pop(programs.MARK)  # `outlap down` does not know these
    made = subprocess.run(
        [AIRFLOW, "db", "migrate"], env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-3000:]
    commands = {name: (name,) for name in ("api-server", "dag-processor", "scheduler", "triggerer")} | dict(
        more
    )
    found = {
        name: Part((AIRFLOW, *arguments), layout.logs / f"part-{name}.log")
        for name, arguments in commands.items()
    }
    parts = Parts(environment, found)
    watching = threading.Thread(target=parts.watch, daemon=True)
    watching.start()
    try:
        yield parts
    finally:
        parts.end()
        watching.join(30)


@contextmanager
def session(layout: Layout, parts: Parts) -> Iterator[api.Airflow]:
    """Logged in, with the DAGs read."""
    page = parts.environment["AIRFLOW__API__BASE_URL"]
    end = time.monotonic() + 180
    while True:
        try:
            with api.open_airflow(page, secrets.AIRFLOW_USER, secrets.airflow_password(layout)) as found:
                api.wait_for_dags(
                    found, ["publish_dataset", "sync_dataset", "warm_dataset", "scheduled_training"], print
                )
                yield found
                return
        except api.DemoFailed:
            if time.monotonic() > end:
                sys.stderr.write("\n".join(f"--- {name}\n{parts.tail(name)}" for name in parts.parts))
                raise
            time.sleep(1)
