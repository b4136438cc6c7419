"""Jobs that have not ended, in memory: which of them a heartbeat may have ended, and who waits for their end.

A job over many nodes is judged as a whole only when each of its nodes has said that it is done, or one that it failed; until then a
heartbeat costs a look at its own node.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from cacheengine.control.jobs import Chosen, Heard, Limits, Spec, node_state
from cacheengine.reporting import Key

AGAIN_S = 1.0  # between two looks at all nodes of a job that was not over


@dataclass
class Active:
    """open: nodes that have not said that they are done. looked: when the whole job was last judged (monotonic seconds)."""

    spec: Spec
    open: set[str]
    chosen: Mapping[str, Chosen]
    looked: float = float("-inf")


@dataclass
class ActiveJobs:
    """by_node: node → jobs. bells: ring once when their job has ended."""

    jobs: dict[str, Active] = field(default_factory=dict)
    by_node: dict[str, set[str]] = field(default_factory=dict)
    bells: dict[str, asyncio.Event] = field(default_factory=dict)


def bell(active: ActiveJobs, job: str) -> asyncio.Event:
    """Take it before looking, wait on it after."""
    return active.bells.setdefault(job, asyncio.Event())


def open_nodes(spec: Spec, heard: Mapping[str, Heard], now_ns: int, limits: Limits) -> set[str]:
    """Nodes of a job that are not done."""
    return {
        chosen.node
        for chosen in spec.nodes
        if node_state(spec, chosen, heard.get(chosen.node), now_ns, limits) != "done"
    }


def begin(active: ActiveJobs, spec: Spec, still_open: set[str]) -> None:
    active.jobs[spec.id] = Active(spec, still_open, {chosen.node: chosen for chosen in spec.nodes})
    for chosen in spec.nodes:
        active.by_node.setdefault(chosen.node, set()).add(spec.id)


def end(active: ActiveJobs, ids: Iterable[str]) -> None:
    """These jobs have ended, here or elsewhere."""
    for job in list(ids):
        found = active.jobs.pop(job, None)
        for chosen in found.spec.nodes if found is not None else ():
            mine = active.by_node.get(chosen.node, set())
            mine.discard(job)
            if not mine:
                active.by_node.pop(chosen.node, None)
        waiting = active.bells.pop(job, None)
        if waiting is not None:
            waiting.set()


def may_be_over(
    active: ActiveJobs,
    node: str,
    heard: Heard,
    changed: Collection[Key] | None,
    now_ns: int,
    limits: Limits,
) -> list[str]:
    """Jobs that this news of a node may have ended. changed: reports that are others than before; None: more than reports is."""
    found = []
    for job in active.by_node.get(node, ()):
        one = active.jobs[job]
        spec = one.spec
        if changed is not None and not any(key[:2] == (spec.dataset, spec.version) for key in changed):
            continue
        state = node_state(spec, one.chosen[node], heard, now_ns, limits)
        one.open.discard(node) if state == "done" else one.open.add(node)
        if state == "failed" or (not one.open and time.monotonic() - one.looked >= AGAIN_S):
            one.looked = time.monotonic()
            found.append(job)
    return found


def waiting_for_all(active: ActiveJobs, silent: Collection[str]) -> list[str]:
    """Jobs to be judged as a whole though no heartbeat says so: every node said it was done, or one of them is silent."""
    quiet = {job for node in silent for job in active.by_node.get(node, ())}
    return [job for job, one in active.jobs.items() if not one.open or job in quiet]
