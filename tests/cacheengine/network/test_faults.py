"""Faults of a group, one after the other, while a reader on every node compares each byte. The rows of the table in docs/group.md."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from benchmarks import groups, namespaces
from benchmarks.namespaces import Way
from tests.cacheengine.network.scene import (
    Scene,
    assert_right,
    is_whole,
    readers,
    scene,
    tell,
    until_whole,
)
from tests.conftest import wait_until

pytestmark = pytest.mark.slow
NAMES = ["n1", "n2", "n3"]
# longer than control needs to call a node dead
HELD_S = 5.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(tmp_path_factory.mktemp("group"), 3) as made:
        yield made


@pytest.fixture
def three(shared: Scene) -> Scene:
    """n1, n2 and n3, whole."""
    until_whole(shared)
    return shared


def is_alive(scene: Scene, name: str) -> bool:
    return any(state.alive for state in groups.states(scene.group) if state.node == name)


def says_resident(scene: Scene, name: str) -> bool:
    """What the node itself says, without control."""
    held = groups.residency(scene.group, name)[scene.warmed[0].version]
    return (held.state, held.files_resident) == ("resident", len(scene.warmed[0].files))


def dead(scene: Scene, name: str) -> None:
    wait_until(lambda: not is_alive(scene, name), f"control to miss {name}", 30)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["leaves", "killed"])
def test_an_agent_that_ends_is_missed_by_nobody_who_reads(three: Scene, how: signal.Signals) -> None:
    with readers(three) as reading:
        groups.stop(three.group, "n2", how)
        dead(three, "n2")
        reading.go_on()
        start = time.monotonic()
        groups.start_agent(three.group, "n2")
        seconds = until_whole(three, start=start)
        reading.go_on()
        seen = reading.seen()
    assert_right(seen)
    tell(f"agent: {how.name}", seen, seconds)


def test_all_processes_of_a_node_die(three: Scene) -> None:
    with readers(three) as reading:
        groups.kill_host(three.group, "n2")
        dead(three, "n2")
        reading.go_on()
        start = time.monotonic()
        groups.start_agent(three.group, "n2")
        seconds = until_whole(three, start=start)
        reading.go_on()
        seen = reading.seen()
    assert_right(seen)
    tell("every process of a node: kill -9", seen, seconds)


@pytest.mark.parametrize("way", ["both", "to", "from"])
def test_a_node_that_is_cut_off_reads_on_and_is_whole_soon_after(three: Scene, way: Way) -> None:
    host = three.group.nodes["n2"].host
    with readers(three) as reading:
        namespaces.cut(host, way)
        dead(three, "n2")
        reading.go_on()
        namespaces.heal(three.group.network, host)
        seconds = until_whole(three)
        seen = reading.seen()
    assert_right(seen)
    tell(f"node cut off: {way}", seen, seconds)


def test_a_link_that_goes_down_and_comes_up(three: Scene) -> None:
    host = three.group.nodes["n2"].host
    with readers(three) as reading:
        namespaces.unplug(host)
        dead(three, "n2")
        reading.go_on()
        namespaces.unplug(host, plugged=True)
        seconds = until_whole(three)
        seen = reading.seen()
    assert_right(seen)
    tell("node's link down", seen, seconds)


def test_control_is_down(three: Scene) -> None:
    with readers(three) as reading:
        groups.stop(three.group, "control")
        # a node that is started meanwhile goes by what its disk says
        groups.stop(three.group, "n1")
        groups.start_agent(three.group, "n1")
        wait_until(lambda: says_resident(three, "n1"), "n1 to have looked at its disk", 60)
        reading.go_on()
        start = time.monotonic()
        groups.start_control(three.group)
        seconds = until_whole(three, start=start)
        seen = reading.seen()
    assert_right(seen)
    tell("control down, an agent restarted meanwhile", seen, seconds)


def test_the_store_is_down(three: Scene) -> None:
    with readers(three) as reading:
        groups.kill_host(three.group, "store")
        groups.stop(three.group, "n3")
        groups.start_agent(three.group, "n3")
        until_whole(three)
        time.sleep(HELD_S)
        reading.go_on()
        groups.start_store(three.group)
        seconds = until_whole(three)
        seen = reading.seen()
    assert_right(seen)
    tell("store down, an agent restarted meanwhile", seen, seconds)


def test_control_and_store_and_all_agents_are_down(three: Scene) -> None:
    with readers(three) as reading:
        for name in ("control", "store", *NAMES):
            groups.kill_host(three.group, name)
        reading.go_on(60)
        groups.start_store(three.group)
        start = time.monotonic()
        groups.start_control(three.group)
        groups.start_agents(three.group, NAMES)
        seconds = until_whole(three, start=start)
        seen = reading.seen()
    assert_right(seen)
    tell("every process of the group but readers: kill -9", seen, seconds)


def test_is_whole_notices(three: Scene) -> None:
    """The yardstick of this page: a node that lost bytes is not whole, and mends itself."""
    victim = three.group.nodes["n2"]
    record = next(path for path in victim.cache.rglob("*.have"))
    with readers(three) as reading:
        groups.stop(three.group, "n2")
        record.unlink()
        dead(three, "n2")
        assert not is_whole(three)
        start = time.monotonic()
        groups.start_agent(three.group, "n2")
        seconds = until_whole(three, start=start)
        seen = reading.seen()
    assert_right(seen)
    tell("a record of a pack lost while the agent is down", seen, seconds)
