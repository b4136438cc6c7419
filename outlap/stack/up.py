"""Start the local stack and wait until everything in it is healthy."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from lake.config import home, load_config
from outlap.errors import StackError
from outlap.stack import buckets, health, leftovers, ports, secrets, supervisor
from outlap.stack.layout import Layout, make_folders, scripts
from outlap.stack.programs import AIRFLOW_KINDS, Program, airflow_command, base_environment, stack_programs
from outlap.stack.record import Started, last_lines, read_record, write_record
from outlap.stack.settings import StackSettings, stack_settings, write_settings
from outlap.stack.starvation import NO_TURNS, read_turns, slowdown

Said = Callable[[str], None]
LOW_DISK = 2 << 30
STARTS_ALLOWED = 3
TELL_EVERY_S = 5.0


@dataclass(frozen=True)
class Up:
    """What `up` did. seconds: until all were healthy; was_up: before it was called."""

    programs: tuple[Started, ...]
    seconds: float
    was_up: bool = False


@contextmanager
def only_one(layout: Layout) -> Iterator[None]:
    """One `up` or `down` at a time for one home."""
    layout.stack.mkdir(parents=True, exist_ok=True)
    with (layout.stack / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StackError(
                f"the local stack in {layout.home}",
                "another `outlap up` or `outlap down` is at work on it",
                "wait for it to end, then look at `outlap status`",
            ) from error
        yield


def _check_leftovers(layout: Layout) -> None:
    orphans = leftovers.processes(layout)
    if orphans:
        # an earlier supervisord was killed: what it left would hold our ports and files
        stubborn = leftovers.end_processes(orphans)
        if stubborn:
            raise StackError(
                f"processes {stubborn} of an earlier stack",
                "they do not end",
                "end them, then run `outlap up` again",
            )
    leftovers.clear_sockets(layout)


def _check_machine(layout: Layout, airflow: bool) -> None:
    needed = ["weed", *(["airflow"] if airflow else [])]
    for name in needed:
        if not (scripts() / name).exists():
            raise StackError(f"the command {name}", f"it is not in {scripts()}", "run `make setup`")
    free = shutil.disk_usage(layout.home).free
    if free < LOW_DISK:
        raise StackError(
            f"the disk under {layout.home}",
            f"{free / 2**30:.1f} GiB are free, the stack needs 2 GiB to start",
            "make room, or set OUTLAP_HOME to a larger disk",
        )


def up(*, airflow: bool = True, say: Said = lambda line: None) -> Up:
    """Start everything that does not run yet, and return once it is healthy.

    Args:
        airflow: Start Airflow too.
        say: Gets a line of progress now and then.

    Raises:
        StackError: something does not become healthy, after which what started keeps running; or a stack is up without Airflow.
    """
    began = time.monotonic()
    layout = Layout(home())
    settings = stack_settings(load_config())
    with only_one(layout):
        pid = supervisor.running_pid(layout)
        if pid is not None:
            programs = read_record(layout)
            _check_same(layout, programs, pid, airflow)
            say(f"the local stack in {layout.home} is up already (supervisord is process {pid})")
            _wait_telling(layout, programs, settings, say)
            return Up(tuple(programs), time.monotonic() - began, was_up=True)
        _check_leftovers(layout)
        try:
            make_folders(layout)
        except OSError as error:
            raise StackError(
                f"the folders in {layout.home}", str(error), "set OUTLAP_HOME to a folder you may write"
            ) from error
        _check_machine(layout, airflow)
        chosen = ports.choose(ports.NAMES, ports.read_kept(layout.ports), settings.ports, str(layout.home))
        layout.ports.write_text(json.dumps(chosen, indent=1))
        secrets.make_secrets(layout)
        write_settings(layout, chosen, settings)
        wanted = stack_programs(layout, chosen, airflow=airflow, parallelism=settings.parallelism)
        _rotate(layout, wanted)
        write_record(layout, wanted)
        supervisor.write_configuration(layout, wanted)
        supervisor.start(layout)
        say(f"starting {len(wanted)} programs in {layout.home}")
        if airflow:
            _start_airflow(layout, wanted, say)
        _wait_telling(layout, read_record(layout), settings, say)
    return Up(tuple(read_record(layout)), time.monotonic() - began)


def _check_same(layout: Layout, programs: Sequence[Started], pid: int, airflow: bool) -> None:
    """Raises StackError when the stack that is up has no Airflow and one was asked for, or nobody knows what it has."""
    if programs and (not airflow or any(program.kind == "airflow" for program in programs)):
        return
    raise StackError(
        f"the local stack in {layout.home}",
        f"it is up already (supervisord is process {pid}), {'without Airflow' if programs else 'and its record is gone'}",
        "run `outlap down` first, or set another OUTLAP_HOME",
    )


def _start_airflow(layout: Layout, programs: Sequence[Program], say: Said) -> None:
    """Make or upgrade Airflow's database while the others start, then start its parts. Raises StackError."""
    parts = [program for program in programs if program.kind in AIRFLOW_KINDS]
    say("preparing the database of Airflow")
    log = layout.log("airflow-database")
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(
            airflow_command("db", "migrate"),
            env={**base_environment(layout), **parts[0].environment},
            cwd=layout.home,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            umask=0o077,
            check=False,
        )
    if done.returncode != 0:
        raise _failed("the database of Airflow", f"`airflow db migrate` ended with {done.returncode}", log)
    supervisor.start_programs(layout, [program.name for program in parts])


