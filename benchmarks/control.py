"""The control service under a whole group: simulated nodes, real HTTP, one real process of it.

Each node sends heartbeats as an agent does (cacheengine/reporting.py) and holds long polls for what it should hold and for the
members of its group. Three phases: all nodes join with everything they hold; nothing changes; then one version is warmed on all of
them, which they report step by step.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import aiohttp
import psutil

from benchmarks import report
from benchmarks.report import Report, Row, row
from cacheengine import reporting
from cacheengine.client import Control
from cacheengine.wire import (
    Desired,
    DirReport,
    Heartbeat,
    HeartbeatReply,
    Job,
    VersionReport,
    WarmRequest,
)
from lake.canonical import blake3_hex
from lake.config import StoreConfig
from lake.errors import Explained
from lake.publish import Published, publish_folder
from lake.stores import open_store

NODES, VERSIONS, STEADY_S = 1000, 100, 30.0
QUICK_NODES, QUICK_VERSIONS, QUICK_STEADY_S = 100, 20, 4.0
STEPS = 3  # heartbeats from the first byte of a warm to its last
LONG_POLL_S = 20.0
DATASET = "city"
_REVISION = re.compile(rb'"revision":([0-9]+)')


@dataclass
class Phase:
    """What nodes did and saw. sent, received: bytes of bodies. full: heartbeats that held all versions. bad: answers that were none."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    latencies: list[float] = field(default_factory=list)
    requests: int = 0
    sent: int = 0
    received: int = 0
    full: int = 0
    bad: list[str] = field(default_factory=list)

    @property
    def p99_s(self) -> float:
        return quantiles(self.latencies, n=100)[98] if len(self.latencies) > 1 else 0.0

    @property
    def p50_s(self) -> float:
        return sorted(self.latencies)[len(self.latencies) // 2] if self.latencies else 0.0


@dataclass
class Node:
    """A simulated agent."""

    name: str
    held: dict[tuple[str, str], VersionReport]
    sent: reporting.Sent = field(default_factory=reporting.Sent)
    generation: int = 0
    interval_s: float = 2.0
    joined: bool = False


@dataclass
class Group:
    url: str
    token: str
    nodes: list[Node]
    session: aiohttp.ClientSession
    phase: Phase = field(default_factory=Phase)
    ending: asyncio.Event = field(default_factory=asyncio.Event)


def _resident(dataset: str, version: str, files: int, size: int) -> VersionReport:
    return VersionReport(
        dataset=dataset,
        tag="v1",
        version=version,
        state="resident",
        files_total=files,
        files_resident=files,
        bytes_total=size,
        bytes_resident=size,
    )


def _node(number: int, versions: int) -> Node:
    held = [
        _resident(f"set-{n % 10}", blake3_hex(f"version {n}".encode()), 100_000, 10**10)
        for n in range(versions)
    ]
    return Node(f"n{number:04}", {(one.dataset, one.version): one for one in held})


def _message(node: Node) -> Heartbeat:
    quota = 4 << 40
    return Heartbeat(
        node=node.name,
        idc="idc",
        address="http://127.0.0.1:9",
        role="gpu",
        labels={"rack": node.name[-2:]},
        agent_version="0.1.0",
        boot_id="boot",
        generation=node.generation,
        dirs=(
            DirReport(path="/cache", medium="nvme", quota=quota, used=quota // 2, free_on_disk=quota // 2),
        ),
        versions=tuple(node.held.values()),
        fetch_bps=1e9,
    )


async def _beat(group: Group, node: Node) -> None:
    heartbeat = reporting.shortened(node.sent, _message(node))
    body = heartbeat.model_dump_json(exclude_defaults=True).encode()
    phase, started = group.phase, time.perf_counter()
    path = f"/v1/nodes/{node.name}/heartbeat"
    try:
        async with group.session.post(path, data=body) as answer:
            text = await answer.read()
    except aiohttp.ClientError as error:
        phase.bad.append(f"heartbeat: {error!r}")
        return
    phase.latencies.append(time.perf_counter() - started)
    phase.requests, phase.sent, phase.received = (
        phase.requests + 1,
        phase.sent + len(body),
        phase.received + len(text),
    )
    phase.full += heartbeat.since is None
    if answer.status != 200:
        phase.bad.append(f"heartbeat: {answer.status} {text[:200]!r}")
        return
    reply = HeartbeatReply.model_validate_json(text)
    reporting.answered(node.sent, heartbeat, reply)
    node.interval_s, node.joined = reply.interval_s, True


def _go_on(node: Node) -> None:
    """A step further with every version that is being fetched."""
    for key, one in list(node.held.items()):
        if one.state != "resident":
            files = min(one.files_total, one.files_resident + -(-one.files_total // STEPS))
            state = "resident" if files == one.files_total else "fetching"
            node.held[key] = one.model_copy(
                update={
                    "state": state,
                    "files_resident": files,
                    "bytes_resident": one.bytes_total * files // one.files_total,
                    "rate_bps": 1e9 if state == "fetching" else 0.0,
                }
            )


async def _live(group: Group, node: Node, delay_s: float) -> None:
    """Heartbeats, spread over the interval as those of machines that were not started by one hand."""
    await asyncio.sleep(delay_s)
    while not group.ending.is_set():
        await _beat(group, node)
        _go_on(node)
        try:
            await asyncio.wait_for(group.ending.wait(), node.interval_s)
        except TimeoutError:
            continue


def _take(node: Node, desired: Desired, published: Published) -> None:
    node.generation = desired.generation
    for wanted in desired.versions:
        key = (wanted.dataset, wanted.version)
        if key not in node.held:
            whole = _resident(wanted.dataset, wanted.version, published.files, published.bytes)
            nothing = {"state": "fetching", "files_resident": 0, "bytes_resident": 0}
            node.held[key] = whole.model_copy(update=nothing)


async def _follow(group: Group, node: Node, published: Published) -> None:
    """The long poll for what the node should hold."""
    while not group.ending.is_set():
        query = {"generation": node.generation, "wait_s": LONG_POLL_S}
        try:
            async with group.session.get(f"/v1/nodes/{node.name}/desired", params=query) as answer:
                text = await answer.read()
        except aiohttp.ClientError as error:
            group.phase.bad.append(f"long poll: {error!r}")
            await asyncio.sleep(1)
            continue
        group.phase.requests += 1
        group.phase.received += len(text)
        if answer.status == 200:
            _take(node, Desired.model_validate_json(text), published)
        elif answer.status != 204:
            group.phase.bad.append(f"long poll: {answer.status} {text[:200]!r}")
            await asyncio.sleep(1)


async def _belong(group: Group) -> None:
    """A node's long poll for the members of its group."""
    revision = -1
    while not group.ending.is_set():
        query = {"revision": revision, "wait_s": LONG_POLL_S}
        try:
            async with group.session.get("/v1/group", params=query) as answer:
                text = await answer.read()
        except aiohttp.ClientError as error:
            group.phase.bad.append(f"group: {error!r}")
            await asyncio.sleep(1)
            continue
        group.phase.requests += 1
        group.phase.received += int(answer.headers.get("Content-Length", len(text)))
        found = _REVISION.search(text)
        if answer.status != 200 or found is None:
            group.phase.bad.append(f"group: {answer.status} {text[:200]!r}")
            await asyncio.sleep(1)
        else:
            revision = int(found[1])


@asynccontextmanager
async def _running(url: str, token: str, nodes: list[Node], published: Published) -> AsyncIterator[Group]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(url, headers=headers, connector=connector, timeout=timeout) as session:
        group = Group(url, token, nodes, session)
        spread_s = 2.0 * max(1.0, len(nodes) / 400)
        tasks = [
            asyncio.create_task(_live(group, node, spread_s * place / len(nodes)))
            for place, node in enumerate(nodes)
        ]
        try:
            while not all(node.joined for node in nodes):
                _raise_if_broken(group)
                await asyncio.sleep(0.05)
            tasks += [asyncio.create_task(_follow(group, node, published)) for node in nodes]
            tasks += [asyncio.create_task(_belong(group)) for _ in nodes]
            yield group
        finally:
            group.ending.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _raise_if_broken(group: Group) -> None:
    if len(group.phase.bad) > 10:
        raise Explained("the control service", group.phase.bad[0], "see its log")


@dataclass
class Outcome:
    """joining, steady, warming: phases. full_bytes: of one heartbeat with all versions. job: the warm as it ended. rss: bytes."""

    joining: Phase
    steady: Phase
    warming: Phase
    full_bytes: int
    job: Job
    rss: int
    interval_s: float


async def _simulate(
    url: str,
    token: str,
    process: psutil.Process,
    nodes: int,
    versions: int,
    steady_s: float,
    published: Published,
) -> Outcome:
    def cpu() -> float:
        spent = process.cpu_times()
        return float(spent.user + spent.system)

    def begin(group: Group | None) -> tuple[Phase, float, float]:
        phase = Phase()
        if group is not None:
            group.phase = phase
        return phase, time.perf_counter(), cpu()

    def end(begun: tuple[Phase, float, float]) -> Phase:
        phase, started, spent = begun
        phase.seconds, phase.cpu_s = time.perf_counter() - started, cpu() - spent
        return phase

    simulated = [_node(number, versions) for number in range(nodes)]
    full_bytes = len(_message(simulated[0]).model_dump_json(exclude_defaults=True))
    started, spent = time.perf_counter(), cpu()
    async with _running(url, token, simulated, published) as group:
        joining = end((group.phase, started, spent))
        begin(group)
        await asyncio.sleep(2 * max(node.interval_s for node in simulated))
        begun = begin(group)
        await asyncio.sleep(steady_s)
        steady = end(begun)
        begun = begin(group)
        job = await asyncio.to_thread(_warm, url, token)
        warming = end(begun)
        return Outcome(
            joining, steady, warming, full_bytes, job, process.memory_info().rss, simulated[0].interval_s
        )


def _warm(url: str, token: str) -> Job:
    with Control(url, token) as control:
        return control.wait(control.warm(WarmRequest(dataset=DATASET)).id, timeout_s=300)


@contextmanager
def _service(folder: Path, interval_s: float) -> Iterator[tuple[str, str, psutil.Process, Published]]:
    """A control service of its own, over a lake with one small version. Yields (address, token, process, version)."""
    lake = open_store(StoreConfig(name="lake", idc="idc", url=f"file://{folder}/lake"))
    source = folder / "source"
    source.mkdir()
    for number in range(30):
        (source / f"{number:03}.bin").write_bytes(bytes([number]) * 1000)
    published = publish_folder(lake, DATASET, source, folder / "scratch", {})
    (folder / "outlap.toml").write_text(
        f'[idc.idc]\nstore = "lake"\n[store.lake]\nidc = "idc"\nurl = "file://{folder}/lake"\n'
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OUTLAP_")},
        "OUTLAP_HOME": str(folder),
        "OUTLAP_CONTROL_LISTEN": address,
        "OUTLAP_CONTROL_STATE_DIR": str(folder / "control"),
        "OUTLAP_CONTROL_HEARTBEAT_INTERVAL_S": str(interval_s),
    }
    with (folder / "control.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "cacheengine.control"], env=environment, stderr=log)
    try:
        with Control(address, None) as nobody:
            end = time.monotonic() + 60
            while not nobody.healthy():
                if time.monotonic() > end or process.poll() is not None:
                    raise Explained("the control service", (folder / "control.log").read_text()[-2000:])
                time.sleep(0.1)
        token = (folder / "control" / "admin.token").read_text().strip()
        yield f"http://{address}", token, psutil.Process(process.pid), published
    finally:
        process.terminate()
        process.wait(30)


def simulate(nodes: int, versions: int, steady_s: float, interval_s: float = 2.0) -> Outcome:
    """Run a group against a control service of its own. interval_s: the least that nodes report at."""
    with (
        tempfile.TemporaryDirectory(prefix="outlap-bench-control-") as folder,
        _service(Path(folder), interval_s) as (
            url,
            token,
            process,
            published,
        ),
    ):
        return asyncio.run(_simulate(url, token, process, nodes, versions, steady_s, published))


def _rows(name: str, phase: Phase) -> Iterator[Row]:
    yield row(f"{name}: requests", phase.requests / phase.seconds, "1/s")
    yield row(f"{name}: bytes of nodes", phase.sent / phase.seconds, "bytes/s")
    yield row(f"{name}: bytes to nodes", phase.received / phase.seconds, "bytes/s")
    yield row(f"{name}: CPU of control", phase.cpu_s / phase.seconds, "cores", goal="<= 1")
    yield row(f"{name}: CPU of control, a request", phase.cpu_s / max(1, phase.requests) * 1000, "ms")
    yield row(f"{name}: heartbeat, median", phase.p50_s * 1000, "ms")
    yield row(f"{name}: heartbeat, 99 of 100", phase.p99_s * 1000, "ms")


def run(quick: bool = False) -> Report:
    """1,000 nodes × 100 versions; quick: 100 × 20."""
    nodes, versions = (QUICK_NODES, QUICK_VERSIONS) if quick else (NODES, VERSIONS)
    found = simulate(nodes, versions, QUICK_STEADY_S if quick else STEADY_S)
    mean = found.steady.sent / max(1, len(found.steady.latencies))
    everything: Any = ("all versions each time", float(found.full_bytes))
    rows = (
        *_rows("joining", found.joining),
        *_rows("nothing changes", found.steady),
        *_rows("one version warmed on all", found.warming),
        row("one version warmed on all: until done", found.warming.seconds, "s"),
        row("bytes of a heartbeat", mean, "bytes", everything, "<= 0.1"),
        row("memory of control", found.rss / 2**20, "MiB"),
        row(
            "answers that were errors",
            len(found.joining.bad + found.steady.bad + found.warming.bad),
            "answers",
        ),
    )
    bad = (found.joining.bad + found.steady.bad + found.warming.bad)[:3]
    notes = (f"A node reports every {found.interval_s:g} s.", f"The warm ended {found.job.state}.", *bad)
    return Report(f"Control: {nodes:,} nodes × {versions} versions", report.machine(), rows, notes)
