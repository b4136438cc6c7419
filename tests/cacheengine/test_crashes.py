"""Killed at each step of a warm and of an eviction: what is marked is right, nothing leaks, and it goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cacheengine.agent import letgo, mounts, room, scrub
from cacheengine.agent.state import Node
from cacheengine.packs import have as haves
from cacheengine.packs import packcache
from lake.config import StoreConfig
from lake.stores import open_store
from tests.cacheengine.faulty import again, desire, end, make_node, mount, seen
from tests.cacheengine.nodes import Dataset, make_files, publish

COUNT = 30
WARM = ("warm.rows", "warm.reserved", "warm.written", "warm.written:3", "mark.synced", "mark.synced:2")
WARM += ("record.written", "record.written:2", "record.replaced", "record.replaced:2")
FREE = ("evict.record", "evict.record:2", "evict.done", "free.trimmed", "record.written", "record.replaced")
TRIM = ("record.written", "record.replaced", "trim.record", "trim.hole", "trim.hole:3")
KILLED = 9


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> StoreConfig:
    return StoreConfig(name="lake", idc="a", url=f"file://{tmp_path_factory.mktemp('lake')}")


@pytest.fixture(scope="module")
def data(lake: StoreConfig, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    files = make_files(COUNT, 1000, 60_000)
    return publish(open_store(lake), tmp_path_factory.mktemp("scratch"), files, pack_bytes=300 << 10)


@pytest.fixture(scope="module")
def child(lake: StoreConfig, data: Dataset) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.cacheengine.crashing", lake.url, data.tag, data.version]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


def kill(child: subprocess.Popen[str], operation: str, point: str, folder: Path) -> None:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(f"{operation} {point} {folder}\n")
    child.stdin.flush()
    while (line := child.stdout.readline()).startswith("20"):
        continue  # its log
    assert line.strip() == str(KILLED), f"{point} was not reached: {line}"


def restart(folder: Path, lake: StoreConfig) -> Node:
    """What an agent does that starts after the kill; everything marked is right."""
    node = make_node(folder, lake)
    room.tidy(node)
    directory = node.cache.dirs[0]
    for pack in packcache.packs_on_disk(directory):
        assert len(scrub.damaged_members(directory, pack, 1 << 40)) == 0
    return node


def assert_heals(node: Node, data: Dataset) -> None:
    desire(node, data)
    assert again(node) == "resident"
    view = mount(node, data)
    assert seen(view, data.files) == {"right": COUNT, "wrong": 0, "error": 0}
    mounts.umount(node, str(view))
    desire(node)
    for key in list(node.statuses):
        letgo.release(node, key)
    assert packcache.packs_on_disk(node.cache.dirs[0]) == {}
    assert list(node.cache.dirs[0].path.rglob("*.have")) == []


@pytest.mark.parametrize(
    ("operation", "points"),
    [
        pytest.param("warm", WARM, id="warm"),
        pytest.param("free", FREE, id="free", marks=pytest.mark.slow),
        pytest.param("trim", TRIM, id="trim", marks=pytest.mark.slow),
    ],
)
def test_killed_at_each_step(
    child: subprocess.Popen[str],
    lake: StoreConfig,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    points: tuple[str, ...],
) -> None:
    for point in points:
        folder = tmp_path / point.replace(":", "-")
        monkeypatch.setenv("OUTLAP_HOME", str(folder))
        kill(child, operation, point, folder)
        node = restart(folder, lake)
        try:
            assert_heals(node, data)
        finally:
            end(node)


def test_a_kill_with_space_reserved_gives_it_back(
    child: subprocess.Popen[str], lake: StoreConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    kill(child, "warm", "warm.reserved", tmp_path)
    node = make_node(tmp_path, lake)
    held = packcache.used(node.cache.dirs[0])
    assert held > COUNT * 4096
    room.tidy(node)
    assert packcache.used(node.cache.dirs[0]) < held / 5
    assert all(len(haves.load(path)) for path in node.cache.dirs[0].path.rglob("*.have"))
    assert list(node.config.mounts.iterdir()) == []
