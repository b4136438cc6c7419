"""Two IDCs in folders, with a catalogue of small frames, and an Airflow home of the tests' own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import uvicorn

from cacheengine.client import Control
from cacheengine.control.app import create_app
from cacheengine.control.settings import ControlSettings
from cacheengine.errors import CacheError
from cacheengine.wire import Desired, DirReport, Failure, Heartbeat, VersionReport
from lake import catalog
from lake.config import load_config
from lake.errors import NotFound
from lake.packs import put_pack, write_pack
from lake.publish import publish_query
from lake.stores import Store, lake_store

TOKEN = "a token of the tests that nobody guesses"
ROOT = Path(__file__).resolve().parents[2]
_HOME = tempfile.TemporaryDirectory(prefix="outlap-airflow-")
# Before the first import of airflow: it writes its settings into its home
os.environ.update(
    AIRFLOW_HOME=_HOME.name,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
    AIRFLOW__CORE__PLUGINS_FOLDER=str(ROOT / "plugins"),
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_HOME.name}/airflow.db",
    AIRFLOW__API_AUTH__JWT_SECRET="a secret of the tests, long enough for any digest that signs it",
    AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS="ann:viewer,ben:user,cleo:op,dora:admin",
    AIRFLOW__CORE__TEST_CONNECTION="Enabled",
)

SETTINGS = """
here = "idc-a"
[idc.idc-a]
store = "lake-a"
landing = "landing-a"
[idc.idc-b]
store = "lake-b"
control = "http://127.0.0.1:9"
[store.lake-a]
idc = "idc-a"
url = "file://{base}/lake-a"
[store.landing-a]
idc = "idc-a"
url = "file://{base}/landing-a"
[store.lake-b]
idc = "idc-b"
url = "file://{base}/lake-b"
[[airflow.datasets]]
name = "front"
query = "select * from frames where channel = 'CAM_FRONT'"
"""


@dataclass(frozen=True)
class Idcs:
    """home: $OUTLAP_HOME; a, b: the lakes."""

    home: Path
    a: Store
    b: Store


@pytest.fixture
def idcs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Idcs]:
    """Settings and lakes of idc-a (ours) and idc-b."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "outlap.toml").write_text(SETTINGS.format(base=tmp_path))
    for name in [name for name in os.environ if name.startswith("OUTLAP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OUTLAP_HOME", str(home))
    config = load_config()
    yield Idcs(home, lake_store(config), lake_store(config, "idc-b"))


def add_frames(store: Store, folder: Path, drive: str, count: int = 6, recipe: str = "ab" * 32) -> None:
    """Pack and catalogue `count` frames of a drive, the way that ingest leaves them."""
    paths = [f"720p/car1/{drive}/CAM_FRONT/{at:019d}.jpg" for at in range(count)]
    pack = write_pack(folder / "pack.tar", [(path, f"{path} bytes".encode() * 50) for path in paths])
    put_pack(store, pack.id, folder / "pack.tar")
    members = pack.members
    fixed = {"drive": drive, "channel": "CAM_FRONT", "recipe": recipe, "pack": pack.id, "vehicle": "car1"}
    values = {
        "path": members["name"].to_pylist(),
        "content_id": members["content_id"].to_pylist(),
        "size": members["size"].to_pylist(),
        "offset": members["offset"].to_pylist(),
        "timestamp_ns": list(range(count)),
        "frame_index": list(range(count)),
        "is_key": [True] * count,
        "sample_id": [f"{drive}-{at}" for at in range(count)],
        "width": [1280] * count,
        "height": [720] * count,
        "date": ["2026-01-02"] * count,
        "output": ["720p"] * count,
        **{name: [value] * count for name, value in fixed.items()},
        **{name: [None] * count for name in ("latitude", "longitude", "speed_mps")},
    }
    table = pa.table({field.name: pa.array(values[field.name], field.type) for field in catalog.FRAME_SCHEMA})
    catalog.write_frames(store, table, "2026-01-02", "car1", drive, recipe)


@pytest.fixture
def frames(tmp_path: Path) -> Callable[..., None]:
    """frames(store, drive, count=6, recipe=…)."""
    return lambda store, drive, *more, **fields: add_frames(store, tmp_path, drive, *more, **fields)


@pytest.fixture(scope="session")
def airflow_database() -> None:
    """Airflow's tables in the tests' own home."""
    made = subprocess.run(
        [str(Path(sys.executable).parent / "airflow"), "db", "migrate"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]


@pytest.fixture(scope="module", autouse=True)
def no_connection_is_left() -> Iterator[None]:
    """Close this process's connections to Airflow's database after each file.

    The last of the other processes that leaves SQLite's write-ahead log deletes it, also while a connection here has it
    open whose lock went: POSIX drops the locks of a process with the first descriptor of a file that it closes. Whoever
    reads in this process after that reads the deleted log.
    """
    yield
    settings = sys.modules.get("airflow.settings")
    engine = getattr(settings, "engine", None)
    if engine is not None:
        engine.dispose()


@pytest.fixture
def port() -> int:
    """A port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Poll until it holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., None]:
    """wait_for(condition, what): poll until it holds."""
    return wait_until


class Node(threading.Thread):
    """Heartbeats until stopped. It says of each desired version that `holding` of its `files` files are resident; failing: a cause."""

    token = TOKEN

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.ended, self.failing, self.files, self.holding = url, threading.Event(), "", 6, 6
        self.error: Exception | None = None

    def beat(self, control: Control) -> None:
        try:
            desired = control.desired("b1")
        except NotFound:  # before the first heartbeat
            desired = Desired(node="b1", generation=0)
        reports = []
        for item in desired.versions:
            bad = (Failure(path="720p/bad.jpg", cause=self.failing),) if self.failing else ()
            held = self.holding - len(bad)
            reports.append(
                VersionReport(
                    dataset=item.dataset,
                    tag=item.tag,
                    version=item.version,
                    list_id=item.list_id,
                    state="failed" if bad else "resident" if held == self.files else "fetching",
                    files_total=self.files,
                    files_resident=held,
                    bytes_total=FILES_BYTES,
                    bytes_resident=FILES_BYTES * held // self.files,
                    failures=bad,
                )
            )
        dirs = (DirReport(path="/c", medium="ssd", quota=1 << 30, used=0, free_on_disk=1 << 30),)
        control.heartbeat(
            Heartbeat(
                node="b1",
                idc="idc-b",
                address="127.0.0.1:9",
                role="gpu",
                agent_version="1",
                boot_id="1",
                generation=desired.generation,
                dirs=dirs,
                versions=tuple(reports),
            )
        )

    def run(self) -> None:
        with Control(self.url, TOKEN) as control:
            while not self.ended.wait(0.1):
                try:
                    self.beat(control)
                except CacheError as error:
                    self.error = error


FILES_BYTES = 16_800


@contextmanager
def played_node(home: Path, lake: Store, port: int) -> Iterator[Node]:
    """A control service of idc-b at a port, with the token of the tests, and one node that heartbeats."""
    secret = home / "token"
    secret.write_text(TOKEN)
    (home / "control").mkdir(exist_ok=True)
    options = ControlSettings(state_dir=home / "control", admin_token_file=secret, poll_s=0.1)
    app = create_app(options, lambda: lake, "idc-b")
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", proxy_headers=False))
    serving = threading.Thread(target=server.run, daemon=True)
    serving.start()
    played = Node(f"http://127.0.0.1:{port}")
    try:
        with Control(played.url, TOKEN) as control:
            wait_until(control.healthy, "the control service")
            played.start()
            wait_until(lambda: [item.node for item in control.nodes() if item.alive], "the node")
        yield played
    finally:
        played.ended.set()
        server.should_exit = True
        serving.join(20)


@pytest.fixture
def node(idcs: Any, frames: Callable[..., None], port: int) -> Iterator[Node]:
    """A control service of idc-b with one node, and the dataset `front` published there."""
    frames(idcs.b, "d1")
    publish_query(idcs.b, "front", "select * from frames", idcs.home / "scratch", {})
    settings = idcs.home / "outlap.toml"
    reach = f'control = "http://127.0.0.1:{port}"\ntoken = {{ file = "{idcs.home / "token"}" }}'
    settings.write_text(settings.read_text().replace('control = "http://127.0.0.1:9"', reach))
    with played_node(idcs.home, idcs.b, port) as played:
        yield played


# --- a running API server


@dataclass(frozen=True)
class Site:
    """What the API server serves: home is its $OUTLAP_HOME; port: where idc-b's control service is to be, if a test starts it."""

    home: Path
    a: Store
    b: Store
    port: int
    versions: tuple[str, str]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Two IDCs in folders; `front` has the versions v1 (a drive) and v2 (two drives) in idc-a."""
    base, home = tmp_path_factory.mktemp("stores"), tmp_path_factory.mktemp("outlap")
    port = free_port()
    reach = f'control = "http://127.0.0.1:{port}"\ntoken = {{ file = "{home / "token"}" }}'
    settings = SETTINGS.format(base=base).replace('control = "http://127.0.0.1:9"', reach)
    (home / "outlap.toml").write_text(settings)
    (home / "token").write_text(TOKEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTLAP_HOME", str(home))
        config = load_config()
    lake = lake_store(config)
    made = []
    for drive in ("d1", "d2"):
        add_frames(lake, base, drive)
        made.append(publish_query(lake, "front", "select * from frames", home / "scratch", {"by": "a test"}))
    return Site(home, lake, lake_store(config, "idc-b"), port, (made[0].version, made[1].version))


@pytest.fixture
def group(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """The control service of the site's idc-b with a node; $OUTLAP_HOME is the site's."""
    for name in [name for name in os.environ if name.startswith("OUTLAP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OUTLAP_HOME", str(site.home))
    with played_node(site.home, site.b, site.port) as played:
        yield played


SEED = """
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.dag_processing.bundles.manager import DagBundlesManager
DagBundlesManager().sync_bundles_to_db()
bag = DagBag()
assert not bag.import_errors, bag.import_errors
sync_bag_to_db(bag, "dags-folder", None)
from airflow.utils.session import create_session
from airflow.models.dag import DagModel
with create_session() as session:
    for dag in session.query(DagModel):
        dag.is_paused = False
"""


@pytest.fixture(scope="session")
def server(airflow_database: None, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running `airflow api-server`, with the DAGs in its database."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OUTLAP_")}
    environment = {**kept, "OUTLAP_HOME": str(site.home), "AIRFLOW__API__BASE_URL": url}
    seeded = subprocess.run(
        [sys.executable, "-c", SEED], env=environment, capture_output=True, text=True, check=False
    )
    assert seeded.returncode == 0, seeded.stderr[-3000:]
    log = tmp_path_factory.mktemp("api") / "log"
    command = str(Path(sys.executable).parent / "airflow")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [command, "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            env=environment,
            stdout=out,
            stderr=out,
        )

    def answers() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            return httpx.get(f"{url}/api/v2/version", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, "the API server", 120)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def tokens(server: str) -> dict[str, str]:
    """A token of each user: ann (viewer), ben (user), cleo (op), dora (admin)."""
    passwords = json.loads(
        (Path(os.environ["AIRFLOW_HOME"]) / "simple_auth_manager_passwords.json.generated").read_text()
    )
    return {
        user: httpx.post(
            f"{server}/auth/token", json={"username": user, "password": password}, trust_env=False
        ).json()["access_token"]
        for user, password in passwords.items()
    }


@pytest.fixture(scope="session")
def call(server: str, tokens: dict[str, str]) -> Iterator[Callable[..., httpx.Response]]:
    """call(method, path, user=None, headers=None, **json body)."""
    with httpx.Client(base_url=server, trust_env=False, timeout=60) as client:

        def ask(
            method: str, path: str, user: str | None = None, headers: Any = None, **body: Any
        ) -> httpx.Response:
            sent = {**({"Authorization": f"Bearer {tokens[user]}"} if user else {}), **(headers or {})}
            return client.request(method, path, json=body or None, headers=sent)

        yield ask
