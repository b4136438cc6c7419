"""A real agent with a real control service: warm is true, views read right, and kills change nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import tomli_w

from cacheengine.client import AgentClient, Control
from cacheengine.errors import Busy, Unauthorised
from cacheengine.views import mountapi
from cacheengine.wire import (
    FreeRequest,
    Job,
    MountRequest,
    Owner,
    PinRequest,
    UmountRequest,
    VersionReport,
    WarmRequest,
)
from lake.config import StoreConfig
from lake.errors import NotFound
from lake.stores import Store, open_store
from tests.cacheengine.faulty import read_cold
from tests.cacheengine.nodes import Dataset, damage, make_files, object_path, publish
from tests.conftest import free_port, wait_until

MIB = 1 << 20
Files = Callable[..., dict[str, bytes]]


@dataclass
class Idc:
    """A control service and one node over a store. What it starts, it ends. node: more settings; environment: of what is started."""

    folder: Path
    store: StoreConfig
    quota: int = 256 * MIB
    node: dict[str, object] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    control_port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def token(self) -> Path:
        return self.folder / "admin.token"

    @property
    def state(self) -> Path:
        return self.folder / "node" / "state"

    @property
    def mounts(self) -> Path:
        return self.folder / "node" / "mounts"

    @property
    def cache(self) -> Path:
        return self.folder / "node" / "cache"

    def configure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        store = json.loads(self.store.model_dump_json(exclude_none=True, exclude={"name"}))
        node = {
            "name": "n1",
            "listen": "127.0.0.1:0",
            "cache_dirs": [{"path": str(self.cache), "quota": self.quota}],
            "mounts": str(self.mounts),
            "state_dir": str(self.state),
            "fetch_concurrency": 2,
            **self.node,
        }
        idc = {
            "store": self.store.name,
            "control": f"http://127.0.0.1:{self.control_port}",
            "token": {"file": str(self.token)},
        }
        tables = {"here": "idc-a", "idc": {"idc-a": idc}, "store": {self.store.name: store}, "node": node}
        (self.folder / "outlap.toml").write_text(tomli_w.dumps(tables))

    def start(self, name: str) -> None:
        environment = {
            **os.environ,
            **self.environment,
            "OUTLAP_HOME": str(self.folder),
            "OUTLAP_CONTROL_LISTEN": f"127.0.0.1:{self.control_port}",
            "OUTLAP_CONTROL_IDC": "idc-a",
            "OUTLAP_CONTROL_STATE_DIR": str(self.folder / "control"),
            "OUTLAP_CONTROL_ADMIN_TOKEN_FILE": str(self.token),
            "OUTLAP_CONTROL_HEARTBEAT_INTERVAL_S": "0.2",
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", f"cacheengine.{name}"], env=environment, stdout=log, stderr=log
            )

    def stop(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(how)
        process.wait(30)

    def start_agent(self) -> None:
        (self.state / "agent.json").unlink(missing_ok=True)
        self.start("agent")
        wait_until(lambda: self._runs("agent") and self.agent().healthy(), "the agent")

    def start_control(self) -> None:
        self.start("control")
        wait_until(lambda: self._runs("control") and self.control().healthy(), "control")

    def _runs(self, name: str) -> bool:
        if self.processes[name].poll() is not None:
            pytest.fail((self.folder / f"{name}.log").read_text()[-3000:])
        return self.token.exists() and (name != "agent" or (self.state / "agent.json").exists())

    def control(self) -> Control:
        return Control(f"http://127.0.0.1:{self.control_port}", self.token.read_text().strip())

    def agent(self, token: str | None = None) -> AgentClient:
        address = json.loads((self.state / "agent.json").read_text())["address"]
        return AgentClient(address, token or self.token.read_text().strip())

    def warm(self, data: Dataset, files: tuple[str, ...] | None = None, pin: bool = False) -> Job:
        request = WarmRequest(dataset=data.name, ref=data.tag, files=files, pin=pin)
        with self.control() as control:
            return control.wait(control.warm(request).id, timeout_s=60)

    def free(self, data: Dataset) -> Job:
        with self.control() as control:
            return control.wait(control.free(FreeRequest(dataset=data.name, ref=data.tag)).id, timeout_s=60)

    def mount(self, data: Dataset, **changes: object) -> Path:
        request = MountRequest(dataset=data.name, ref=data.tag).model_copy(update=changes)
        with self.agent() as agent:
            return Path(agent.mount(request).target)

    def reports(self) -> dict[str, VersionReport]:
        with self.agent() as agent:
            return {report.version: report for report in agent.residency()}

    def fetchfs_pids(self) -> dict[str, int]:
        """File of the counters → process, of each process of fetchfs."""
        found = self.state.glob("fetchfs-*.counters")
        return {path.name: int(json.loads(path.read_text())["pid"]) for path in found}

    def end(self) -> None:
        for name in list(self.processes):
            self.stop(name)
        counters = [*self.state.glob("*.counters"), *self.state.glob("images/*.counters")]
        daemons = [json.loads(path.read_text())["pid"] for path in counters]
        for mount in reversed(mountapi.mounts()):
            # views elsewhere have their image here
            if mount.target.is_relative_to(self.folder) or mount.source.startswith(str(self.folder)):
                mountapi.unmount(mount.target, lazy=True)
        for pid in daemons:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def up(self) -> None:
        """Start what is not running."""
        for name, start in (("control", self.start_control), ("agent", self.start_agent)):
            if name not in self.processes:
                start()
        wait_until(lambda: any(node.alive for node in self.control().nodes()), "a heartbeat")

    def held(self, data: Dataset) -> int:
        """Bytes that the packs of a dataset take on the node's disk."""
        packs = [path for path in self.cache.rglob("*.tar") if path.stem in data.packs]
        return sum(path.stat().st_blocks * 512 for path in packs)


