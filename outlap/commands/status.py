"""`outlap status`: what runs and how it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from outlap import show
from outlap.options import AsJson

if TYPE_CHECKING:
    from outlap.stack.status import Process


def status(as_json: AsJson = False) -> None:
    """Each process of the local stack: pid, address, health; and what crashed since the start.

    Exit code 0 when all are healthy, 3 when some are not, 1 when the stack is not up.
    """
    from lake.config import home
    from outlap.stack.layout import Layout
    from outlap.stack.record import EVENTS_SHOWN
    from outlap.stack.secrets import AIRFLOW_USER
    from outlap.stack.status import read_status

    layout = Layout(home())
    found = read_status(layout)
    if as_json:
        login = {"user": AIRFLOW_USER, "passwords": str(layout.passwords)}
        has_page = any(p.name == "airflow" for p in found.processes)
        page = {"airflow": login} if has_page else {}
        show.json_line({**asdict(found), "healthy": found.healthy, **page})
    elif not found.up:
        show.line(f"the local stack in {found.home} is not up; start it with `outlap up`")
    else:
        rows = [
            (
                p.name,
                _health(p),
                p.pid,
                p.address,
                show.seconds(p.uptime_s),
                p.log,
            )
            for p in found.processes
        ]
        show.table(("name", "health", "pid", "address", "up for", "log"), rows, title=found.home)
        for address in (p.address for p in found.processes if p.name == "airflow"):
            show.line(f"Airflow: {address}, log in as {AIRFLOW_USER} with the password in {layout.passwords}")
        for event in found.events[-EVENTS_SHOWN:]:
            show.line(f"{show.moment(event.at_ns)} {event.program}: {event.what}")
    raise typer.Exit(0 if found.healthy else 3 if found.up else 1)


def _health(process: Process) -> str:
    word = "healthy" if process.healthy else process.state.lower()
    return f"{word}: {process.detail}" if process.detail else word
