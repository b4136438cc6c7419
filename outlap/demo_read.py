"""Read a version through the nodes' mounts, and compare every byte with what was published."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from cacheengine.client import AgentClient, Control, control_for
from cacheengine.wire import MountRequest, NodeState
from lake.config import Config, read_secret
from lake.stores import lake_store
from lake.versions import rows
from outlap.errors import DemoFailed

READERS = 4
HEARTBEAT_PATIENCE_S = 20.0


@dataclass(frozen=True)
class NodeRead:
    """What one node's mount gave. wrong: one line for each file that is missing, too many or other than published."""

    node: str
    target: str
    backend: str
    why: str
    files: int
    bytes: int
    seconds: float
    wrong: tuple[str, ...]


def manifest(config: Config, idc: str, version: str) -> dict[str, tuple[str, int]]:
    """path → (content id, size) of every file, from the IDC's own store; hashes of the manifest are checked on the way."""
    found: dict[str, tuple[str, int]] = {}
    for part in rows(lake_store(config, idc), version):
        columns = (part[name].to_pylist() for name in ("path", "content_id", "size"))
        found.update((path, (content, size)) for path, content, size in zip(*columns, strict=True))
    return found


def _problem(path: Path, content_id: str, size: int) -> tuple[int, str | None]:
    try:
        data = path.read_bytes()
    except OSError as error:
        return 0, f"{path}: {error.strerror}"
    if len(data) != size or blake3(data).hexdigest() != content_id:
        return len(data), f"{path}: other bytes than published ({len(data)} of {size})"
    return len(data), None


def read_all(folder: Path, expected: dict[str, tuple[str, int]]) -> tuple[int, tuple[str, ...]]:
    """Bytes read, and what is wrong: every expected file is read and hashed, and every file that is there expected."""
    there = {
        (Path(where) / name).relative_to(folder).as_posix()
        for where, _, names in os.walk(folder)
        for name in names
    }
    wrong = [f"{folder / path}: published by nobody" for path in sorted(there - set(expected))]
    with ThreadPoolExecutor(max_workers=READERS) as pool:
        answers = list(pool.map(lambda item: _problem(folder / item[0], *item[1]), expected.items()))
    return sum(count for count, _ in answers), (*wrong, *(text for _, text in answers if text))


def gpu_nodes(control: Control) -> list[NodeState]:
    return sorted((node for node in control.nodes() if node.role != "cache"), key=lambda node: node.node)


def read_through_mounts(
    config: Config, idc: str, dataset: str, version: str, say: Callable[[str], None]
) -> tuple[NodeRead, ...]:
    """Mount on every node that reads, and read everything there. Raises what control and agents raise."""
    expected = manifest(config, idc, version)
    token = config.idc_named(idc).token
    found = []
    with control_for(config, idc) as control:
        nodes = gpu_nodes(control)
    if not nodes:
        raise DemoFailed(
            f"the nodes of {idc}", "control knows none", "see `outlap status` and `outlap nodes`"
        )
    for node in nodes:
        with AgentClient(node.address, read_secret(token) if token else "") as agent:
            mounted = agent.mount(MountRequest(dataset=dataset, ref=version))
        say(f"{node.node}: mounted {mounted.target} by {mounted.backend}; reading {len(expected):,} files")
        began = time.monotonic()
        count, wrong = read_all(Path(mounted.target), expected)
        seconds = time.monotonic() - began
        found.append(
            NodeRead(
                node.node, mounted.target, mounted.backend, mounted.why, len(expected), count, seconds, wrong
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class Counters:
    """Sums over the nodes of an IDC, in bytes."""

    miss: int
    store: int
    requests: int


def counters(config: Config, idc: str, fresh: bool = True) -> Counters:
    """What the nodes counted. fresh: wait for heartbeats that were sent after this call."""
    now = time.time_ns()
    until = time.monotonic() + (HEARTBEAT_PATIENCE_S if fresh else 0)
    with control_for(config, idc) as control:
        while True:
            nodes = control.nodes()
            if all(node.seen_ns > now for node in nodes) or time.monotonic() >= until:
                break
            time.sleep(0.2)
    return Counters(
        sum(node.miss_bytes for node in nodes),
        sum(node.store_bytes for node in nodes),
        sum(node.store_requests for node in nodes),
    )
