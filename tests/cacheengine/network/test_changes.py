"""A version in `spread` while its group changes: nodes join, are drained, leave, die, have a clock that is off, are far away; readers
compare each byte."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import groups, namespaces
from benchmarks.group import counted
from cacheengine.control.placement import first_owners
from cacheengine.wire import SettingRequest, WarmRequest
from tests.cacheengine.network.delay import delaying
from tests.cacheengine.network.reader import Readers, reading
from tests.cacheengine.network.scene import CONTROL, Scene, assert_right, publish_there, scene, tell
from tests.cacheengine.nodes import Dataset, make_files
from tests.conftest import wait_until
from tests.wallclock import wall_clock

pytestmark = pytest.mark.slow
NAMES = ["n1", "n2", "n3"]
MINUTE_S, DAY_S = 60, 86_400
PEER_PORT = 8802


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


def alive(spread: Spread, name: str) -> bool:
    return any(state.alive for state in groups.states(spread.scene.group) if state.node == name)


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


def test_shares_follow_the_sizes_of_the_disks(spread: Spread) -> None:
    group, sizes = (
        spread.scene.group,
        {name: 8 << 30 for name in NAMES} | {"large": 24 << 30, "small": 2 << 30},
    )
    until_settled(spread, set(NAMES), time.monotonic())
    with readers(spread) as seeing:
        start = time.monotonic()
        for name in ("large", "small"):
            groups.add_node(group, name, quota=sizes[name])
        groups.start_agents(group, ["large", "small"])
        try:
            seconds = until_settled(spread, set(sizes), start)
            of = first_owners(list(spread.data.packs), sizes, 2)
            for name in sizes:
                mine = {pack for pack, owners in zip(spread.data.packs, of, strict=True) if name in owners}
                # where a reader is there are packs that it read, too
                assert held(spread, name) >= mine if name in NAMES else held(spread, name) == mine
            assert len(held(spread, "small")) < len(held(spread, "large"))
            seeing.go_on()
        finally:
            for name in ("large", "small"):
                groups.kill_host(group, name)
        until_settled(spread, set(NAMES), start)
        seen = seeing.seen()
    assert_right(seen)
    tell("two nodes join, one with a large disk, one with a small one, and die at once", seen, seconds)


def test_control_hears_nobody_for_long_and_nothing_moves(spread: Spread) -> None:
    """Longer than `member_away_s`: it is control that is cut off, not every node that died."""
    group = spread.scene.group
    until_settled(spread, set(NAMES), time.monotonic())
    before, there = counted(group, NAMES), {name: held(spread, name) for name in NAMES}
    with groups.asking(group) as control:
        generation = control.members().generation
    with readers(spread) as seeing:
        for host in (group.nodes[name].host for name in NAMES):
            namespaces.lose(host, group.control)
        wait_until(lambda: not any(alive(spread, name) for name in NAMES), "control to miss them", 30)
        time.sleep(2 * float(CONTROL["MEMBER_AWAY_S"]))
        seeing.go_on()
        for host in (group.nodes[name].host for name in NAMES):
            namespaces.lose(host, group.control, lost=False)
        start = time.monotonic()
        wait_until(lambda: all(alive(spread, name) for name in NAMES), "control to hear them", 60)
        seconds = until_settled(spread, set(NAMES), start)
        seeing.go_on()
        seen = seeing.seen()
    assert_right(seen)
    assert "nobody_heard" in (group.folder / "control.log").read_text()
    with groups.asking(group) as control:
        assert control.members().generation == generation
    assert all(held(spread, name) >= there[name] for name in NAMES)
    assert counted(group, NAMES)[0] - before[0] < spread.data.bytes / 10
    tell("control cut off from all nodes, their shares stay", seen, seconds)


def test_a_node_that_flaps_moves_nothing(spread: Spread) -> None:
    """Dead and alive again three times, never longer than `member_away_s`."""
    group, flapping = spread.scene.group, spread.scene.group.nodes["n2"].host
    with groups.asking(group) as control:
        control.change_setting(SettingRequest(key="member_away_s", value=60))
    until_settled(spread, set(NAMES), time.monotonic())
    before, there = counted(group, NAMES), {name: held(spread, name) for name in NAMES}
    with groups.asking(group) as control:
        generation = control.members().generation
    try:
        with readers(spread, ["n1", "n3"]) as seeing:
            for _ in range(3):
                namespaces.cut(flapping)
                wait_until(lambda: not alive(spread, "n2"), "control to miss it", 30)
                namespaces.heal(group.network, flapping)
                start = time.monotonic()
                wait_until(lambda: alive(spread, "n2"), "control to hear it", 30)
                seconds = time.monotonic() - start
            seeing.go_on()
            seen = seeing.seen()
    finally:
        with groups.asking(group) as control:
            control.change_setting(SettingRequest(key="member_away_s", value=None))
    assert_right(seen)
    with groups.asking(group) as control:
        assert control.members().generation == generation
    assert all(held(spread, name) >= there[name] for name in NAMES)
    assert counted(group, NAMES)[0] - before[0] < spread.data.bytes / 10
    tell("a node flaps three times, its share stays", seen, seconds)


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


def add_with_clock(spread: Spread, name: str, off_s: int) -> Callable[[int], None]:
    """A node, not started, whose clock is off by so much, until what is returned is told otherwise."""
    node = groups.add_node(spread.scene.group, name)
    environment, change = wall_clock(node.folder, off_s)
    node.environment |= environment
    return change


@pytest.mark.parametrize("off_s", [10 * MINUTE_S, -10 * MINUTE_S])
def test_a_node_whose_clock_is_off_takes_part(spread: Spread, off_s: int) -> None:
    """As far as S3 lets anyone's be: it refuses requests signed more than a quarter of an hour before or after its own time."""
    group, name = spread.scene.group, f"clock{'ahead' if off_s > 0 else 'behind'}"
    until_settled(spread, set(NAMES), time.monotonic())
    with readers(spread) as seeing:
        start = time.monotonic()
        add_with_clock(spread, name, off_s)
        groups.start_agents(group, [name])
        seconds = until_settled(spread, {*NAMES, name}, start)
        assert held(spread, name)
        data = spread.scene.warmed[0]
        job = groups.warm(group, WarmRequest(dataset=data.name, ref=data.tag, nodes=name))
        assert (job.state, job.failures) == ("done", ())
        seeing.go_on()
        groups.kill_host(group, name)
        until_settled(spread, set(NAMES), start)
        seen = seeing.seen()
    assert_right(seen)
    tell(f"a node joins whose clock is off by {off_s} s", seen, seconds)


