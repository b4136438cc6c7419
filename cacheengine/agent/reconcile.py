"""Desired → actual: which step comes next (a pure function), and the thread that takes the steps."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog

from cacheengine import metrics
from cacheengine.agent import letgo, residency, room, rows
from cacheengine.agent.state import Node, Status, mounted_versions, steady_ns
from cacheengine.packs.eviction import Key
from cacheengine.wire import Failure
from lake.errors import Explained

PUT_OFF_NS = 10 * 10**9
IDLE_S = 2.0
ROOM_S = 0.2
TTL_EVERY_S = 30.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Action:
    """rows: get the rows of what is desired. release: let go what the version held. warm: make it resident. check: look again
    whether it is."""

    kind: Literal["rows", "release", "warm", "check"]
    key: Key


def reconcile(
    desired: Collection[Key],
    statuses: Mapping[Key, Status],
    leased: Collection[Key],
    now: int,
    lost: Mapping[Key, int] | None = None,
) -> list[Action]:
    """What is to be done, in order: first the rows of what stays (without them nothing is let go), then what gives room, then
    what was asked (higher priority first), then a look at what should be there.

    A version that is mounted (leased) is released when it no longer is. One that failed waits for its time, one that was evicted or
    whose warm was cancelled for someone to ask again. lost: desired versions whose rows are not known here → when to ask for them.
    """
    actions = [Action("rows", key) for key, retry_ns in (lost or {}).items() if retry_ns <= now]
    if not lost:
        actions = [
            Action("release", key)
            for key, status in statuses.items()
            if key not in desired and key not in leased and status.retry_ns <= now
        ]
    waiting, stale = [], []
    for key in desired:
        status = statuses.get(key)
        due = status is None or status.state not in ("resident", "failed")
        if status is not None and status.state == "failed":
            due = not status.evicted and status.retry_ns <= now
        if status is not None and status.desired.paused:
            due = False
        if due:
            waiting.append(Action("warm", key))
        elif status is not None and status.state == "resident" and status.look_ns <= now:
            stale.append(Action("check", key))
    return [*actions, *sorted(waiting, key=lambda action: _rank(statuses.get(action.key))), *stale]


def _rank(status: Status | None) -> tuple[int, bool]:
    """Higher priorities first; of the same one, what was asked for before what follows a change of the group."""
    return (0, False) if status is None else (-status.desired.priority, residency.is_fill(status))


def _leased_keys(node: Node) -> set[Key]:
    """Versions of which a mounted view holds packs."""
    with node.lock:
        mounted = mounted_versions(node)
        return {key for key in node.statuses if key.version in mounted}


def _lost_rows(node: Node) -> dict[Key, int]:
    """Desired versions whose rows are not known, and that could want something; asked only when something is to be let go."""
    with node.lock:
        if not any(status.state == "freeing" for status in node.statuses.values()):
            return {}
    found = rows.unknown(node)
    with node.lock:
        lost = {key: node.lost_rows.get(key) for key in found}
    return {
        key: 0 if one is None else one.retry_ns for key, one in lost.items() if not (one and one.for_good)
    }


def next_action(node: Node) -> Action | None:
    leased, lost = _leased_keys(node), _lost_rows(node)
    with node.lock:
        actions = reconcile(list(node.desired), node.statuses, leased, steady_ns(), lost)
    return actions[0] if actions else None


def take(node: Node, action: Action) -> None:
    """Carry out one action; what fails is said in the version's status."""
    if action.kind == "rows":
        rows.learn(node)
    elif action.kind == "release":
        letgo.release(node, action.key)
    elif action.kind == "warm":
        residency.warm(node, action.key)
    else:
        residency.check(node, action.key)


def _count_states(node: Node) -> None:
    with node.lock:
        states = [status.state for status in node.statuses.values()]
        metrics.mounts.set(len(node.mounts))
    for state in ("waiting", "fetching", "resident", "failed", "freeing"):
        metrics.versions.labels(state).set(states.count(state))


def _put_off(node: Node, action: Action | None) -> None:
    """What failed in an unexpected way waits, so that the rest goes on."""
    with node.lock:
        status = node.statuses.get(action.key) if action is not None else None
        if status is not None:
            status.retry_ns = steady_ns() + PUT_OFF_NS
            residency.looked(status)
            if status.state in ("waiting", "fetching"):
                cause = node.last_errors.get("reconcile", "it failed")
                status.state, status.failures = "failed", (Failure(path="", cause=cause),)


def run(node: Node) -> None:
    """Until the node ends. A failure of a step is told and does not end the loop."""
    while not node.ending.is_set():
        node.wake.clear()
        action = next_action(node)
        _count_states(node)
        try:
            if action is not None:
                started = time.monotonic()
                take(node, action)
                log.info(
                    "step",
                    kind=action.kind,
                    dataset=action.key.dataset,
                    version=action.key.version,
                    list_id=action.key.list_id,
                    seconds=round(time.monotonic() - started, 3),
                )
                node.works("reconcile")
                continue
            node.works("reconcile")
        except Exception as error:
            if not isinstance(error, Explained | OSError):
                log.exception("unexpected", part="reconcile")
            node.failed("reconcile", error)
            _put_off(node, action)
        node.wake.wait(IDLE_S)


def watch_room(node: Node) -> None:
    """Keep every directory below its high mark while readers fill it. Apart from the loop, which may be in a long warm."""
    old_at = 0.0
    while not node.ending.wait(ROOM_S):
        try:
            room.keep_below_watermarks(node)
            if time.monotonic() >= old_at:
                room.drop_old(node)
                old_at = time.monotonic() + TTL_EVERY_S
            node.works("room")
        except Exception as error:
            if not isinstance(error, Explained | OSError):
                log.exception("unexpected", part="room")
            node.failed("room", error)
