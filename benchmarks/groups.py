"""A cache group of real processes: a store (SeaweedFS), a control service and agents, each on a host of a network of its own.

The desk is the host of whoever asks them. Everything lies below one folder, which is also their OUTLAP_HOME; what was started ends with
the context, mounts included.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import tomli_w

from benchmarks import namespaces
from benchmarks.namespaces import Host, Network
from benchmarks.rivals import program
from cacheengine.client import AgentClient, Control
from cacheengine.views import mountapi
from cacheengine.wire import Job, MountRequest, NodeState, VersionReport, WarmRequest
from lake.errors import Explained
from lake.stores import Store

IDC, STORE, BUCKET = "idc-a", "lake-a", "lake"
KEY_ID, KEY = "group", "group-secret"
STORE_PORT, CONTROL_PORT, AGENT_PORT = 8333, 8800, 8801
STARTS_WITHIN_S = 120.0


@dataclass
class Node:
    """One node. environment: what its agent gets on top (a clock that is off, other settings)."""

    host: Host
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def mounts(self) -> Path:
        return self.folder / "mounts"


@dataclass
class Group:
    """running: name → process that was started and not stopped. changes: of the settings of control, OUTLAP_CONTROL_*.

    ports: of master, volume server and filer of the store; other groups beside this one have others.
    """

    folder: Path
    network: Network
    store: Host
    control: Host
    desk: Host
    changes: Mapping[str, str]
    ports: tuple[int, ...]
    nodes: dict[str, Node] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def token(self) -> Path:
        return self.folder / "admin.token"


@contextmanager
def group(folder: Path, changes: Mapping[str, str] | None = None) -> Iterator[Group]:
    """A store and a control service that run, and no nodes yet. changes: OUTLAP_CONTROL_* of the control service."""
    folder.mkdir(parents=True, exist_ok=True)
    with namespaces.network() as network:
        store, control, desk = (namespaces.add_host(network, name) for name in ("store", "control", "desk"))
        # SeaweedFS finds its own parts by sockets in /tmp that are named by port: networks of their own do not part those
        ports = random.SystemRandom().sample(range(20_000, 50_000), 3)
        made = Group(folder, network, store, control, desk, changes or {}, tuple(ports))
        _configure(made)
        try:
            start_store(made)
            start_control(made)
            yield made
        finally:
            _end(made)


def _end(group: Group) -> None:
    for host in group.network.hosts.values():
        namespaces.end_processes(host.namespace)
    for process in group.running.values():
        process.wait()
    for mount in reversed(mountapi.mounts()):
        # a view elsewhere has its image here
        if mount.target.is_relative_to(group.folder) or mount.source.startswith(str(group.folder)):
            with suppress(Explained):
                mountapi.unmount(mount.target, lazy=True)


def _configure(group: Group) -> None:
    secret = group.folder / "store.secret"
    secret.write_text(KEY, encoding="utf-8")
    store = {
        "idc": IDC,
        "url": f"s3://{BUCKET}",
        "endpoint": f"http://{group.store.address}:{STORE_PORT}",
        "access_key_id": {"env": "GROUP_STORE_KEY_ID"},
        "secret_access_key": {"file": str(secret)},
        "read_only": True,
    }
    idc = {
        "store": STORE,
        "control": f"http://{group.control.address}:{CONTROL_PORT}",
        "token": {"file": str(group.token)},
    }
    tables = {"here": IDC, "idc": {IDC: idc}, "store": {STORE: store}}
    (group.folder / "outlap.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")


def _start(group: Group, name: str, host: Host, command: list[str], environment: Mapping[str, str]) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OUTLAP_")}
    own = {"OUTLAP_HOME": str(group.folder), "GROUP_STORE_KEY_ID": KEY_ID, **environment}
    with (group.folder / f"{name}.log").open("ab") as log:
        group.running[name] = subprocess.Popen(
            namespaces.inside(host, *command),
            env=kept | own,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def stop(group: Group, name: str, how: signal.Signals = signal.SIGKILL) -> None:
    """A process of the group ends; what it started for itself (fetchfs) stays."""
    process = group.running.pop(name)
    process.send_signal(how)
    process.wait(60)


def kill_host(group: Group, name: str) -> None:
    """Everything on a host dies at once, as when its power goes; its mounts stay, as this machine lives on."""
    process = group.running.pop(name, None)
    namespaces.end_processes(group.network.hosts[name].namespace)
    if process is not None:
        process.wait(60)


def wait(
    group: Group, name: str, ready: Callable[[], object], what: str, within_s: float = STARTS_WITHIN_S
) -> float:
    """Seconds until the condition holds. Raises Explained when the process `name` ended first, or it took too long."""
    start = time.monotonic()
    while not ready():
        process = group.running.get(name)
        log = group.folder / f"{name}.log"
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() - start > within_s:
            said = log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else ""
            raise Explained(f"waiting for {what}", said or f"not in {within_s:.0f} s", f"see {log}")
        time.sleep(0.05)
    return time.monotonic() - start


def start_store(group: Group) -> None:
    """SeaweedFS with what it held before. Everyone reads it through the S3 protocol."""
    data = group.folder / "store"
    data.mkdir(exist_ok=True)
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "g", "credentials": [{"accessKey": KEY_ID, "secretKey": KEY}], "actions": actions}
    identities = group.folder / "store.json"
    identities.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    command = [program("weed"), "-logtostderr", "server", f"-dir={data}", f"-ip={group.store.address}"]
    command += ["-ip.bind=0.0.0.0", "-filer", "-s3", f"-s3.port={STORE_PORT}", f"-s3.config={identities}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=100", "-master.volumeSizeLimitMB=256"]
    command += ["-volume.preStopSeconds=1"]
    parts = zip(("master", "volume", "filer"), group.ports, strict=True)
    command += [f"-{part}.port={port}" for part, port in parts]
    command += [f"-{part}.localSocket={group.folder / f'{part}.sock'}" for part in ("s3", "filer")]
    _start(group, "store", group.store, command, {})
    wait(group, "store", lambda: _store_answers(group), "the store")


def _client(group: Group) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"http://{group.store.address}:{STORE_PORT}",
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=KEY,
        region_name="us-east-1",
    )


def _store_answers(group: Group) -> bool:
    """Whether it takes objects: right after its start it lists buckets and has no room for them yet."""
    with namespaces.on(group.desk), suppress(Exception):
        client = _client(group)
        if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="probe", Body=b"probe")
        return bool(client.get_object(Bucket=BUCKET, Key="probe")["Body"].read() == b"probe")
    return False


def upload(group: Group, source: Store) -> None:
    """Put every object of a store that is a folder into the group's store: a version published there is available here."""
    folder = Path(source.where.removeprefix("file://"))
    with namespaces.on(group.desk):
        client = _client(group)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                with path.open("rb") as body:
                    client.put_object(Bucket=BUCKET, Key=str(path.relative_to(folder)), Body=body)


