"""A control service in a thread, over real HTTP, and the heartbeats of nodes that a test plays."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from cacheengine.client import Control
from cacheengine.control.app import create_app
from cacheengine.control.limits import limited
from cacheengine.control.settings import ControlSettings
from cacheengine.wire import DirReport, Heartbeat, VersionReport
from lake.publish import Published, publish_folder
from lake.stores import Store

FILES = {f"720p/car/{n:03}.jpg": bytes([n]) * (100 + n) for n in range(12)}
TOTAL = sum(map(len, FILES.values()))


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited for {what}")
        time.sleep(0.02)


class Served:
    """One replica of the service in a thread."""

    def __init__(self, folder: Path, lake: Callable[[], Store], **changes: Any) -> None:
        settings = ControlSettings(state_dir=folder, **{"poll_s": 0.1, **changes})
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        app = limited(create_app(settings, lake, "idc-b"), settings.max_body_bytes)
        self.server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, proxy_headers=False)
        )
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()
        wait_for(lambda: self.server.started, "the control service")
        self.token = settings.admin_token_path.read_text().strip()

    def client(self, token: str | None = None) -> Control:
        return Control(self.url, token or self.token)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


Serve = Callable[..., Served]


@pytest.fixture
def lake(make_folder_store: Callable[..., Store]) -> Store:
    return make_folder_store("lake-b", "idc-b")


@pytest.fixture
def published(lake: Store, tmp_path: Path) -> Published:
    return publish_files(lake, tmp_path, FILES)


def publish_files(lake: Store, tmp_path: Path, files: dict[str, bytes], dataset: str = "city") -> Published:
    for name, data in files.items():
        path = tmp_path / "source" / dataset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return publish_folder(lake, dataset, tmp_path / "source" / dataset, tmp_path / "scratch", {})


@pytest.fixture
def serve(lake: Store, tmp_path: Path) -> Iterator[Serve]:
    """serve(**settings): one replica more, all on one database."""
    started: list[Served] = []

    def start(open_lake: Callable[[], Store] = lambda: lake, **changes: Any) -> Served:
        started.append(Served(tmp_path / "control", open_lake, **changes))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def control(serve: Serve) -> Iterator[Control]:
    with serve().client() as client:
        yield client


def heartbeat(node: str, generation: int = 0, *versions: VersionReport, **changes: Any) -> Heartbeat:
    """What a node would say that holds these versions."""
    values: dict[str, Any] = {
        "node": node,
        "idc": "idc-b",
        "address": "127.0.0.1:1",
        "role": "gpu",
        "labels": {"rack": node[-1]},
        "agent_version": "0",
        "boot_id": "boot",
        "generation": generation,
        "dirs": (DirReport(path="/c", medium="ssd", quota=10**9, used=0, free_on_disk=10**9),),
        "versions": versions,
        "fetch_bps": 1e6,
        "fetch_bps_spread": 1e5,
    }
    return Heartbeat(**{**values, **changes})


def beat(control: Control, node: str, generation: int = 0, *versions: VersionReport, **changes: Any) -> int:
    """One heartbeat; the generation that the node should see."""
    return control.heartbeat(heartbeat(node, generation, *versions, **changes)).generation


def report(published: Published, done: int, state: Any = None, **changes: Any) -> VersionReport:
    values: dict[str, Any] = {
        "dataset": published.dataset,
        "tag": published.tag,
        "version": published.version,
        "state": state or ("resident" if done == published.files else "fetching"),
        "files_total": published.files,
        "files_resident": done,
        "bytes_total": published.bytes,
        "bytes_resident": published.bytes * done // published.files,
    }
    return VersionReport(**{**values, **changes})
