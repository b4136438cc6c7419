"""Faults of the store (real SeaweedFS behind a proxy that spoils answers) and of fetchfs: what a reader of a real mount sees."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from cacheengine import wanted as wants
from cacheengine.agent import fetchfs, mounts
from cacheengine.agent.state import Node, load_state
from cacheengine.views import mountapi
from lake.config import StoreConfig
from lake.stores import open_store
from tests.cacheengine.badstore import Fault, Proxy
from tests.cacheengine.faulty import again, causes, end, make_node, mount, seen, warm
from tests.cacheengine.nodes import Dataset, make_files, publish
from tests.conftest import Seaweed, wait_until

COUNT = 24
ERROR = {"right": 0, "wrong": 0, "error": 1}
RIGHT = {"right": 1, "wrong": 0, "error": 0}


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[Proxy]:
    made = Proxy(seaweed.endpoint)
    yield made
    made.close()


@pytest.fixture
def config(
    store_config: Callable[..., StoreConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StoreConfig:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    return store_config("lake", "a")


@pytest.fixture
def data(config: StoreConfig, tmp_path: Path) -> Dataset:
    # a pack for each file: read-ahead of one brings no other
    return publish(open_store(config), tmp_path, make_files(COUNT, 90_000, 100_000), pack_bytes=1)


@pytest.fixture
def node(config: StoreConfig, proxy: Proxy, tmp_path: Path) -> Iterator[Node]:
    spoiled = config.model_copy(update={"endpoint": proxy.endpoint, "read_only": True})
    made = make_node(tmp_path, spoiled, read_wait_s=4.0, fetchfs_processes=2)
    yield made
    proxy.answers.set()
    end(made)


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param((("wrong", ERROR),), id="wrong"),
        pytest.param(
            (("503", ERROR), ("short", ERROR), ("never", ERROR), ("slow", RIGHT)),
            id="others",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_reader_sees_right_bytes_or_an_error_whatever_the_store_does(
    node: Node, proxy: Proxy, data: Dataset, faults: tuple[tuple[Fault, dict[str, int]], ...]
) -> None:
    view, left = mount(node, data), iter(data.files.items())
    for fault, expected in faults:
        path, content = next(left)
        (view / path).stat()
        proxy.fault, proxy.spoiled = fault, 0
        assert seen(view, {path: content}) == expected, fault
        assert proxy.spoiled > 0, fault
        proxy.fault = "none"
        proxy.answers.set()
        wait_until(lambda path=path, content=content: seen(view, {path: content}) == RIGHT, f"after {fault}")  # type: ignore[misc]
        proxy.answers.clear()
    assert seen(view, data.files) == {"right": COUNT, "wrong": 0, "error": 0}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["503", "short", "wrong"])
def test_a_warm_over_a_bad_store_fails_naming_paths_and_goes_on_after(
    node: Node, proxy: Proxy, data: Dataset, fault: Fault
) -> None:
    proxy.fault = fault
    assert warm(node, data) == "failed"
    assert next(iter(data.files)) in causes(node)
    assert sum(status.files_resident for status in node.statuses.values()) == 0
    proxy.fault = "none"
    assert again(node) == "resident"
    assert seen(mount(node, data), data.files) == {"right": COUNT, "wrong": 0, "error": 0}


def test_a_warm_brings_the_names_too(node: Node, proxy: Proxy, data: Dataset) -> None:
    assert warm(node, data) == "resident"
    proxy.close()
    view = mount(node, data)
    walked = {str(path.relative_to(view)): path.stat().st_size for path in view.rglob("*") if path.is_file()}
    assert walked == {path: len(content) for path, content in data.files.items()}
    assert seen(view, data.files) == {"right": COUNT, "wrong": 0, "error": 0}


def fetchfs_pid(node: Node, number: int) -> int:
    return int(json.loads((node.config.state_dir / f"fetchfs-{number}.counters").read_text())["pid"])


def shares(node: Node, data: Dataset) -> list[dict[str, bytes]]:
    """The files of a dataset by the process of fetchfs that serves their packs."""
    want = wants.load_want(node.config.views, data.version)
    assert want is not None
    found: list[dict[str, bytes]] = [{} for _ in range(node.config.fetchfs_processes)]
    for place, part in enumerate(wants.read_packs(want)):
        for path in wants.paths_at(want, place, np.arange(len(part.offset))):
            found[node.config.fetchfs_of(part.pack)][path] = data.files[path]
    return found


def test_one_process_of_fetchfs_killed_hits_its_packs_alone(node: Node, data: Dataset) -> None:
    cold = mount(node, data)
    mine, others = shares(node, data)
    assert len(mine) > 3 and len(others) > 3
    first = dict([mine.popitem(), others.popitem()])
    assert seen(cold, first) == {"right": 2, "wrong": 0, "error": 0}
    before = fetchfs_pid(node, 0), fetchfs_pid(node, 1)
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: fetchfs.is_dead(fetchfs.folder(node.config, 0)), "its end")
    assert seen(cold, dict([mine.popitem()])) == ERROR
    assert seen(cold, dict([others.popitem()])) == RIGHT
    mounts.keep_mounted(node)
    assert seen(cold, data.files) == {"right": COUNT, "wrong": 0, "error": 0}
    assert fetchfs_pid(node, 0) != before[0] and fetchfs_pid(node, 1) == before[1]


def test_a_view_heals_when_fetchfs_was_started_by_someone_who_was_then_killed(
    node: Node, data: Dataset
) -> None:
    cold = mount(node, data)
    assert seen(cold, dict(list(data.files.items())[:2])) == {"right": 2, "wrong": 0, "error": 0}
    for number in range(2):
        os.kill(fetchfs_pid(node, number), signal.SIGKILL)
        wait_until(lambda number=number: fetchfs.is_dead(fetchfs.folder(node.config, number)), "its end")  # type: ignore[misc]
    assert set(fetchfs.ensure(node.config, (0, 1)).values()) == {None}
    again_ = Node(node.config, node.cache, node.store, "boot 2")
    load_state(again_)
    mounts.keep_mounted(again_)
    assert seen(cold, data.files) == {"right": COUNT, "wrong": 0, "error": 0}


@pytest.mark.slow
def test_healing_again_and_again_stacks_no_mounts(node: Node, data: Dataset, tmp_path: Path) -> None:
    cold, paths, counts = mount(node, data), iter(data.files.items()), set()
    for _ in range(4):
        assert seen(cold, dict([next(paths)])) == RIGHT
        counts.add(sum(each.target.is_relative_to(tmp_path) for each in mountapi.mounts()))
        for number in range(2):
            os.kill(fetchfs_pid(node, number), signal.SIGKILL)
            wait_until(lambda number=number: fetchfs.is_dead(fetchfs.folder(node.config, number)), "its end")  # type: ignore[misc]
        mounts.keep_mounted(node)
    assert seen(cold, data.files) == {"right": COUNT, "wrong": 0, "error": 0}
    assert len(counts) == 1, counts


def test_fetchfs_ends_while_a_reader_waits_and_the_reader_ends_too(
    node: Node, proxy: Proxy, data: Dataset
) -> None:
    cold, found = mount(node, data), list[dict[str, int]]()
    path, content = next(iter(data.files.items()))
    (cold / path).stat()
    proxy.fault = "never"
    reader = threading.Thread(target=lambda: found.append(seen(cold, {path: content})))
    reader.start()
    wait_until(lambda: proxy.spoiled, "a request that is not answered")
    pids = [fetchfs_pid(node, number) for number in range(2)]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    reader.join(30)
    assert found == [ERROR]
    for pid in pids:
        wait_until(lambda pid=pid: not psutil.pid_exists(pid), "its end")  # type: ignore[misc]


def test_fetchfs_killed_heals_by_itself_and_resident_files_never_notice(
    node: Node, config: StoreConfig, data: Dataset, tmp_path: Path
) -> None:
    other = publish(open_store(config), tmp_path, make_files(10, 9000, 60_000, 5), "other")
    assert warm(node, other) == "resident"
    resident, cold = mount(node, other), mount(node, data)
    mine, others = shares(node, data)
    assert seen(cold, dict([mine.popitem(), others.popitem()])) == {"right": 2, "wrong": 0, "error": 0}
    wrong: list[dict[str, int]] = []
    done = threading.Event()

    def read_on() -> None:
        while not done.is_set():
            found = seen(resident, other.files)
            if found != {"right": 10, "wrong": 0, "error": 0}:
                wrong.append(found)

    reader = threading.Thread(target=read_on)
    keeper = threading.Thread(target=mounts.run, args=(node,))
    reader.start()
    keeper.start()
    try:
        for killed in ((0,), (0, 1)):
            before = {number: fetchfs_pid(node, number) for number in killed}
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
            started, one = time.monotonic(), dict([mine.popitem()])
            wait_until(lambda one=one: seen(cold, one) == RIGHT, "reads that need fetchfs", 30)  # type: ignore[misc]
            print(f"{len(killed)} of 2 killed, healed after {time.monotonic() - started:.1f} s")
            wait_until(
                lambda before=before: all(fetchfs_pid(node, n) != pid for n, pid in before.items()),  # type: ignore[misc]
                "the counters of the new ones",
            )
    finally:
        done.set()
        node.ending.set()
        reader.join()
        keeper.join()
    assert wrong == []
    assert seen(cold, data.files) == {"right": COUNT, "wrong": 0, "error": 0}
