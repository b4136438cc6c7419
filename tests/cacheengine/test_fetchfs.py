"""fetchfs: packs as files that are right or give an error, whatever becomes of the daemon.

Run as a script, this file is a fetchfs over a source that a test steers with files: see `Steered`.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cacheengine import wanted
from cacheengine.errors import FetchFailed, MountFailed
from cacheengine.node import NodeConfig, write_node_file
from cacheengine.ondemand import fetchfs
from cacheengine.ondemand.readthrough import ReadThrough
from cacheengine.views import fuseserve, mountapi, views
from cacheengine.views.views import ViewPlan
from lake import stores
from lake.config import StoreConfig
from lake.errors import NotFound
from lake.packs import Pack, pack_key, write_pack
from tests.cacheengine.nodes import cache_at, make_files, object_path, publish

FILES = {f"f{number:03}": random.Random(number).randbytes(number * 997) for number in range(120)}


class Steered:
    """Packs of a folder. `<folder>/broken`: every read fails. `short`: reads come back short. `calls`: a line per read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size_of(self, pack_id: str) -> int:
        if (self._folder / "down").exists():
            raise FetchFailed("the store", "it does not answer")
        path = self._folder / f"{pack_id}.tar"
        if not path.exists():
            raise NotFound(f"the pack {pack_id}", "it is in no store")
        return path.stat().st_size

    def read_now(self, pack_id: str, offset: int, into: memoryview, may_wait: bool) -> bool:
        return False

    def read(self, pack_id: str, offset: int, length: int) -> bytes:
        with (self._folder / "calls").open("a") as calls:
            calls.write(f"{pack_id} {offset} {length}\n")
        if (self._folder / "broken").exists():
            raise FetchFailed(f"the pack {pack_id}", "its bytes do not have their hash")
        if (self._folder / "bug").exists():
            raise ZeroDivisionError("a bug")
        with (self._folder / f"{pack_id}.tar").open("rb") as file:
            data = os.pread(file.fileno(), length, offset)
        return data[:-1] if (self._folder / "short").exists() else data


@dataclass
class Daemon:
    """A running fetchfs: folder of its source, mount point, how to start it."""

    source: Path
    mountpoint: Path
    counters: Path
    log: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        reader, writer = os.pipe()
        command = [sys.executable, __file__, "--mountpoint", self.mountpoint, "--counters", self.counters]
        with self.log.open("ab") as out:
            process = subprocess.Popen(
                [*command, "--ready-fd", str(writer), self.source], stderr=out, pass_fds=[writer]
            )
        os.close(writer)
        ready = os.read(reader, 1)
        os.close(reader)
        self.started.append(process)
        assert ready == b"1", self.log.read_text()

    def kill(self, how: signal.Signals) -> int:
        self.started[-1].send_signal(how)
        return self.started[-1].wait()

    def path(self, pack: Pack) -> Path:
        return self.mountpoint / f"{pack.id}.tar"

    def count(self, condition: Callable[[dict[str, int | str]], bool]) -> dict[str, int | str]:
        """The counters, once they say this."""
        while not condition(found := json.loads(self.counters.read_text())):
            assert self.started[-1].poll() is None
        return dict(found)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "source").mkdir()
    (tmp_path / "packs").mkdir()
    made = Daemon(tmp_path / "source", tmp_path / "packs", tmp_path / "counters.json", tmp_path / "log")
    try:
        made.start()
        yield made
    finally:
        for mount in mountapi.mounts_below(tmp_path):
            mountapi.unmount(mount.target, lazy=True)
        for process in made.started:
            process.kill()
            process.wait()


def put(folder: Path, files: dict[str, bytes] = FILES) -> Pack:
    pack = write_pack(folder / "new", sorted(files.items()))
    (folder / "new").rename(folder / f"{pack.id}.tar")
    return pack


def forget_pages(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_pack_has_its_size_and_its_bytes_from_anywhere(daemon: Daemon) -> None:
    pack = put(daemon.source)
    path, whole = daemon.path(pack), (daemon.source / f"{pack.id}.tar").read_bytes()
    assert path.stat().st_size == pack.size == len(whole)
    assert path.stat().st_mode & 0o7777 == 0o444
    chance = random.Random(1)
    places = [(chance.randrange(len(whole)), chance.randrange(1, 400_000)) for _ in range(60)]
    places += [(len(whole) - 1, 10), (len(whole), 10), (0, 1), (4095, 2)]

    def read(place: tuple[int, int]) -> bool:
        offset, length = place
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return os.pread(descriptor, length, offset) == whole[offset : offset + length]
        finally:
            os.close(descriptor)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, places))
    assert path.read_bytes() == whole
    assert [found.name for found in daemon.mountpoint.iterdir()] == [path.name]
    assert daemon.count(lambda counters: int(counters["bytes"]) >= len(whole))["errors"] == 0


