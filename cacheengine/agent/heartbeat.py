"""How a node speaks with control: what it holds, every few seconds, and what it should hold, by long poll.

While control is away the node goes on with what it last knew, and says so in its log once and in its metrics.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import structlog

from cacheengine import metrics, reporting
from cacheengine.agent.mounts import images
from cacheengine.agent.state import Node, take_desired
from cacheengine.client import Control
from cacheengine.packs import packcache
from cacheengine.wire import DirReport, Heartbeat
from lake.errors import Explained, NotFound

AWAY_S = 2.0
LONG_POLL_S = 20.0
LOOK_S = 0.1
DIRS_EVERY_S = 2.0  # how full directories are: counting walks all of their folders

log = structlog.get_logger()


def _json_files(paths: Iterator[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        try:
            value = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue  # being replaced, or its process has gone: the next heartbeat has it
        if isinstance(value, dict):
            yield value


def counted(node: Node) -> dict[str, int]:
    """Bytes and requests of this agent and of the daemons beside it, since each was started.

    hit_bytes: what daemons of ours gave from resident bytes. What the kernel reads from resident packs passes nobody
    who could count it.
    """
    folder = node.config.state_dir
    daemons = list(_json_files((folder / "counts").glob("*.json")))
    sent = sum(
        int(value.get("bytes", 0))
        for value in _json_files(
            iter([*folder.glob("fetchfs-*.counters"), *images(node).glob("view-*.counters")])
        )
    )
    missed = sum(int(value.get("miss_bytes", 0)) for value in daemons)
    return {
        "hit_bytes": max(0, sent - missed),
        "miss_bytes": missed,
        "store_bytes": metrics.total(metrics.store_bytes)
        + sum(int(v.get("store_bytes", 0)) for v in daemons),
        "store_requests": metrics.total(metrics.store_requests)
        + sum(int(v.get("store_requests", 0)) for v in daemons),
        "peer_bytes": metrics.total(metrics.peer_bytes) + sum(int(v.get("peer_bytes", 0)) for v in daemons),
    }


def _dirs(node: Node) -> tuple[DirReport, ...]:
    at, dirs = node.dirs_reported
    if time.monotonic() >= at + DIRS_EVERY_S:
        dirs = tuple(packcache.report(directory) for directory in node.cache.dirs)
        if node.warming is not None:
            node.dirs_reported = (time.monotonic(), dirs)
    return dirs


def message(node: Node) -> Heartbeat:
    """What the node holds now: generation and versions are of one moment."""
    dirs = _dirs(node)
    counts = counted(node)
    with node.lock:
        rates = node.rates
        return Heartbeat(
            node=node.config.name,
            idc=node.config.idc,
            address=node.address,
            peer_address=node.peer_address,
            role=node.config.role,
            labels=node.config.labels,
            agent_version=installed("outlap"),
            boot_id=node.boot_id,
            generation=max(0, node.generation),
            dirs=dirs,
            versions=tuple(status.report() for status in node.statuses.values()),
            mounts=tuple(record.report for record in node.mounts.values()),
            fetch_bps=statistics.fmean(rates) if rates else None,
            fetch_bps_spread=statistics.stdev(rates) if len(rates) > 1 else None,
            hit_bytes=counts["hit_bytes"],
            miss_bytes=counts["miss_bytes"],
            store_bytes=counts["store_bytes"],
            store_requests=counts["store_requests"],
            peer_bytes=counts["peer_bytes"],
        )


def beat(node: Node, control: Control) -> None:
    """Send heartbeats until the node ends: all that it holds once, then what changed."""
    sent = reporting.Sent()
    while not node.ending.is_set():
        wait = fetching = AWAY_S
        try:
            heartbeat = reporting.shortened(sent, message(node))
            reply = control.heartbeat(heartbeat)
            reporting.answered(sent, heartbeat, reply)
            wait = 0.0 if reply.full and heartbeat.since is not None else reply.interval_s
            fetching = min(wait, reply.fetching_s)
            metrics.control_up.set(1)
            node.works("heartbeat")
        except (Explained, OSError) as error:
            metrics.control_up.set(0)
            node.failed("heartbeat", error)
        except Exception as error:
            log.exception("unexpected", part="heartbeat")
            node.failed("heartbeat", error)
        _rest(node, min(60.0, max(0.1, wait)), max(0.1, fetching))


def _rest(node: Node, seconds: float, fetching_s: float) -> None:
    """Wait for so many seconds; of which only `fetching_s` while a version is made resident, and no longer than that goes on; or until
    the node ends."""
    began, before = time.monotonic(), node.warming
    while (left := began + seconds - time.monotonic()) > 0:
        if node.ending.wait(min(left, LOOK_S)):
            return
        now = node.warming
        if now is not None and time.monotonic() >= began + fetching_s:
            return
        if before is not None and now != before:  # it came to an end, which somebody may wait for
            return
        before = now


def follow(node: Node, control: Control) -> None:
    """Take each new desired residency until the node ends."""
    while not node.ending.is_set():
        try:
            desired = control.next_desired(node.config.name, node.generation, LONG_POLL_S)
            if desired is not None and desired.generation != node.generation:
                take_desired(node, desired)
            node.works("desired")
        except NotFound:
            node.ending.wait(0.2)  # it has not heard of us yet: the first heartbeat is on its way
        except (Explained, OSError) as error:
            node.failed("desired", error)
            node.ending.wait(AWAY_S)
        except Exception as error:
            log.exception("unexpected", part="desired")
            node.failed("desired", error)
            node.ending.wait(AWAY_S)
