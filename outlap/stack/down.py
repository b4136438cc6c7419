"""End the local stack: no process, mount, socket or settings file of it stays. Data does, unless asked."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

from lake.config import home
from outlap.errors import StackError
from outlap.stack import leftovers, supervisor
from outlap.stack.layout import Layout
from outlap.stack.record import read_record
from outlap.stack.up import only_one

PATIENCE_S = 90.0


@dataclass(frozen=True)
class Down:
    """was_up: whether supervisord ran. ended: processes that had to be ended one by one. unmounted: targets."""

    was_up: bool
    ended: tuple[int, ...]
    unmounted: tuple[str, ...]
    deleted: bool


def down(*, delete_data: bool = False, say: Callable[[str], None] = lambda line: None) -> Down:
    """Raises StackError when something is left, naming it."""
    layout = Layout(home())
    with only_one(layout):
        pid = supervisor.running_pid(layout)
        if pid is not None:
            programs = read_record(layout)
            # who watches and who asks first, the stores last, so that no write is cut off
            say("stopping Airflow, nodes and control services")
            supervisor.stop(layout, [supervisor.WATCH, *(p.name for p in programs if p.kind != "store")])
            say("stopping stores")
            supervisor.stop(layout, [p.name for p in programs if p.kind == "store"])
            supervisor.shutdown(layout)
            _wait_gone(layout, pid)
        orphans = leftovers.processes(layout)
        if orphans:
            say(f"ending {len(orphans)} processes that outlived their parent")
        stubborn = leftovers.end_processes(orphans)
        unmounted = _unmount_all(layout, say)
        if stubborn:
            raise StackError(
                f"processes {stubborn}", "they do not end, not even when killed", "look at what they wait for"
            )
        for path in (layout.settings, layout.record, layout.supervisor_config, layout.supervisor_pid):
            path.unlink(missing_ok=True)
        for path in layout.stack.glob("node-*.toml"):
            path.unlink()
        leftovers.clear_sockets(layout)
        if delete_data:
            _delete(layout)
            say(f"deleted the data in {layout.home}")
    return Down(pid is not None, tuple(orphans), tuple(unmounted), delete_data)


def _wait_gone(layout: Layout, pid: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while pid in leftovers.processes(layout) or supervisor.running_pid(layout) is not None:
        if time.monotonic() > until:
            # its children are ended with the other leftovers
            leftovers.end_processes([pid], grace_s=1)
            return
        time.sleep(0.1)


def _unmount_all(layout: Layout, say: Callable[[str], None]) -> list[str]:
    done: list[str] = []
    # a mount can be hidden under another: look again until none is left
    for _ in range(5):
        found = leftovers.mounts(layout)
        if not found:
            return done
        for mount in found:
            problem = leftovers.unmount(mount)
            if problem is None:
                done.append(str(mount.target))
                say(f"unmounted {mount.target}")
    left = leftovers.mounts(layout)
    if left:
        raise StackError(
            f"the mount {left[0].target}",
            "it cannot be ended",
            f"end what uses it, then `umount {left[0].target}`",
        )
    return done


def _delete(layout: Layout) -> None:
    """Everything that the stack made; the user's own outlap.toml stays."""
    for folder in ("stores", "control", "nodes", "airflow", "logs", "demo", "scratch", "cache"):
        shutil.rmtree(layout.home / folder, ignore_errors=False) if (layout.home / folder).exists() else None
    shutil.rmtree(layout.secrets, ignore_errors=True)
    for path in (layout.ports, layout.events):
        path.unlink(missing_ok=True)
