"""supervisord's event listener: writes crashes down, and restarts a program that runs but does not answer.

supervisord restarts what exits. What hangs, or an Airflow of which one part died (`airflow standalone` goes on without
it), only shows in its health: after UNHEALTHY_TICKS checks in a row without a healthy one the program is restarted.
Protocol: https://supervisord.org/events.html. stdout speaks it, so words go to stderr.
"""

from __future__ import annotations

import os
import sys
import xmlrpc.client
from collections.abc import Mapping
from typing import Any

from supervisor import childutils

from lake.config import home
from outlap.stack import health
from outlap.stack.layout import Layout
from outlap.stack.record import Started, add_event, read_record

UNHEALTHY_TICKS = 6
# a start may take this long before silence counts, in seconds
GRACE_S = {"store": 60, "control": 60, "node": 60, "airflow": 180}


def crash_text(event: str, payload: Mapping[str, str]) -> str | None:
    """What to write down about a state change, None for an end that was asked for."""
    if event == "PROCESS_STATE_FATAL":
        return "gave up: it ended again and again right after its start"
    if event == "PROCESS_STATE_EXITED" and payload.get("expected") == "0":
        return f"process {payload.get('pid', '?')} crashed; restarted"
    return None


def to_restart(program: Started, row: Mapping[str, Any], healthy: bool, counts: dict[str, int]) -> bool:
    """Count checks without health in `counts`; True when it is time to restart. row: supervisord's record of it."""
    young = int(row.get("now", 0)) - int(row.get("start", 0)) < GRACE_S[program.kind]
    if healthy or young or row.get("statename") != "RUNNING":
        counts[program.name] = 0
        return False
    counts[program.name] = counts.get(program.name, 0) + 1
    if counts[program.name] < UNHEALTHY_TICKS:
        return False
    counts[program.name] = 0
    return True


def check_all(layout: Layout, server: Any, counts: dict[str, int]) -> None:
    rows = {str(row["name"]): row for row in server.supervisor.getAllProcessInfo()}
    with health.local_client() as client:
        for program in read_record(layout):
            row = rows.get(program.name)
            if row is None:
                continue
            state = health.check(program.kind, program.health, client)
            if not to_restart(program, row, state.healthy, counts):
                continue
            add_event(layout, program.name, f"did not do its work ({state.detail}); restarted")
            server.supervisor.stopProcess(program.name)
            server.supervisor.startProcess(program.name, False)


def main() -> None:
    layout = Layout(home())
    server = childutils.getRPCInterface(os.environ)
    counts: dict[str, int] = {}
    while True:
        headers, payload = childutils.listener.wait(sys.stdin, sys.stdout)
        try:
            if headers["eventname"].startswith("TICK"):
                check_all(layout, server, counts)
            else:
                values = childutils.get_headers(payload)
                text = crash_text(headers["eventname"], values)
                if text is not None:
                    add_event(layout, values.get("processname", "?"), text)
        except (OSError, xmlrpc.client.Error) as error:
            # supervisord is going down, or was busy: the next tick tries again
            print(f"watch: {error}", file=sys.stderr, flush=True)
        childutils.listener.ok(sys.stdout)


if __name__ == "__main__":
    main()