def test_names_that_are_no_packs_are_not_there(daemon: Daemon) -> None:
    put(daemon.source)
    for name in ("x", "0" * 64 + ".tar", "0" * 63 + ".tar", "0" * 64, "G" * 64 + ".tar", "calls"):
        assert not (daemon.mountpoint / name).exists()
    with pytest.raises(OSError) as caught:
        (daemon.mountpoint / "new").write_bytes(b"x")
    assert caught.value.errno == errno.EROFS


def test_a_store_that_is_down_is_an_error_and_no_missing_file(daemon: Daemon) -> None:
    pack = put(daemon.source)
    (daemon.source / "down").touch()
    with pytest.raises(OSError) as caught:
        daemon.path(pack).stat()
    assert caught.value.errno == errno.EIO
    (daemon.source / "down").unlink()
    assert daemon.path(pack).stat().st_size == pack.size


def test_pages_are_kept_and_read_ahead_is_large(daemon: Daemon) -> None:
    pack = put(daemon.source)
    daemon.path(pack).read_bytes()
    before = (daemon.source / "calls").read_text()
    assert daemon.path(pack).read_bytes() == (daemon.source / f"{pack.id}.tar").read_bytes()
    assert (daemon.source / "calls").read_text() == before
    mount = mountapi.mount_at(daemon.mountpoint)
    assert mount is not None
    shown = Path("/sys/class/bdi") / "{}:{}".format(*mount.device) / "read_ahead_kb"
    assert shown.read_text().strip() == "1024"
    assert os.statvfs(daemon.mountpoint).f_blocks == -(-pack.size // 4096)


@pytest.mark.parametrize("trouble", ["broken", "bug", "short"])
def test_what_fails_is_an_error_a_log_line_and_a_count_and_never_kept(daemon: Daemon, trouble: str) -> None:
    pack = put(daemon.source)
    (daemon.source / trouble).touch()
    with pytest.raises(OSError) as caught:
        daemon.path(pack).read_bytes()
    assert caught.value.errno == errno.EIO
    counted = daemon.count(lambda counters: int(counters["errors"]) > 0)
    assert pack.id in str(counted["last_error"])
    assert pack.id in daemon.log.read_text()
    assert '"level": "error"' in daemon.log.read_text()
    (daemon.source / trouble).unlink()
    assert daemon.path(pack).read_bytes() == (daemon.source / f"{pack.id}.tar").read_bytes()


def test_it_ends_when_told_to_and_unmounts(daemon: Daemon) -> None:
    assert daemon.kill(signal.SIGTERM) == 0
    assert not mountapi.is_mounted(daemon.mountpoint)
    daemon.start()
    subprocess.run(["umount", daemon.mountpoint], check=True)
    assert daemon.started[-1].wait() == 0


def plan_of(folder: Path, local: Pack, remote: Pack, daemon: Daemon) -> ViewPlan:
    """Both packs as one dataset: `local/…` on the disk, `remote/…` through fetchfs."""
    tables = []
    for name, pack in (("local", local), ("remote", remote)):
        columns = pack.members
        tables.append(
            pa.table(
                {
                    "path": [f"{name}/{member}" for member in columns["name"].to_pylist()],
                    "size": columns["size"],
                    "pack": pa.array([pack.id] * columns.num_rows),
                    "offset": columns["offset"],
                }
            )
        )
    pq.write_table(pa.concat_tables(tables), folder / "rows.parquet")
    return ViewPlan(
        dataset="d",
        tag="v1",
        version="e" * 64,
        target=folder / "view",
        rows=folder / "rows.parquet",
        packs=(local.id, remote.id),
        devices=(folder / "cache" / f"{local.id}.tar", daemon.path(remote)),
        state=folder / "state",
        fetchfs=daemon.mountpoint,
    )


@pytest.mark.parametrize("backend", ["kernel", "loop", "fuse"])
def test_killing_it_does_not_hurt_resident_files(
    tmp_path: Path, daemon: Daemon, backend: views.Backend
) -> None:
    (tmp_path / "cache").mkdir()
    plan = plan_of(
        tmp_path, put(tmp_path / "cache"), put(daemon.source, {"a": b"a" * 9000, "b": b"b" * 100_000}), daemon
    )
    assert views.mount_view(backend, plan).packs_local == 1
    assert (plan.target / "remote/a").read_bytes() == b"a" * 9000
    daemon.kill(signal.SIGKILL)
    for name, data in FILES.items():
        forget_pages(plan.target / "local" / name)
        assert (plan.target / "local" / name).read_bytes() == data
    forget_pages(plan.target / "remote/b")
    assert (plan.target / "remote/b").stat().st_size == 100_000
    with pytest.raises(OSError) as caught:
        (plan.target / "remote/b").read_bytes()
    assert caught.value.errno == errno.EIO
    daemon.start()
    views.mount_view(backend, plan)
    assert (plan.target / "remote/b").read_bytes() == b"b" * 100_000
    assert (plan.target / "local/f119").read_bytes() == FILES["f119"]
    views.unmount_view(plan.target, plan.state)


@pytest.mark.parametrize("backend", ["kernel", "loop", "fuse"])
def test_a_reader_of_a_view_gets_the_right_bytes_or_an_error(
    tmp_path: Path, daemon: Daemon, backend: views.Backend
) -> None:
    (tmp_path / "cache").mkdir()
    remote = {f"r{number}": random.Random(number).randbytes(5000 + number) for number in range(50)}
    plan = plan_of(tmp_path, put(tmp_path / "cache"), put(daemon.source, remote), daemon)
    views.mount_view(backend, plan)
    (daemon.source / "broken").touch()
    for name in remote:
        with pytest.raises(OSError) as caught:
            (plan.target / "remote" / name).read_bytes()
        assert caught.value.errno == errno.EIO
    (daemon.source / "broken").unlink()
    with ThreadPoolExecutor(8) as pool:
        right = pool.map(lambda name: (plan.target / "remote" / name).read_bytes() == remote[name], remote)
        assert all(right)
    views.unmount_view(plan.target, plan.state)


def test_the_real_one_makes_what_is_read_resident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    pack = put(tmp_path)
    (store / pack_key(pack.id)).parent.mkdir(parents=True)
    made = tmp_path / f"{pack.id}.tar"
    whole = made.read_bytes()
    made.rename(store / pack_key(pack.id))
    (tmp_path / "outlap.toml").write_text(
        f'here = "a"\n[idc.a]\nstore = "lake"\n[store.lake]\nidc = "a"\nurl = "file://{store}"\nread_only = true\n'
    )
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    node = NodeConfig.model_validate(
        {
            "name": "n",
            "idc": "a",
            "store": "lake",
            "cache_dirs": [{"path": str(tmp_path / "cache"), "quota": 1 << 30}],
            "mounts": str(tmp_path / "mounts"),
            "state_dir": str(tmp_path / "state"),
        }
    )
    node.state_dir.mkdir()
    write_node_file(node)
    options = ["--node-config", str(node.file)]
    process = views.start_daemon(
        "cacheengine.ondemand.fetchfs", node.fetchfs, options, tmp_path / "log", tmp_path / "counters"
    )
    try:
        shown = node.fetchfs / f"{pack.id}.tar"
        assert shown.stat().st_size == pack.size
        names, offsets = pack.members["name"].to_pylist(), pack.members["offset"].to_pylist()
        with shown.open("rb") as file:
            for name, offset in zip(names, offsets, strict=True):
                assert os.pread(file.fileno(), len(FILES[name]), offset) == FILES[name]
        cached = (tmp_path / "cache" / pack_key(pack.id)).read_bytes()
        for name, offset in zip(names, offsets, strict=True):
            assert cached[offset : offset + len(FILES[name])] == FILES[name]
        assert len(cached) == len(whole)
    finally:
        process.terminate()
        process.wait()
        mountapi.unmount(node.fetchfs, lazy=True)
    assert process.returncode == 0


def test_the_size_of_a_pack_of_a_known_version_costs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    store = stores.open_store(StoreConfig(name="s", idc="a", url=f"file://{tmp_path / 'store'}"))
    data = publish(store, tmp_path, make_files(6, 1000, 2000), pack_bytes=4000)
    wanted.save_want(store, tmp_path / "views", data.version)
    through = ReadThrough(cache_at(tmp_path / "cache"), store, tmp_path / "views")
    sizes = [object_path(store, pack).stat().st_size for pack in data.packs]
    for name in ("head", "get", "get_range"):
        monkeypatch.setattr(stores, name, lambda *_: pytest.fail("the store was asked"))
    assert [through.size_of(pack) for pack in data.packs] == sizes
    assert len(sizes) > 1
    monkeypatch.undo()
    with pytest.raises(NotFound):
        through.size_of("0" * 64)
    through.close()


def test_a_daemon_that_cannot_start_says_why(tmp_path: Path) -> None:
    options = ["--node-config", str(tmp_path / "missing")]
    with pytest.raises(MountFailed, match="the agent"):
        views.start_daemon(
            "cacheengine.ondemand.fetchfs", tmp_path / "m", options, tmp_path / "log", tmp_path / "counters"
        )
    assert not mountapi.is_mounted(tmp_path / "m")


def _main() -> int:
    parser = fuseserve.options("steered", "a fetchfs for tests")
    parser.add_argument("source", type=Path)
    chosen = parser.parse_args()
    return fuseserve.run(
        lambda: fetchfs.serve(Steered(chosen.source), chosen.mountpoint, chosen.counters, chosen.ready_fd)
    )


if __name__ == "__main__":
    sys.exit(_main())
