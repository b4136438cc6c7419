"""A disk that leaves: its cache directory stays down until the same file system is back, and the disk below gets no byte."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cacheengine.agent.__main__ import lock_cache
from cacheengine.agent.residency import warm as warm_version
from cacheengine.agent.state import Node, take_desired
from cacheengine.node import CacheDirConfig
from cacheengine.packs import directory_identity, disks, packcache, reserving
from cacheengine.packs.directory_identity import MARKER, MEMORY, WrongFileSystem
from cacheengine.packs.packcache import open_cache
from cacheengine.wire import Desired, DesiredVersion
from lake.config import StoreConfig
from lake.stores import open_store
from tests.cacheengine.faulty import again, causes, end, make_node, mount, probes, seen, warm
from tests.cacheengine.nodes import Dataset, make_files, publish
from tests.cacheengine.test_packcache import need, no
from tests.conftest import wait_until

COUNT = 60
RIGHT = {"right": COUNT, "wrong": 0, "error": 0}


class Disk:
    """A tmpfs that a test mounts at a folder, takes away and brings back, as the same file system."""

    def __init__(self, folder: Path, kept: Path) -> None:
        self.folder, self._kept = folder, kept
        for path in (folder, kept):
            path.mkdir()
        self._make()
        self.attach()

    def _make(self) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(self._kept)], check=True)

    def attach(self) -> None:
        subprocess.run(["mount", "--bind", str(self._kept), str(self.folder)], check=True)

    def leave(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def replace(self) -> None:
        """A new, empty disk in its place."""
        subprocess.run(["umount", "-l", str(self._kept)], check=True)
        self._make()
        self.attach()

    def end(self) -> None:
        for path in (self.folder, self._kept):
            while os.path.ismount(path):
                subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk", tmp_path / "kept")
    yield made
    made.end()


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreConfig:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    return StoreConfig(name="lake", idc="a", url=f"file://{tmp_path / 'lake'}")


@pytest.fixture
def data(lake: StoreConfig, tmp_path: Path) -> Dataset:
    return publish(open_store(lake), tmp_path, make_files(COUNT, 20_000, 60_000), pack_bytes=256 << 10)


@pytest.fixture
def make(lake: StoreConfig, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make_it(**changes: object) -> Node:
        made.append(make_node(tmp_path, lake, **changes))  # type: ignore[arg-type]
        return made[-1]

    yield make_it
    for node in made:
        end(node)


def on(path: Path) -> CacheDirConfig:
    return CacheDirConfig(path=path, quota=1 << 30)


def state_of(node: Node) -> str:
    return packcache.report(node.cache.dirs[0]).state


def warm_slowly(node: Node, data: Dataset) -> threading.Thread:
    """A warm that takes some seconds, in a thread; it has begun to write when this returns."""
    version = DesiredVersion(dataset=data.name, tag=data.tag, version=data.version, bandwidth_bps=400_000)
    take_desired(node, Desired(node="n1", generation=node.generation + 1, versions=(version,)))
    thread = threading.Thread(target=warm_version, args=(node, next(iter(node.desired))))
    thread.start()
    wait_until(lambda: next(iter(node.statuses.values())).files_resident, "the first files")
    return thread


@pytest.mark.fault("A4")
@pytest.mark.parametrize("inside", ["", "cache/here"])
def test_a_disk_that_leaves_in_the_middle_of_a_warm(
    disk: Disk, make: Callable[..., Node], data: Dataset, inside: str
) -> None:
    node = make(dirs=[on(disk.folder / inside)])
    thread = warm_slowly(node, data)
    disk.leave()
    probes(node, 1)
    assert state_of(node) == "down"
    thread.join()
    assert [status.state for status in node.statuses.values()] == ["failed"]
    for _ in range(2):
        probes(node, 2 * disks.NORMAL_AFTER)
        assert again(node) == "failed"
        assert "not mounted" in causes(node)
        assert state_of(node) == "down"
    assert list(disk.folder.iterdir()) == []
    disk.attach()
    probes(node)
    assert state_of(node) == "normal" and again(node) == "resident"
    assert seen(mount(node, data), data.files) == RIGHT


@pytest.mark.fault("A4")
def test_readers_of_a_disk_that_leaves(
    disk: Disk, make: Callable[..., Node], data: Dataset, tmp_path: Path
) -> None:
    node = make(dirs=[on(disk.folder), on(tmp_path / "other")], fetchfs_processes=1)
    view = mount(node, data)  # all of it is read through fetchfs
    some = dict(list(data.files.items())[::6])
    assert seen(view, some)["right"] == len(some)
    held = packcache.packs_on_disk(node.cache.dirs[0]) or packcache.packs_on_disk(node.cache.dirs[1])
    assert held
    disk.leave()
    assert seen(view, data.files)["wrong"] == 0
    wait_until(lambda: seen(view, data.files) == RIGHT, "fetchfs to take the other directory")
    assert list(disk.folder.iterdir()) == []
    disk.attach()
    probes(node)
    assert seen(view, data.files) == RIGHT


@pytest.mark.fault("A4")
def test_the_only_disk_leaves_under_readers(disk: Disk, make: Callable[..., Node], data: Dataset) -> None:
    node = make(dirs=[on(disk.folder)], fetchfs_processes=1, read_wait_s=3.0)
    view = mount(node, data)
    some = dict(list(data.files.items())[:3])
    assert seen(view, some)["right"] == len(some)
    disk.leave()
    others = {path: content for path, content in data.files.items() if path not in some}
    first = dict(list(others.items())[:2])
    assert seen(view, first) == {"right": 0, "wrong": 0, "error": len(first)}
    assert list(disk.folder.iterdir()) == []
    disk.attach()
    wait_until(lambda: seen(view, data.files) == RIGHT, "fetchfs to take the disk again")


@pytest.mark.fault("A4")
def test_a_replaced_disk_is_taken_into_use_by_itself(
    disk: Disk, make: Callable[..., Node], data: Dataset
) -> None:
    node = make(dirs=[on(disk.folder)])
    assert warm(node, data) == "resident"
    before = (disk.folder / MARKER).read_bytes()
    disk.leave()
    probes(node)
    assert state_of(node) == "down"
    disk.replace()
    probes(node)
    assert state_of(node) == "normal" and (disk.folder / MARKER).read_bytes() != before
    assert again(node) == "resident"
    disk.leave()
    probes(node, 1)
    assert state_of(node) == "down" and list(disk.folder.iterdir()) == []


@pytest.mark.fault("A4")
def test_an_agent_that_starts_before_its_disk_is_mounted(
    disk: Disk, make: Callable[..., Node], data: Dataset, tmp_path: Path
) -> None:
    first = make(dirs=[on(disk.folder / "cache")])
    assert warm(first, data) == "resident"
    end(first)
    disk.leave()
    assert lock_cache(first.config) == []
    node = make(dirs=[on(disk.folder / "cache")])
    assert state_of(node) == "down" and warm(node, data) == "failed"
    assert "not mounted" in causes(node) and list(disk.folder.iterdir()) == []
    disk.attach()
    probes(node)
    assert state_of(node) == "normal" and again(node) == "resident"


@pytest.mark.fault("A4")
def test_a_copy_on_the_disk_below_does_not_count(
    disk: Disk, make: Callable[..., Node], data: Dataset
) -> None:
    node = make(dirs=[on(disk.folder)])
    assert warm(node, data) == "resident"
    disk.leave()
    shutil.copytree(disk.folder.parent / "kept", disk.folder, dirs_exist_ok=True)
    before = sorted((path, path.stat().st_mtime_ns) for path in disk.folder.rglob("*"))
    probes(node)
    assert state_of(node) == "down" and "copy" in disks.disk_of(disk.folder).cause
    assert again(node) == "failed"
    assert sorted((path, path.stat().st_mtime_ns) for path in disk.folder.rglob("*")) == before


@pytest.mark.fault("A4")
def test_a_write_between_the_leaving_and_the_next_probe(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    cache = open_cache([on(disk.folder)], tmp_path / "state")
    disk.leave()
    with pytest.raises(WrongFileSystem):
        packcache.open_pack(cache.dirs[0], "ab" + "0" * 62, 4096)
    assert disks.disk_of(disk.folder).state == "down"
    disks.forget(disk.folder)
    open_cache([on(disk.folder)], tmp_path / "state")
    with pytest.raises(Exception, match="no cache directory can be written"):
        reserving.reserve(cache, [need()], "test", no, lambda: "")
    assert list(disk.folder.iterdir()) == []
    disks.forget(disk.folder)


def taken(path: Path, state: Path) -> bool:
    """Whether the node takes what is at the path just now, with a process that remembers nothing by itself."""
    disks.forget(path)
    try:
        directory_identity.take_into_use(path, state)
    except WrongFileSystem:
        return False
    return True


@pytest.mark.fault("A4")
def test_which_directory_is_taken_into_use(tmp_path: Path) -> None:
    """A directory on the disk of the state, which is on no mount of its own."""
    state, path = tmp_path / "state", tmp_path / "cache"
    state.mkdir()
    assert taken(path, state)
    marker = (path / MARKER).read_bytes()
    assert taken(path, state) and (path / MARKER).read_bytes() == marker
    shutil.rmtree(path)  # by hand: no mount is missing
    assert taken(path, state) and (path / MARKER).read_bytes() != marker
    (path / MARKER).unlink()
    assert taken(path, state)
    (path / MARKER).write_bytes(b"{")  # torn
    assert taken(path, state)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], check=True)  # a new disk over it
    try:
        assert taken(path, state)
        subprocess.run(["umount", str(path)], check=True)
        assert not taken(path, state)  # what lies below has a marker, of another time
        subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], check=True)
        (path / "holiday.jpg").touch()
        assert not taken(path, state)
        (path / "holiday.jpg").unlink()
        assert taken(path, state)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
        disks.forget(path)


@pytest.mark.fault("A4")
def test_a_bind_of_the_disk_of_the_state_is_no_replacement(disk: Disk, tmp_path: Path) -> None:
    """What a container sees whose host lost the disk: a mount at the same place, of the host's root disk."""
    state, below = tmp_path / "state", tmp_path / "below"
    state.mkdir()
    below.mkdir()
    assert taken(disk.folder, state)
    disk.leave()
    subprocess.run(["mount", "--bind", str(below), str(disk.folder)], check=True)
    assert not taken(disk.folder, state) and list(below.iterdir()) == []
    subprocess.run(["umount", str(disk.folder)], check=True)
    disk.attach()
    assert taken(disk.folder, state)
    disks.forget(disk.folder)


@pytest.mark.fault("A4")
def test_what_the_node_remembers_of_its_directories(tmp_path: Path) -> None:
    state, path = tmp_path / "state", tmp_path / "cache"
    state.mkdir()
    assert taken(path, state)
    memory = state / MEMORY
    value = json.loads(memory.read_bytes())
    value["dirs"][str(path)]["of_a_later_release"] = value["of_a_later_release"] = 1
    memory.write_text(json.dumps(value))
    assert taken(path, state)
    whole = memory.read_bytes()
    memory.write_bytes(whole[:-9])  # unreadable: nobody knows which disk belongs here
    assert not taken(path, state)
    memory.write_bytes(whole)
    assert taken(path, state)
    disks.forget(path)
