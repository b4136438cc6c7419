"""supervisord (https://supervisord.org): its configuration, its start, and its XML-RPC over a Unix socket."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from supervisor.xmlrpc import SupervisorTransport

from outlap.errors import StackError
from outlap.stack.layout import Layout, checkout
from outlap.stack.programs import AIRFLOW_KINDS, PROGRAM_MARK, Program, base_environment
from outlap.stack.secrets import write_private

WATCH = "watch"
# seconds for a polite end: Airflow's parts and an agent in the middle of a fetch need some. A store has written its data by
# then, and waits for streams that its own parts keep open.
STOP_WAIT_S = {"store": 4, "control": 10, "node": 15, "airflow": 15, "airflow-part": 15}
# what they write holds secrets, or is nobody else's business; a node's views are for everyone
PRIVATE = ("control", "airflow", "airflow-part")


def _value(text: str) -> str:
    """A value inside supervisord's configuration: `%` starts an expansion there, so it is doubled. Raises StackError."""
    if len(text.splitlines()) > 1 or re.search(r"\s[;#]", text):
        raise StackError(
            f"the path or setting {text[:200]!r}",
            "a line break, or a blank before ; or #, cannot stand in the supervisor's configuration",
            "set OUTLAP_HOME to another folder",
        )
    return text.replace("%", "%%")


def _command(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """A command line. The environment goes through env(1): supervisord's own `environment` cannot carry a quote."""
    pairs = [f"{name}={value}" for name, value in environment.items()]
    return _value(shlex.join(["/usr/bin/env", *pairs, *words]))


def configuration(layout: Layout, programs: Sequence[Program]) -> str:
    """The text of supervisord.conf."""
    lines = [
        "[unix_http_server]",
        f"file={_value(str(layout.supervisor_socket))}",
        "chmod=0600",
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        "",
        "[supervisord]",
        f"logfile={_value(str(layout.log('supervisord')))}",
        "logfile_maxbytes=5MB",
        "logfile_backups=1",
        f"pidfile={_value(str(layout.supervisor_pid))}",
        f"childlogdir={_value(str(layout.logs))}",
        f"directory={_value(str(layout.home))}",
        "",
    ]
    for program in programs:
        lines += [
            f"[program:{program.name}]",
            f"command={_command(program.command, {**program.environment, PROGRAM_MARK: program.name})}",
            f"directory={_value(str(layout.home))}",
            # Airflow's database has to be there first: `up` starts it
            f"autostart={'false' if program.kind in AIRFLOW_KINDS else 'true'}",
            "autorestart=true",
            *(["umask=077"] if program.kind in PRIVATE else []),
            "startsecs=2",
            "startretries=5",
            "stopasgroup=true",
            "killasgroup=true",
            f"stopwaitsecs={STOP_WAIT_S[program.kind]}",
            "redirect_stderr=true",
            f"stdout_logfile={_value(str(program.log))}",
            "stdout_logfile_maxbytes=10MB",
            "stdout_logfile_backups=2",
            "",
        ]
    lines += [
        f"[eventlistener:{WATCH}]",
        f"command={_command((sys.executable, '-m', 'outlap.stack.watch'), {PROGRAM_MARK: WATCH})}",
        f"directory={_value(str(checkout()))}",
        "events=PROCESS_STATE_EXITED,PROCESS_STATE_FATAL,TICK_5",
        "autorestart=true",
        "stdout_logfile=NONE",
        f"stderr_logfile={_value(str(layout.log(WATCH)))}",
        "stderr_logfile_maxbytes=5MB",
        "stderr_logfile_backups=1",
        "",
    ]
    return "\n".join(lines)


def write_configuration(layout: Layout, programs: Sequence[Program]) -> None:
    write_private(layout.supervisor_config, configuration(layout, programs))


def start(layout: Layout) -> None:
    """Start supervisord in the background. Raises StackError with what it said when it does not start."""
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(layout.supervisor_config)]
    done = subprocess.run(
        command,
        env=base_environment(layout),
        cwd=layout.home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise StackError(
            "start supervisord",
            said[-1] if said else f"exit code {done.returncode}",
            f"read {layout.log('supervisord')}",
        )


def _server(layout: Layout) -> Any:
    transport = SupervisorTransport(None, None, serverurl=f"unix://{layout.supervisor_socket}")
    return cast(Any, xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)).supervisor


def running_pid(layout: Layout) -> int | None:
    """The id of the supervisord of this home, None when none answers."""
    try:
        return int(_server(layout).getPID())
    except (OSError, xmlrpc.client.Error, ValueError):
        return None


def process_table(layout: Layout) -> dict[str, dict[str, Any]]:
    """supervisord's own record of each program: `statename`, `pid`, `start` (s), `spawnerr`, … Raises StackError."""
    try:
        return {str(row["name"]): dict(row) for row in _server(layout).getAllProcessInfo()}
    except (OSError, xmlrpc.client.Error) as error:
        raise StackError(
            "ask supervisord",
            str(error),
            f"run `outlap down`, then `outlap up`; see {layout.log('supervisord')}",
        ) from error


def start_programs(layout: Layout, names: Sequence[str]) -> None:
    """Start programs that are not started by themselves, without waiting for them. Raises StackError."""
    server = _server(layout)
    try:
        for name in names:
            server.startProcess(name, False)
    except (OSError, xmlrpc.client.Error) as error:
        raise StackError(
            f"start {', '.join(names)}", str(error), f"see {layout.log('supervisord')}"
        ) from error


def stop(layout: Layout, names: Sequence[str]) -> None:
    """Stop these programs, all at the same time, and wait for their end. Raises StackError."""
    server = _server(layout)
    try:
        for name in names:
            # one that has ended already answers with a fault, which is as good
            with suppress(xmlrpc.client.Fault):
                server.stopProcess(name, False)
        while any(
            row["name"] in names and row["statename"] in ("RUNNING", "STARTING", "STOPPING", "BACKOFF")
            for row in server.getAllProcessInfo()
        ):
            time.sleep(0.1)
    except (OSError, xmlrpc.client.Error) as error:
        raise StackError(
            f"stop {', '.join(names)}", str(error), f"see {layout.log('supervisord')}"
        ) from error


def shutdown(layout: Layout) -> None:
    """Ask supervisord to end everything and itself; returns before it has."""
    try:
        _server(layout).shutdown()
    except (OSError, xmlrpc.client.Error) as error:
        raise StackError("stop supervisord", str(error), f"see {layout.log('supervisord')}") from error
