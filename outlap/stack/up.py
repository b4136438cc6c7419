"""Start the local stack and wait until everything in it is healthy."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lake.config import home, load_config
from outlap.errors import StackError
from outlap.stack import buckets, health, leftovers, ports, secrets, supervisor
from outlap.stack.layout import Layout, make_folders, scripts
from outlap.stack.programs import Program, stack_programs
from outlap.stack.record import last_lines, write_record
from outlap.stack.settings import StackSettings, stack_settings, write_settings

Said = Callable[[str], None]
LOW_DISK = 2 << 30
STARTS_ALLOWED = 3


@dataclass(frozen=True)
class Up:
    """What `up` did. seconds: until all were healthy."""

    programs: tuple[Program, ...]
    seconds: float


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


def _check_free(layout: Layout) -> None:
    pid = supervisor.running_pid(layout)
    if pid is not None:
        raise StackError(
            f"the local stack in {layout.home}",
            f"it is up already (supervisord is process {pid})",
            "look at it with `outlap status`; for another one run `outlap down` first, or set another OUTLAP_HOME",
        )
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
    """Start everything; returns once it is healthy. Raises StackError, after which what started keeps running."""
    began = time.monotonic()
    layout = Layout(home())
    settings = stack_settings(load_config())
    with only_one(layout):
        _check_free(layout)
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
        programs = stack_programs(layout, chosen, airflow=airflow, parallelism=settings.parallelism)
        _rotate(layout, programs)
        write_record(layout, programs)
        supervisor.write_configuration(layout, programs)
        supervisor.start(layout)
        say(f"starting {len(programs)} programs in {layout.home}")
        try:
            _wait(layout, programs, settings, say)
        except KeyboardInterrupt:
            say("interrupted; what has started keeps running: `outlap status`, `outlap down`")
            raise
    return Up(tuple(programs), time.monotonic() - began)


def _rotate(layout: Layout, programs: Sequence[Program]) -> None:
    """Each run writes its own log, so that an error shows this run's last lines; the run before stays as `.1`."""
    layout.events.unlink(missing_ok=True)
    for path in (*(program.log for program in programs), layout.log(supervisor.WATCH)):
        if path.exists():
            path.replace(path.with_name(f"{path.name}.1"))


def _wait(layout: Layout, programs: Sequence[Program], settings: StackSettings, say: Said) -> None:
    waiting = {program.name: program for program in programs}
    details: dict[str, str] = {}
    until = time.monotonic() + settings.wait_s
    pids: dict[str, set[int]] = {program.name: set() for program in programs}
    stores_left = {program.name for program in programs if program.kind == "store"}
    with health.local_client() as client:
        while waiting:
            rows = supervisor.process_table(layout)
            for name, program in list(waiting.items()):
                pids[name].add(int(rows[name]["pid"]))
                # 0 stands for "no process just now"
                if rows[name]["statename"] == "FATAL" or len(pids[name] - {0}) > STARTS_ALLOWED:
                    raise _failed(program.name, "it ends again and again right after its start", program.log)
                state = health.check(program.kind, program.health, client)
                details[name] = state.detail
                if not state.healthy:
                    continue
                del waiting[name]
                say(f"{name} is healthy at {program.address}")
                stores_left.discard(name)
                if program.kind == "store" and not stores_left:
                    config = load_config()
                    buckets.make_buckets(config, _our_buckets(layout))
                    say("buckets are ready")
            if waiting and time.monotonic() > until:
                name = next(iter(waiting))
                raise _failed(
                    name, f"not healthy after {settings.wait_s:.0f} s: {details[name]}", waiting[name].log
                )
            if waiting:
                time.sleep(0.2)


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
