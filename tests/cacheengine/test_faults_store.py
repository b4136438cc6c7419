"""Faults of the store (real SeaweedFS behind a proxy that spoils answers) and of fetchfs: what a reader of a real mount sees."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cacheengine.agent import mounts
from cacheengine.agent.state import Node
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
    made = make_node(tmp_path, spoiled, read_wait_s=4.0)
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


def fetchfs_pid(node: Node) -> int:
    return int(json.loads((node.config.state_dir / "fetchfs.counters").read_text())["pid"])


def test_fetchfs_killed_heals_by_itself_and_resident_files_never_notice(
    node: Node, config: StoreConfig, data: Dataset, tmp_path: Path
) -> None:
    other = publish(open_store(config), tmp_path, make_files(10, 9000, 60_000, 5), "other")
    assert warm(node, other) == "resident"
    resident, cold = mount(node, other), mount(node, data)
    paths = iter(data.files.items())
    assert seen(cold, dict([next(paths)])) == RIGHT
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
        before = fetchfs_pid(node)
        os.kill(before, signal.SIGKILL)
        started, one = time.monotonic(), dict([next(paths)])
        wait_until(lambda: seen(cold, one) == RIGHT, "reads that need fetchfs", 30)
        print(f"healed after {time.monotonic() - started:.1f} s")
        wait_until(lambda: fetchfs_pid(node) != before, "the counters of the new one")
    finally:
        done.set()
        node.ending.set()
        reader.join()
        keeper.join()
    assert wrong == []
    assert seen(cold, data.files) == {"right": COUNT, "wrong": 0, "error": 0}