def _rotate(layout: Layout, programs: Sequence[Program]) -> None:
    """Each run writes its own log, so that an error shows this run's last lines; the run before stays as `.1`."""
    layout.events.unlink(missing_ok=True)
    for path in (*(program.log for program in programs), layout.log(supervisor.WATCH)):
        if path.exists():
            path.replace(path.with_name(f"{path.name}.1"))


def _wait_telling(layout: Layout, programs: Sequence[Started], settings: StackSettings, say: Said) -> None:
    try:
        _wait(layout, programs, settings, say)
    except KeyboardInterrupt:
        say("interrupted; what has started keeps running: `outlap status`, `outlap down`")
        raise


@dataclass
class _Waiting:
    """A program that is not healthy yet. pids: that it had so far; detail: what its last check said."""

    program: Started
    pids: set[int] = field(default_factory=set)
    detail: str = "starts"


def _wait(layout: Layout, programs: Sequence[Started], settings: StackSettings, say: Said) -> None:
    """Wait for the health of all. The limit is meant for a machine that is free: it follows how long ours lets them wait."""
    waiting = {program.name: _Waiting(program) for program in programs}
    stores_left = {program.name for program in programs if program.kind == "store"}
    began = told = time.monotonic()
    with health.local_client() as client:
        while waiting:
            rows = supervisor.process_table(layout)
            for name, one in list(waiting.items()):
                if not _is_healthy(one, rows[name], client):
                    continue
                del waiting[name]
                say(f"{name} is healthy" + (f" at {one.program.address}" if one.program.address else ""))
                stores_left.discard(name)
                if one.program.kind == "store" and not stores_left:
                    buckets.make_buckets(load_config(), _our_buckets(layout))
                    say("buckets are ready")
            waited = time.monotonic() - began
            if waiting and waited > settings.wait_s:
                _check_late(layout, next(iter(waiting.values())), waited, settings.wait_s)
            if waiting and time.monotonic() - told >= TELL_EVERY_S:
                told = time.monotonic()
                say(f"after {waited:.0f} s waiting for {_named(waiting.values())}")
            if waiting:
                time.sleep(0.2)


def _is_healthy(one: _Waiting, row: Mapping[str, Any], client: httpx.Client) -> bool:
    """Check one program. Raises StackError when it ends again and again."""
    one.pids.add(int(row["pid"]))
    # 0 stands for "no process just now"
    if row["statename"] == "FATAL" or len(one.pids - {0}) > STARTS_ALLOWED:
        raise _failed(one.program.name, "it ends again and again right after its start", one.program.log)
    state = health.check(one.program, client)
    one.detail = state.detail or one.detail
    return state.healthy


def _check_late(layout: Layout, one: _Waiting, waited_s: float, limit_s: float) -> None:
    """Raises StackError when a program is late by more than it had to wait for a processor."""
    name = one.program.name
    factor = slowdown(NO_TURNS, read_turns(leftovers.processes(layout, name)))
    if waited_s > limit_s * factor:
        raise _failed(name, f"not healthy after {waited_s:.0f} s: {one.detail}", one.program.log)


def _named(waiting: Iterable[_Waiting]) -> str:
    return ", ".join(f"{one.program.name} ({one.detail})" for one in waiting)


def _our_buckets(layout: Layout) -> list[str]:
    import tomllib

    return sorted(tomllib.loads(layout.settings.read_text(encoding="utf-8"))["store"])


def _failed(name: str, why: str, log: Path) -> StackError:
    lines = last_lines(log)
    shown = "".join(f"\n    {line}" for line in lines) or "\n    (its log is empty)"
    return StackError(
        f"start {name}",
        f"{why}; the last lines of {log}:{shown}",
        "correct the cause, run `outlap down`, then `outlap up`",
    )
