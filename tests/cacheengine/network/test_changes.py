"""A version in `spread` while its group changes: a node joins, is drained, leaves, dies; readers compare each byte."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import groups
from benchmarks.group import counted
from cacheengine.wire import WarmRequest
from tests.cacheengine.network.reader import Readers, reading
from tests.cacheengine.network.scene import Scene, assert_right, publish_there, scene, tell
from tests.cacheengine.nodes import Dataset, make_files
from tests.conftest import wait_until

pytestmark = pytest.mark.slow
NAMES = ["n1", "n2", "n3"]


@dataclass
class Spread:
    """data: each pack on two nodes. views: of it on n1, n2 and n3."""

    scene: Scene
    data: Dataset
    views: dict[str, Path]


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:
    with scene(tmp_path_factory.mktemp("group"), 3, files=10) as made:
        data = publish_there(made, make_files(300, 1000, 100_000, 7), "spread")
        request = WarmRequest(dataset=data.name, ref=data.tag, placement="spread", copies=2)
        assert groups.warm(made.group, request).state == "done"
        yield Spread(
            made, data, {name: groups.mount(made.group, name, data.name, data.tag) for name in NAMES}
        )


@contextmanager
def readers(spread: Spread, names: list[str] = NAMES) -> Iterator[Readers]:
    folder = spread.scene.folder / f"readers-{time.monotonic_ns()}"
    with reading({name: spread.views[name] for name in names}, spread.data.files, folder) as found:
        found.go_on(5)
        yield found


def held(spread: Spread, name: str) -> set[str]:
    """Packs of the version of which a node has a record."""
    cache = spread.scene.group.nodes[name].cache
    return {path.stem for path in cache.rglob("*.have")} & set(spread.data.packs)


def until_settled(spread: Spread, members: set[str], start: float) -> float:
    """Seconds from `start` until control says that these nodes share the version, and that each share is where it should be."""

    def settled() -> bool:
        with groups.asking(spread.scene.group) as control:
            group = control.members()
        sharing = {node.node for node in group.nodes if node.alive and not node.draining}
        return sharing == members and group.settled == group.generation

    wait_until(settled, f"the shares of {sorted(members)}", 120)
    return time.monotonic() - start


def copies(spread: Spread, names: list[str]) -> dict[str, int]:
    """Pack → how many of these nodes have a record of it."""
    there = [held(spread, name) for name in names]
    return {pack: sum(pack in each for each in there) for pack in spread.data.packs}


def test_a_node_joins_is_drained_and_leaves(spread: Spread) -> None:
    group = spread.scene.group
    until_settled(spread, set(NAMES), time.monotonic())
    with readers(spread) as seeing:
        start = time.monotonic()
        groups.add_node(group, "n4")
        groups.start_agents(group, ["n4"])
        seconds = until_settled(spread, {*NAMES, "n4"}, start)
        mine = held(spread, "n4")
        assert mine and mine != set(spread.data.packs)
        seeing.go_on()
        seen = seeing.seen()
    assert_right(seen)
    # what it holds came from those that had it
    from_store, from_peers = counted(group, ["n4"])
    assert from_store < from_peers / 10
    tell("a node joins a spread version", seen, seconds)

    with readers(spread) as seeing:
        start = time.monotonic()
        with groups.asking(group) as control:
            control.drain("n4")
        seconds = until_settled(spread, set(NAMES), start)
        wait_until(lambda: not held(spread, "n4"), "n4 to let go", 60)
        assert min(copies(spread, NAMES).values()) >= 2
        groups.kill_host(group, "n4")
        seeing.go_on()
        seen = seeing.seen()
    assert_right(seen)
    tell("a node is drained, then it leaves", seen, seconds)


def test_the_share_of_a_node_that_died_is_made_anew(spread: Spread) -> None:
    group = spread.scene.group
    until_settled(spread, set(NAMES), time.monotonic())
    # what n3 does not hold its own fetchfs serves, and that dies with it
    with readers(spread, ["n1", "n2"]) as seeing:
        start = time.monotonic()
        groups.kill_host(group, "n3")
        seconds = until_settled(spread, {"n1", "n2"}, start)
        assert set(copies(spread, ["n1", "n2"]).values()) == {2}
        seeing.go_on()
        groups.start_agent(group, "n3")
        until_settled(spread, set(NAMES), start)
        seen = seeing.seen()
    assert_right(seen)
    tell("a node of a spread version: kill -9, its share made anew elsewhere", seen, seconds)