def start_control(group: Group) -> None:
    environment = {
        "OUTLAP_CONTROL_LISTEN": f"{group.control.address}:{CONTROL_PORT}",
        "OUTLAP_CONTROL_IDC": IDC,
        "OUTLAP_CONTROL_STATE_DIR": str(group.folder / "control"),
        "OUTLAP_CONTROL_ADMIN_TOKEN_FILE": str(group.token),
        **{f"OUTLAP_CONTROL_{key}": value for key, value in group.changes.items()},
    }
    _start(group, "control", group.control, [sys.executable, "-m", "cacheengine.control"], environment)

    def answers() -> bool:
        if not group.token.exists():
            return False
        with asking(group) as control:
            return control.healthy()

    wait(group, "control", answers, "the control service")


def add_node(
    group: Group, name: str, quota: int = 8 << 30, cache: Path | None = None, **settings: object
) -> Node:
    """A node with a host of its own; not started. cache: where its packs lie (default: with the rest). settings: of [node]."""
    node = Node(namespaces.add_host(group.network, name), group.folder / name)
    node.folder.mkdir()
    value = {
        "name": name,
        "listen": f"{node.host.address}:{AGENT_PORT}",
        "cache_dirs": [{"path": str(cache or node.cache), "quota": quota}],
        "mounts": str(node.mounts),
        "state_dir": str(node.state),
        **settings,
    }
    (node.folder / "node.toml").write_text(tomli_w.dumps({"node": value}), encoding="utf-8")
    group.nodes[name] = node
    return node


def start_agent(group: Group, name: str) -> None:
    """Start a node's agent, and wait until it answers."""
    launch_agent(group, name)
    wait(group, name, lambda: is_up(group, name), f"the agent of {name}")


def launch_agent(group: Group, name: str) -> None:
    """Start a node's agent without waiting for it."""
    node = group.nodes[name]
    environment = {"OUTLAP_CONFIG": str(node.folder / "node.toml"), **node.environment}
    _start(group, name, node.host, [sys.executable, "-m", "cacheengine.agent"], environment)


def start_agents(group: Group, names: list[str]) -> None:
    """Several at once; back when control has heard of each."""
    for name in names:
        launch_agent(group, name)
    for name in names:
        wait(group, name, partial(is_up, group, name), f"the agent of {name}")
    wait(group, "control", lambda: set(names) <= {n.node for n in states(group) if n.alive}, "heartbeats")


def is_up(group: Group, name: str) -> bool:
    with agent(group, name) as found:
        return found.healthy()


@contextmanager
def asking(group: Group) -> Iterator[Control]:
    """A client of control, from the desk. Use it within the context only: its connections are made there."""
    address = f"http://{group.control.address}:{CONTROL_PORT}"
    with namespaces.on(group.desk), Control(address, group.token.read_text().strip()) as control:
        yield control


@contextmanager
def agent(group: Group, name: str) -> Iterator[AgentClient]:
    """A client of a node's agent, from the node itself, so that no fault of the network is between."""
    host = group.nodes[name].host
    with namespaces.on(host), AgentClient(
        f"http://{host.address}:{AGENT_PORT}", group.token.read_text().strip()
    ) as found:  # fmt: skip
        yield found


def states(group: Group) -> list[NodeState]:
    """What control last heard of each node."""
    with asking(group) as control:
        return control.nodes()


def warm(group: Group, request: WarmRequest, timeout_s: float = 240) -> Job:
    """A warm to its end."""
    with asking(group) as control:
        return control.wait(control.warm(request).id, timeout_s=timeout_s)


def mount(group: Group, name: str, dataset: str, ref: str = "latest") -> Path:
    """A view on a node; as mounts are shared, everyone on this machine sees it."""
    with agent(group, name) as found:
        return Path(found.mount(MountRequest(dataset=dataset, ref=ref)).target)


def residency(group: Group, name: str) -> dict[str, VersionReport]:
    """Version id → what the node itself says that it holds."""
    with agent(group, name) as found:
        return {report.version: report for report in found.residency()}
