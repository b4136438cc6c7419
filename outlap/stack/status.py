"""What runs, how it is, and what went wrong since the start."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from outlap.stack import health, supervisor
from outlap.stack.layout import Layout
from outlap.stack.record import Event, Started, read_events, read_record


@dataclass(frozen=True)
class Process:
    """state: supervisord's word (RUNNING, STARTING, BACKOFF, FATAL, …). uptime in seconds."""

    name: str
    state: str
    pid: int | None
    address: str
    healthy: bool
    detail: str
    uptime_s: int
    log: str


@dataclass(frozen=True)
class Status:
    up: bool
    home: str
    processes: tuple[Process, ...]
    events: tuple[Event, ...]

    @property
    def healthy(self) -> bool:
        return self.up and all(process.healthy for process in self.processes)


def _process(program: Started, row: dict[str, Any] | None, state: health.Health) -> Process:
    if row is None:
        return Process(
            program.name, "MISSING", None, program.address, False, "not known", 0, str(program.log)
        )
    running = row["statename"] == "RUNNING"
    detail = state.detail or str(row.get("spawnerr") or "")
    uptime = max(0, int(time.time()) - int(row["start"])) if running else 0
    return Process(
        program.name,
        str(row["statename"]),
        int(row["pid"]) or None,
        program.address,
        state.healthy and row["statename"] in ("RUNNING", "STARTING"),
        detail,
        uptime,
        str(program.log),
    )


def read_status(layout: Layout) -> Status:
    """Ask supervisord and every program; takes as long as the slowest answer (3 s at most)."""
    if supervisor.running_pid(layout) is None:
        return Status(False, str(layout.home), (), tuple(read_events(layout)))
    rows = supervisor.process_table(layout)
    programs = read_record(layout)
    with health.local_client() as client, ThreadPoolExecutor(max_workers=8) as pool:
        states = list(pool.map(lambda program: health.check(program, client), programs))
    found = tuple(_process(p, rows.get(p.name), s) for p, s in zip(programs, states, strict=True))
    return Status(True, str(layout.home), found, tuple(read_events(layout)))
