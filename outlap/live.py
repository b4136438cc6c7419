"""Two looks at all cache groups → rates between them: what `outlap top` shows."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from cacheengine.client import control_for
from cacheengine.wire import Job, NodeState
from lake.config import Config
from outlap import show
from outlap.jobs import ENDED, share


@dataclass(frozen=True)
class Look:
    """at: monotonic seconds. nodes: (IDC, node) → state; jobs: those that run, by IDC."""

    at: float
    nodes: dict[tuple[str, str], NodeState]
    jobs: tuple[tuple[str, Job], ...]


@dataclass(frozen=True)
class Sample:
    """Rows for people, and the same as values."""

    title: str
    nodes: list[tuple[object, ...]]
    jobs: list[tuple[object, ...]]
    values: dict[str, Any]
    node_columns: tuple[str, ...] = (
        "idc",
        "node",
        "role",
        "state",
        "cache",
        "filled",
        "from store",
        "from peers",
        "read",
        "hits",
        "versions",
        "mounts",
    )
    job_columns: tuple[str, ...] = ("idc", "job", "what", "version", "state", "done", "rate", "left")


def look(config: Config) -> Look:
    """Ask every control service that the settings name."""
    nodes: dict[tuple[str, str], NodeState] = {}
    jobs: list[tuple[str, Job]] = []
    for name, idc in sorted(config.idcs.items()):
        if idc.control is None:
            continue
        with control_for(config, name) as control:
            nodes |= {(name, node.node): node for node in control.nodes(brief=True)}
            jobs += [(name, job) for job in control.jobs(50, brief=True) if job.state not in ENDED]
    return Look(time.monotonic(), nodes, tuple(jobs))


def _rate(before: NodeState | None, now: NodeState, name: str, seconds: float) -> float:
    """Growth of a counter a second; one that went back belongs to an agent that was started again."""
    old = getattr(before, name) if before is not None else getattr(now, name)
    new = getattr(now, name)
    return float(max(0, new - old if new >= old else new)) / max(seconds, 1e-6)


def between(before: Look, now: Look) -> Sample:
    """Rates from one look to the next. hit rate: of bytes that readers asked our daemons for; what the kernel reads by itself hits."""
    seconds = now.at - before.at
    values = []
    for (idc, name), node in sorted(now.nodes.items()):
        old = before.nodes.get((idc, name))
        hit, miss = (_rate(old, node, counter, seconds) for counter in ("hit_bytes", "miss_bytes"))
        values.append(
            {
                "idc": idc,
                "node": name,
                "role": node.role,
                "alive": node.alive,
                "used": sum(d.used for d in node.dirs),
                "quota": sum(d.quota for d in node.dirs),
                "store_bps": _rate(old, node, "store_bytes", seconds),
                "peer_bps": _rate(old, node, "peer_bytes", seconds),
                "read_bps": hit + miss,
                "hit_rate": hit / (hit + miss) if hit + miss else None,
                "versions": node.versions_total,
                "mounts": len(node.mounts),
            }
        )
    jobs = [
        {
            "idc": idc,
            **job.model_dump(include={"id", "kind", "dataset", "tag", "state", "rate_bps", "eta_s"}),
            **job.model_dump(
                include={"bytes_done", "bytes_total", "bytes_coming", "files_done", "files_total"}
            ),
        }
        for idc, job in now.jobs
    ]
    alive = sum(bool(value["alive"]) for value in values)
    title = f"{alive} of {len(values)} nodes alive, {len(jobs)} jobs run"
    return Sample(
        title,
        [_node_row(value) for value in values],
        [_job_row(idc, job) for idc, job in now.jobs],
        {"seconds": seconds, "nodes": values, "jobs": jobs},
    )


def _node_row(value: dict[str, Any]) -> tuple[object, ...]:
    return (
        value["idc"],
        value["node"],
        value["role"],
        "alive" if value["alive"] else "silent",
        show.size(value["used"]),
        f"{value['used'] / max(1, value['quota']):.0%}",
        f"{show.size(value['store_bps'])}/s",
        f"{show.size(value['peer_bps'])}/s",
        f"{show.size(value['read_bps'])}/s",
        "" if value["hit_rate"] is None else f"{value['hit_rate']:.0%}",
        value["versions"],
        value["mounts"],
    )


def _job_row(idc: str, job: Job) -> tuple[object, ...]:
    left = "" if job.eta_s is None else show.seconds(job.eta_s)
    rate = f"{show.size(job.rate_bps)}/s"
    return (idc, job.id, job.kind, f"{job.dataset}@{job.tag}", job.state, share(job), rate, left)


def to_json(sample: Sample) -> str:
    """One look on one line."""
    return json.dumps(sample.values)