def folder_config(folder: Path) -> StoreConfig:
    return StoreConfig(name="lake-a", idc="idc-a", url=f"file://{folder / 'lake'}")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Idc]:
    """One IDC for the tests that do not need one of their own."""
    folder = tmp_path_factory.mktemp("idc")
    idc = Idc(folder / "home", folder_config(folder))
    idc.configure()
    yield idc
    idc.end()


@pytest.fixture
def idc(shared: Idc) -> Idc:
    shared.up()
    return shared


@pytest.fixture
def lake(shared: Idc) -> Store:
    return open_store(shared.store)


@pytest.fixture
def own_idc(tmp_path: Path) -> Iterator[Callable[..., Idc]]:
    """own_idc(store settings, quota): an IDC for this test alone."""
    made: list[Idc] = []

    def make(store: StoreConfig, quota: int = 256 * MIB) -> Idc:
        idc = Idc(tmp_path / "home", store, quota)
        made.append(idc)
        idc.configure()
        idc.up()
        return idc

    yield make
    for idc in made:
        idc.end()


@pytest.fixture
def files(request: pytest.FixtureRequest) -> Callable[..., dict[str, bytes]]:
    """Frames that no other test has."""
    seed = zlib.crc32(request.node.name.encode())
    return lambda count, least=1000, most=60_000: make_files(count, least, most, seed)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A dataset name that no other test has."""
    return request.node.name.removeprefix("test_").replace("_", "-")[:60]


def fetched_bytes(idc: Idc) -> float:
    """What the agent, since it was started, took from the store."""
    address = json.loads((idc.state / "agent.json").read_text())["address"]
    text = httpx.get(f"{address}/metrics").text
    return float(re.search(r"^outlap_node_store_bytes_total (\S+)", text, re.M)[1])  # type: ignore[index]


def assert_reads_right(view: Path, files: dict[str, bytes]) -> None:
    found = {str(path.relative_to(view)) for path in view.rglob("*") if path.is_file()}
    assert found == set(files)
    for path, data in files.items():
        assert (view / path).read_bytes() == data, path


def drop_pages() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("1")


def is_mounted(idc: Idc, data: Dataset) -> bool:
    return any(report.version == data.version for report in idc.agent().mounts())


def test_warm_mount_read_free_over_s3(
    store_config: Callable[..., StoreConfig],
    own_idc: Callable[..., Idc],
    tmp_path: Path,
) -> None:
    config = store_config("lake-a", "idc-a")
    files = make_files(200, 1, 60_000)
    files["deep/er/empty"] = b""
    data = publish(open_store(config), tmp_path, files)
    assert len(data.packs) > 3
    # a node needs no right to write
    idc = own_idc(config.model_copy(update={"read_only": True}))
    job = idc.warm(data)
    assert (job.state, job.error) == ("done", None)
    assert (job.files_done, job.files_total, job.bytes_done) == (201, 201, data.bytes)
    with idc.control() as control:
        [node] = control.nodes()
    assert [(r.state, r.files_resident) for r in node.versions] == [("resident", 201)]
    # near members come together: far fewer requests than files
    assert 0 < node.store_requests <= 3 * len(data.packs)
    assert data.bytes <= node.store_bytes < 1.3 * data.bytes
    view = idc.mount(data)
    assert view == idc.mounts / f"{data.name}@{data.tag}"
    assert_reads_right(view, files)
    with pytest.raises(OSError) as raised:
        (view / "new").write_text("x")
    assert raised.value.errno == errno.EROFS
    # reads of what is resident need nobody
    idc.stop("agent")
    idc.stop("control")
    drop_pages()
    assert_reads_right(view, files)
    idc.start_control()
    idc.start_agent()
    assert is_mounted(idc, data)
    assert idc.agent().mount(MountRequest(dataset=data.name, ref=data.tag)).packs_remote == 0
    # a mounted version keeps its bytes, and they go with the view
    assert idc.free(data).state == "done"
    drop_pages()
    assert_reads_right(view, files)
    idc.agent().umount(UmountRequest(target=str(view)))
    wait_until(lambda: not idc.reports(), "the release")
    assert idc.held(data) == 0 and list(idc.cache.rglob("*.tar")) == []
    assert not view.exists()


def test_a_cold_view_reads_right_and_becomes_local(
    idc: Idc, lake: Store, tmp_path: Path, files: Files, name: str
) -> None:
    data = publish(lake, tmp_path, files(120, 1, 60_000), name)
    view = idc.mount(data)
    with idc.agent() as agent:
        answer = agent.mount(MountRequest(dataset=data.name, ref=data.tag))
    assert (answer.packs_local, answer.packs_remote) == (0, len(data.packs))
    some = dict(list(data.files.items())[:40])
    for path, content in some.items():
        assert (view / path).read_bytes() == content
    # fetchfs is killed: it comes back, and the view over it
    before = idc.fetchfs_pids()
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    def reads() -> bool:
        try:
            drop_pages()
            return (view / list(data.files)[-1]).read_bytes() == list(data.files.values())[-1]
        except OSError:
            return False

    def are_new() -> bool:
        return all(pid != before[name] for name, pid in idc.fetchfs_pids().items())

    wait_until(lambda: are_new() and reads(), "a new fetchfs")
    assert_reads_right(view, data.files)
    # warm: the view gets the packs themselves, and needs no fetchfs any more
    assert idc.warm(data).state == "done"
    wait_until(
        lambda: "have become resident" in (idc.folder / "agent.log").read_text(), "the view with local packs"
    )
    idc.stop("agent")
    for pid in idc.fetchfs_pids().values():
        os.kill(pid, signal.SIGKILL)
    drop_pages()
    assert_reads_right(view, data.files)


def test_a_killed_warm_goes_on_where_it_was(
    idc: Idc, lake: Store, tmp_path: Path, files: Files, name: str
) -> None:
    data = publish(lake, tmp_path, files(300, 1000, 60_000), name)
    assert len(data.packs) > 6
    # reading the fifth pack blocks, as a store does that does not answer
    slow = object_path(lake, data.packs[5])
    kept = slow.rename(tmp_path / "kept")
    os.mkfifo(slow)
    with idc.control() as control:
        job = control.warm(WarmRequest(dataset=data.name, ref=data.tag))
        wait_until(lambda: control.job(job.id).files_done > 0, "the first files")
        wait_until(lambda: len(list(idc.cache.rglob("*.have"))) >= 4, "four packs")
        idc.stop("agent")
        half = control.job(job.id)
        assert half.state == "running" and 0 < half.files_done < half.files_total
        slow.unlink()
        kept.rename(slow)
        held = sum(object_path(lake, pack).stat().st_size for pack in data.packs)
        idc.start_agent()
        job = control.wait(job.id, timeout_s=60)
        assert (job.state, job.files_done, job.bytes_done) == ("done", 300, data.bytes)
        assert 0 < fetched_bytes(idc) < 0.8 * held
    assert_reads_right(idc.mount(data), data.files)


def test_a_warm_that_does_not_fit_fails_at_once_and_says_what_helps(
    own_idc: Callable[..., Idc], tmp_path: Path
) -> None:
    lake, idc = open_store(folder_config(tmp_path)), own_idc(folder_config(tmp_path), quota=5 * MIB)
    small = publish(lake, tmp_path, make_files(60, 40_000, 60_000), "small")
    large = publish(lake, tmp_path, make_files(300, 40_000, 60_000, seed=2), "large")
    assert idc.warm(small, pin=True).state == "done"
    job = idc.warm(large)
    assert job.state == "failed"
    cause = job.failures[0].cause
    assert "large@v1" in cause and "bytes" in cause and "small@v1 (pinned" in cause
    assert idc.reports()[large.version].files_resident == 0
    with idc.control() as control:
        [node] = control.nodes()
        assert node.dirs[0].used <= node.dirs[0].quota
    assert_reads_right(idc.mount(small), small.files)
    # what is neither pinned nor mounted makes room
    part = tuple(list(large.files)[:60])
    with idc.control() as control:
        control.unpin(PinRequest(dataset="small"))
    idc.agent().umount(UmountRequest(target=str(idc.mounts / "small@v1")))
    assert idc.warm(large, files=part).state == "done"
    wait_until(lambda: idc.reports()[small.version].state == "failed", "the eviction")
    report = idc.reports()[small.version]
    assert "evicted" in report.failures[0].cause and report.files_resident < 60


def test_a_view_of_more_than_fits_reads_right_inside_the_quota(
    own_idc: Callable[..., Idc], tmp_path: Path
) -> None:
    lake, idc = open_store(folder_config(tmp_path)), own_idc(folder_config(tmp_path), quota=3 * MIB)
    small = publish(lake, tmp_path, make_files(15, 40_000, 60_000), "small")
    large = publish(lake, tmp_path, make_files(90, 40_000, 60_000, seed=2), "large")
    assert idc.warm(small).state == "done"
    warm, view = idc.mount(small), idc.mount(large)
    assert_reads_right(view, large.files)
    assert sum(path.stat().st_blocks * 512 for path in idc.cache.rglob("*")) <= idc.quota
    drop_pages()
    assert_reads_right(warm, small.files)
    assert_reads_right(view, large.files)
    assert idc.reports()[small.version].state == "resident"


def test_a_damaged_object_is_a_failure_with_its_path_and_never_warm(
    idc: Idc, lake: Store, tmp_path: Path, files: Files, name: str
) -> None:
    data = publish(lake, tmp_path, files(80, 1000, 60_000), name)
    path = list(data.files)[33]
    pack = next(p for p in data.packs if data.files[path] in object_path(lake, p).read_bytes())
    good = object_path(lake, pack).read_bytes()
    damage(lake, pack, data.files[path])
    job = idc.warm(data)
    assert job.state == "failed"
    assert [failure.path for failure in job.failures] == [path]
    assert "content id" in job.failures[0].cause
    report = idc.reports()[data.version]
    assert (report.state, report.files_resident, report.files_total) == ("failed", 79, 80)
    # its reader gets an error, never wrong bytes; the others are right
    view = idc.mount(data)
    with pytest.raises(OSError) as raised:
        (view / path).read_bytes()
    assert raised.value.errno == errno.EIO
    for other, content in data.files.items():
        if other != path:
            assert (view / other).read_bytes() == content
    # only what is warm is shown when asked
    owner = Owner(uid=1234, gid=5678, mode=0o640)
    warm = idc.mount(data, only_warm=True, target=str(tmp_path / "warm"), owner=owner)
    assert_reads_right(warm, {k: v for k, v in data.files.items() if k != path})
    seen = [(s.st_uid, s.st_gid, s.st_mode & 0o777) for s in (warm.stat(), next(warm.rglob("*.jpg")).stat())]
    assert seen == [(1234, 5678, 0o750), (1234, 5678, 0o640)]
    # repaired, and asked for again
    object_path(lake, pack).write_bytes(good)
    assert idc.warm(data).state == "done"
    wait_until(lambda: (view / path).read_bytes() == data.files[path], "the repaired file")


def test_a_file_list_narrows_what_is_resident(
    idc: Idc, lake: Store, tmp_path: Path, files: Files, name: str
) -> None:
    data = publish(lake, tmp_path, files(90, 1000, 60_000), name)
    chosen = tuple(sorted(data.files)[10:40])
    job = idc.warm(data, files=chosen)
    assert (job.state, job.files_total, job.files_done) == ("done", 30, 30)
    assert 0 < idc.held(data) < 0.7 * data.bytes
    warm = idc.mount(data, only_warm=True)
    assert_reads_right(warm, {path: data.files[path] for path in chosen})


def test_without_control_the_node_goes_on(
    idc: Idc, lake: Store, tmp_path: Path, files: Files, name: str
) -> None:
    data = publish(lake, tmp_path, files(50, 1000, 60_000), name)
    assert idc.warm(data).state == "done"
    idc.stop("control")
    idc.stop("agent", signal.SIGTERM)
    # someone lost a file meanwhile: the node fetches it again by what it last knew
    next(path for path in idc.cache.rglob("*.have") if path.stem in data.packs).unlink()
    idc.start_agent()
    wait_until(lambda: idc.reports()[data.version].state == "resident", "what was desired")
    assert idc.reports()[data.version].files_resident == 50
    assert_reads_right(idc.mount(data), data.files)


def test_who_asks_and_for_what(idc: Idc, lake: Store, tmp_path: Path, files: Files, name: str) -> None:
    data = publish(lake, tmp_path, files(5, 10, 1000), name)
    with idc.agent("wrong") as stranger:
        for ask in (stranger.mounts, stranger.residency):
            with pytest.raises(Unauthorised):
                ask()
        with pytest.raises(Unauthorised):
            stranger.mount(MountRequest(dataset=data.name))
    with idc.agent() as agent:
        with pytest.raises(NotFound, match="no-such"):
            agent.mount(MountRequest(dataset="no-such"))
        with pytest.raises(NotFound, match="v1"):
            agent.mount(MountRequest(dataset=data.name, ref="v7"))
        with pytest.raises(NotFound):
            agent.umount(UmountRequest(target="/no/such/view"))
        full = tmp_path / "full"
        full.mkdir()
        (full / "file").write_text("mine")
        with pytest.raises(Exception, match="there are files in it"):
            agent.mount(MountRequest(dataset=data.name, target=str(full)))
        for bad in ("relative", "/", "/tmp/../etc"):
            with pytest.raises(Exception, match="absolute path"):
                agent.mount(MountRequest(dataset=data.name, target=bad))
        assert all(report.dataset != data.name for report in agent.mounts())
        view = Path(agent.mount(MountRequest(dataset=data.name)).target)
        with (view / next(iter(data.files))).open("rb"), pytest.raises(Busy):
            agent.umount(UmountRequest(target=str(view)))
        agent.umount(UmountRequest(target=str(view)))
    token = idc.token.read_text().strip()
    for name in ("agent.log", "node/state/node.json", "node/state/fetchfs-0.log"):
        path = idc.folder / name
        assert not path.exists() or token not in path.read_text()


def test_a_second_agent_on_the_same_state_is_refused(idc: Idc) -> None:
    first = idc.processes.pop("agent")
    idc.start("agent")
    assert idc.processes.pop("agent").wait(30) == 1
    assert "another agent runs on it" in (idc.folder / "agent.log").read_text()
    idc.processes["agent"] = first
    assert idc.agent().healthy()


def test_an_upgrade_of_the_package_under_mounted_views_is_no_error(
    own_idc: Callable[..., Idc], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the old version's code is gone while its daemons serve, then the new one's is there and a new agent takes over."""
    code, houses = tmp_path / "installed", ("cacheengine", "lake")

    def install(comment: str) -> None:
        for house in houses:
            shutil.copytree(Path(__file__).parents[2] / house, code / house)
            with (code / house / "__init__.py").open("a") as file:
                file.write(f"# {comment}\n")

    install("the old one")
    monkeypatch.setenv("PYTHONPATH", str(code))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # not the folder that the tests run in
    config = folder_config(tmp_path)
    warm = publish(open_store(config), tmp_path, make_files(60, 1000, 60_000, 1), "warm")
    # a pack for each file: reading one brings no other
    cold = publish(open_store(config), tmp_path, make_files(20, 1000, 60_000, 2), "cold", pack_bytes=1)
    idc = own_idc(config)
    assert idc.warm(warm).state == "done"
    resident = [idc.mount(warm), idc.mount(warm, target=str(idc.folder / "tree"), backend="fuse")]
    partly = idc.mount(cold)
    pids = set(idc.fetchfs_pids().values())
    used = [Path(f"/proc/{pid}/environ").read_bytes() for pid in pids]
    assert pids and all(str(code).encode() in environment for environment in used)
    wrong: list[str] = []
    done = threading.Event()

    def read_on() -> None:
        while not done.is_set():
            for view in resident:
                for path, content in warm.files.items():
                    try:
                        if read_cold(view / path) != content:
                            wrong.append(path)
                    except OSError as error:
                        wrong.append(f"{view / path}: {error}")

    def first_reads(count: int) -> None:
        for _ in range(count):
            path, content = left.pop()
            assert read_cold(partly / path) == content

    left = list(cold.files.items())
    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        first_reads(5)
        shutil.rmtree(code)
        first_reads(5)
        install("the new one")
        idc.stop("agent", signal.SIGTERM)
        first_reads(5)
        idc.start_agent()
        wait_until(
            lambda: is_mounted(idc, warm) and is_mounted(idc, cold), "the views, found by the new agent"
        )
        first_reads(5)
    finally:
        done.set()
        reader.join()
    assert wrong == []
    assert set(idc.fetchfs_pids().values()) == pids


def test_the_log_is_one_json_object_a_line(
    idc: Idc, lake: Store, tmp_path: Path, files: Files, name: str
) -> None:
    idc.warm(publish(lake, tmp_path, files(5, 10, 1000), name))
    idc.stop("agent", signal.SIGTERM)
    events = [json.loads(line)["event"] for line in (idc.folder / "agent.log").read_text().splitlines()]
    assert "agent_started" in events and events[-1] == "agent_ended" and "resident" in events