@pytest.mark.parametrize("off_s", [3 * DAY_S, -3 * DAY_S])
def test_a_clock_that_is_off_by_days_is_named_and_set_right(spread: Spread, off_s: int) -> None:
    """The store refuses what such a node signs. It is alive, harms nobody, and takes its share once its clock is right."""
    group, name = spread.scene.group, f"days{'ahead' if off_s > 0 else 'behind'}"
    until_settled(spread, set(NAMES), time.monotonic())
    with readers(spread) as seeing:
        set_clock = add_with_clock(spread, name, off_s)
        groups.start_agents(group, [name])

        def failure() -> str:
            [state] = [state for state in groups.states(group) if state.node == name]
            assert state.alive
            return " ".join(each.cause for report in state.versions for each in report.failures)

        wait_until(lambda: "the clock of this machine" in failure(), "its failure")
        seeing.go_on()
        set_clock(0)
        seconds = until_settled(spread, {*NAMES, name}, time.monotonic())
        assert held(spread, name)
        seeing.go_on()
        groups.kill_host(group, name)
        until_settled(spread, set(NAMES), time.monotonic())
        seen = seeing.seen()
    assert_right(seen)
    tell(f"a node joins whose clock is off by {off_s} s, and it is set right", seen, seconds)


def test_a_node_that_is_far_away_takes_part(spread: Spread) -> None:
    """Its peers reach it through a proxy that keeps each byte for 150 ms."""
    group = spread.scene.group
    until_settled(spread, set(NAMES), time.monotonic())
    with readers(spread) as seeing:
        start = time.monotonic()
        proxy = namespaces.add_host(group.network, "proxy")
        there = f"{proxy.address}:{PEER_PORT}"
        node = groups.add_node(group, "far", peer_advertise=there)
        listen = f"{node.host.address}:{PEER_PORT}"
        config = node.folder / "node.toml"
        config.write_text(config.read_text() + f'peer_listen = "{listen}"\n')
        with delaying(proxy, PEER_PORT, (node.host.address, PEER_PORT), 0.15) as passed:
            groups.start_agents(group, ["far"])
            seconds = until_settled(spread, {*NAMES, "far"}, start)
            assert held(spread, "far")
            wait_until(lambda: passed.bytes > 100_000, "bytes of the far node", 60)
            seeing.go_on()
            groups.kill_host(group, "far")
            seeing.go_on()
            seen = seeing.seen()
    assert_right(seen)
    tell("a node joins whose answers take 150 ms each way, and dies", seen, seconds)
