"""supervisord's event listener: writes crashes down, and restarts a program that runs but does not answer.

supervisord restarts what exits. What hangs only shows in its health: a program that stays without it is restarted, alone. How long
it may stay so follows the machine (`starvation.py`).
Protocol: https://supervisord.org/events.html. stdout speaks it, so words go to stderr.
"""

from __future__ import annotations

import os
import sys
import time
import xmlrpc.client
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from supervisor import childutils

from lake.config import home
from outlap.stack import health, leftovers
from outlap.stack.layout import Layout
from outlap.stack.record import Started, add_event, read_record
from outlap.stack.starvation import NO_TURNS, Turns, read_turns, slowdown

# how long a program may be without health, and how long it may take to start, on a machine that is free; in seconds
PATIENCE_S = {"store": 30.0, "control": 30.0, "node": 30.0, "airflow": 45.0, "airflow-part": 60.0}
GRACE_S = {"store": 60.0, "control": 60.0, "node": 60.0, "airflow": 180.0, "airflow-part": 180.0}


@dataclass(frozen=True)
class Silence:
    """A process that is watched. since: when it fell silent, on the monotonic clock in s; None while it is healthy.

    turns: what its threads had then; patience_s: how long that may last on a free machine.
    """

    pid: int
    since: float | None = None
    turns: Turns = NO_TURNS
    patience_s: float = 0.0


def crash_text(event: str, payload: Mapping[str, str]) -> str | None:
    """What to write down about a state change, None for an end that was asked for."""
    if event == "PROCESS_STATE_FATAL":
        return "gave up: it ended again and again right after its start"
    if event == "PROCESS_STATE_EXITED" and payload.get("expected") == "0":
        return f"process {payload.get('pid', '?')} crashed; restarted"
    return None


def to_restart(
    program: Started,
    row: Mapping[str, Any],
    state: health.Health,
    *,
    now: float,
    turns: Turns,
    silences: dict[str, Silence],
) -> bool:
    """Decide whether a program has been without health for longer than this machine explains.

    A process that was never healthy has GRACE_S from its start, any other PATIENCE_S from when it fell silent.

    Args:
        program: The program.
        row: supervisord's record of it.
        state: What its health check says now.
        now: Seconds on the monotonic clock.
        turns: What its threads had of the processors so far.
        silences: What is known of each program, by name; changed here.

    Returns:
        True when it is time to restart it.
    """
    pid, age_s = int(row.get("pid", 0)), int(row.get("now", 0)) - int(row.get("start", 0))
    if row.get("statename") != "RUNNING":
        silences.pop(program.name, None)
        return False
    known = silences.get(program.name)
    if state.healthy:
        silences[program.name] = Silence(pid)
        return False
    if not state.known:  # who would tell is silent, and that is no news of this one
        if known is not None:
            silences[program.name] = Silence(known.pid)
        return False
    if known is None or known.pid != pid:
        known = Silence(pid, now - age_s, NO_TURNS, GRACE_S[program.kind])
    elif known.since is None:
        known = Silence(pid, now, turns, PATIENCE_S[program.kind])
    silences[program.name] = known
    assert known.since is not None
    if now - known.since < known.patience_s * slowdown(known.turns, turns):
        return False
    del silences[program.name]
    return True


def check_all(layout: Layout, server: Any, silences: dict[str, Silence]) -> None:
    """Restart each program that does not do its work, and no other one."""
    rows = {str(row["name"]): row for row in server.supervisor.getAllProcessInfo()}
    with health.local_client() as client:
        for program in read_record(layout):
            row = rows.get(program.name)
            if row is None:
                continue
            state = health.check(program, client)
            turns = NO_TURNS if state.healthy else read_turns(leftovers.processes(layout, program.name))
            now = time.monotonic()
            if not to_restart(program, row, state, now=now, turns=turns, silences=silences):
                continue
            add_event(layout, program.name, f"did not do its work ({state.detail}); restarted")
            server.supervisor.stopProcess(program.name)
            server.supervisor.startProcess(program.name, False)


def main() -> None:
    layout = Layout(home())
    server = childutils.getRPCInterface(os.environ)
    silences: dict[str, Silence] = {}
    while True:
        headers, payload = childutils.listener.wait(sys.stdin, sys.stdout)
        try:
            if headers["eventname"].startswith("TICK"):
                check_all(layout, server, silences)
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
