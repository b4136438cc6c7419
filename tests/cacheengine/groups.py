"""A control service and several agents over one store, as processes on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli_w

from cacheengine.client import AgentClient, Control
from cacheengine.views import mountapi
from cacheengine.wire import Job, MountRequest, Trace, TraceRequest, WarmRequest
from lake.config import StoreConfig
from tests.cacheengine.nodes import Dataset
from tests.conftest import free_port, wait_until

MIB = 1 << 20
AWAY_S = 8.0


@dataclass
class Nodes:
    """What it starts, it ends. others: IDCs beside ours, name → store."""

    folder: Path
    store: StoreConfig
    others: dict[str, StoreConfig] = field(default_factory=dict)
    control_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def token(self) -> Path:
        return self.folder / "admin.token"

    def home(self, node: str) -> Path:
        return self.folder / node

    def state(self, node: str) -> Path:
        return self.home(node) / "state"

    def configure(self, node: str, **changes: Any) -> None:
        home = self.home(node)
        home.mkdir(parents=True, exist_ok=True)
        settings = {
            "name": node,
            "listen": "127.0.0.1:0",
            "cache_dirs": [{"path": str(home / "cache"), "quota": 256 * MIB}],
            "mounts": str(home / "mounts"),
            "state_dir": str(home / "state"),
            "fetch_concurrency": 4,
            **changes,
        }
        ours = {
            "store": self.store.name,
            "control": f"http://127.0.0.1:{self.control_port}",
            "token": {"file": str(self.token)},
        }
        idcs: dict[str, Any] = {"idc-a": ours, **{n: {"store": s.name} for n, s in self.others.items()}}
        stores = {
            store.name: json.loads(store.model_dump_json(exclude_none=True, exclude={"name"}))
            for store in (self.store, *self.others.values())
        }
        tables = {"here": "idc-a", "idc": idcs, "store": stores, "node": settings}
        (home / "outlap.toml").write_text(tomli_w.dumps(tables))

    def _start(self, name: str, module: str, home: Path) -> None:
        environment = {
            **os.environ,
            "OUTLAP_HOME": str(home),
            "OUTLAP_CONTROL_LISTEN": f"127.0.0.1:{self.control_port}",
            "OUTLAP_CONTROL_IDC": "idc-a",
            "OUTLAP_CONTROL_STATE_DIR": str(self.folder / "control"),
            "OUTLAP_CONTROL_ADMIN_TOKEN_FILE": str(self.token),
            "OUTLAP_CONTROL_HEARTBEAT_INTERVAL_S": "0.2",
            "OUTLAP_CONTROL_POLL_S": "0.2",
            "OUTLAP_CONTROL_MEMBER_AWAY_S": str(AWAY_S),
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module], env=environment, stdout=log, stderr=log
            )

    def start_control(self) -> None:
        self.configure("control-home")
        self._start("control", "cacheengine.control", self.home("control-home"))
        wait_until(
            lambda: self._lives("control") and self.token.exists() and self.control().healthy(), "control"
        )

    def start(self, *nodes: str, **changes: Any) -> None:
        """Start agents, and wait until all are in the group."""
        for node in nodes:
            self.configure(node, **changes)
            (self.state(node) / "agent.json").unlink(missing_ok=True)
            self._start(node, "cacheengine.agent", self.home(node))
        for node in nodes:
            wait_until(lambda node=node: self._lives(node) and self.knows(node), f"the group at {node}")  # type: ignore[misc]

    def _lives(self, name: str) -> bool:
        if self.processes[name].poll() is not None:
            pytest.fail((self.folder / f"{name}.log").read_text()[-3000:])
        return True

    def knows(self, node: str) -> bool:
        """Whether a node has heard of the group as control has it, with itself in it."""
        with self.control() as control:
            current = control.members()
        try:
            known = json.loads((self.state(node) / "group.json").read_text())["groups"][-1]
        except (OSError, IndexError):
            return False
        if node not in [n.node for n in current.nodes] or known["generation"] != current.generation:
            return False
        with self.agent(node) as agent:
            return agent.healthy()

    def settled(self) -> bool:
        with self.control() as control:
            group = control.members()
        return group.settled == group.generation

    def stop(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(how)
        process.wait(30)

    def control(self) -> Control:
        return Control(f"http://127.0.0.1:{self.control_port}", self.token.read_text().strip())

    def address(self, node: str) -> str:
        return str(json.loads((self.state(node) / "agent.json").read_text())["address"])

    def agent(self, node: str) -> AgentClient:
        return AgentClient(self.address(node), self.token.read_text().strip())

    def warm(self, data: Dataset, timeout_s: float = 60, **changes: Any) -> Job:
        request = WarmRequest(dataset=data.name, ref=data.tag, **changes)
        with self.control() as control:
            return control.wait(control.warm(request).id, timeout_s=timeout_s)

    def mount(self, node: str, data: Dataset) -> Path:
        with self.agent(node) as agent:
            return Path(agent.mount(MountRequest(dataset=data.name, ref=data.tag)).target)

    def trace(self, node: str, path: Path) -> Trace:
        with self.agent(node) as agent:
            return agent.trace(TraceRequest(path=str(path)))

    def counts(self, node: str) -> dict[str, int]:
        """What fetchfs of a node took, from where."""
        found: Counter[str] = Counter()
        for path in (self.state(node) / "counts").glob("fetchfs-*.json"):
            found.update(json.loads(path.read_text()))
        return dict(found)

    def counter(self, node: str, name: str) -> float:
        """A metric of an agent, of all its labels together."""
        text = httpx.get(f"{self.address(node)}/metrics").text
        return sum(float(v) for v in re.findall(rf"^outlap_node_{name}_total(?:{{.*}})? (\S+)", text, re.M))

    def held(self, node: str, data: Dataset) -> set[str]:
        """Packs of a dataset of which the node has a record."""
        found = (self.home(node) / "cache").rglob("*.have")
        return {path.stem for path in found if path.stem in data.packs}

    def end(self) -> None:
        for name in list(self.processes):
            self.stop(name)
        counters = [*self.folder.glob("*/state/*.counters"), *self.folder.glob("*/state/images/*.counters")]
        daemons = [json.loads(path.read_text())["pid"] for path in counters]
        for mount in reversed(mountapi.mounts()):
            if mount.target.is_relative_to(self.folder) or mount.source.startswith(str(self.folder)):
                mountapi.unmount(mount.target, lazy=True)
        for pid in daemons:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
