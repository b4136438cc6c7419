"""The clock on the wall jumps by days: nothing that is held goes, nothing expires early or never, and readers do not notice."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine.agent import mounts, reconcile, residency, room, scrub
from cacheengine.agent.ages import Ages, look
from cacheengine.agent.state import Node, Status, key_of
from cacheengine.node import CacheDirConfig
from cacheengine.packs import packcache
from cacheengine.wire import DesiredVersion
from lake.config import StoreConfig
from lake.stores import open_store
from tests.cacheengine.faulty import again, desire, end, flip, make_node, member, mount, seen, warm
from tests.cacheengine.nodes import Dataset, make_files, publish
from tests.cacheengine.test_agent import Idc
from tests.conftest import wait_until
from tests.wallclock import wall_clock

COUNT = 12
RIGHT = {"right": COUNT, "wrong": 0, "error": 0}
S = 10**9
DAYS = 30 * 86400
JUMPS = pytest.mark.parametrize("jump", [DAYS, -DAYS], ids=["ahead", "back"])


@dataclass
class Clock:
    """wall: seconds that the clock on the wall is off. passed: seconds that a test lets pass."""

    wall: float = 0.0
    passed: float = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made, wall, wall_ns, steady_ns = Clock(), time.time, time.time_ns, time.monotonic_ns
    monkeypatch.setattr(time, "time", lambda: wall() + made.wall + made.passed)
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns() + int((made.wall + made.passed) * S))
    monkeypatch.setattr(time, "monotonic_ns", lambda: steady_ns() + int(made.passed * S))
    return made


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreConfig:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    return StoreConfig(name="lake", idc="a", url=f"file://{tmp_path / 'lake'}")


@pytest.fixture
def data(lake: StoreConfig, tmp_path: Path) -> Callable[[str], Dataset]:
    """data(name): a dataset of two packs or three."""

    def make(name: str) -> Dataset:
        files = make_files(COUNT, 20_000, 60_000, sum(name.encode()))
        return publish(open_store(lake), tmp_path, files, name, pack_bytes=200 << 10)

    return make


@pytest.fixture
def make(lake: StoreConfig, tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make_it(**changes: object) -> Node:
        made.append(make_node(tmp_path, lake, **changes))  # type: ignore[arg-type]
        return made[-1]

    yield make_it
    for node in made:
        end(node)


def on_disk(node: Node) -> set[str]:
    return set(packcache.packs_on_disk(node.cache.dirs[0]))


@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.integers(-(10**9), 10**9), st.sets(st.sampled_from("abc"))),
        max_size=12,
    )
)
def test_ages_are_right_to_the_look_before_whatever_the_wall_says(
    rounds: list[tuple[int, int, set[str]]],
) -> None:
    steady, wall = 1000, 10**12
    ages = look(Ages(), {"a": wall - 500, "b": wall + 7}, steady, wall)
    assert {pack: at for pack, (_, at) in ages.known.items()} == {"a": 500, "b": 1000}
    records, true, looked = {"a": wall - 500, "b": wall + 7}, {"a": 500, "b": 1000}, steady
    for number, (passed, jump, touched) in enumerate(rounds):
        steady, wall = steady + passed, wall + passed + jump
        for pack in touched:  # the kernel stamps with the wall of that moment
            records[pack], true[pack] = wall * 100 + number, steady
        ages = look(ages, records, steady, wall)
        for pack, (_, at) in ages.known.items():
            assert at == true[pack] if pack not in touched else looked <= at <= steady
            true[pack] = at
        looked = steady


@JUMPS
def test_what_is_old_goes_in_its_time_and_what_is_held_never(
    make: Callable[..., Node], data: Callable[[str], Dataset], clock: Clock, jump: int
) -> None:
    node = make(ttl_s=3600.0)
    mounted, pinned, extra = data("mounted"), data("pinned"), data("extra")
    for one in (mounted, pinned, extra):
        assert warm(node, one) == "resident"
    desire(node, mounted, pinned)  # nothing wants `extra` any more: it has its time to go
    view = mount(node, mounted)
    assert room.drop_old(node) == 0
    clock.wall += jump
    assert room.drop_old(node) == 0  # neither all at once …
    late = data("late")
    desire(node, late, mounted, pinned)
    assert again(node) == "resident"
    desire(node, mounted, pinned)
    assert room.drop_old(node) == 0 and on_disk(node) >= {*extra.packs, *late.packs}
    clock.passed += 3601
    assert room.drop_old(node) > 0
    assert on_disk(node) == {*mounted.packs, *pinned.packs}  # … nor never
    assert seen(view, mounted.files) == RIGHT
    # an agent that starts finds records from the future, or from long ago
    node = make(ttl_s=3600.0)
    room.tidy(node)
    assert room.drop_old(node) == 0
    mounts.keep_mounted(node)
    assert on_disk(node) == {*mounted.packs, *pinned.packs}
    assert seen(view, mounted.files) == RIGHT and again(node) == "resident"


@JUMPS
def test_the_least_recently_mounted_goes_first(
    make: Callable[..., Node],
    data: Callable[[str], Dataset],
    clock: Clock,
    jump: int,
    tmp_path: Path,
) -> None:
    first, second, pinned, mounted, new = (data(name) for name in ("a2", "a1", "pinned", "mounted", "new"))
    room_for = 4 * (first.bytes + COUNT * 8192)
    dirs = [CacheDirConfig(path=tmp_path / "cache", quota=int(room_for * 1.05), high=1.0, low=0.99)]
    node = make(dirs=dirs)
    desire(node, first, second, pinned, mounted)
    held = {
        key: version.model_copy(update={"pinned": key.dataset == "pinned"})
        for key, version in node.desired.items()
    }
    node.desired = held
    assert again(node) == "resident"
    view = mount(node, mounted)
    clock.wall += max(0, jump)
    mounts.umount(node, str(mount(node, first)))
    clock.wall += min(0, jump) - max(0, jump)  # `second` comes later, on a clock that is behind
    mounts.umount(node, str(mount(node, second)))
    node = make(dirs=dirs)  # a restart remembers the order
    node.desired = held
    for key in held:
        node.statuses[key].state = "resident"
    version = DesiredVersion(dataset=new.name, tag=new.tag, version=new.version)
    node.desired = {**held, key_of(version): version}
    node.statuses[key_of(version)] = Status(version)
    residency.warm(node, key_of(version))
    assert node.statuses[key_of(version)].state == "resident", node.statuses[key_of(version)].failures
    gone = {key.dataset for key, status in node.statuses.items() if status.evicted}
    assert gone == {"a2"}
    assert on_disk(node) >= {*second.packs, *pinned.packs, *mounted.packs, *new.packs}
    assert seen(view, mounted.files) == RIGHT


@JUMPS
def test_what_failed_is_tried_again_and_what_is_there_is_looked_at(
    make: Callable[..., Node], data: Callable[[str], Dataset], clock: Clock, lake: StoreConfig, jump: int
) -> None:
    node, one = make(), data("one")
    hidden = Path(open_store(lake).where.removeprefix("file://")) / "packs"
    hidden.rename(hidden.with_name("away"))
    assert warm(node, one) == "failed"
    clock.wall += jump
    assert reconcile.next_action(node) is None  # not at once
    clock.passed += residency.RETRY_FIRST_S + 1
    action = reconcile.next_action(node)
    assert action is not None and action.kind == "warm"
    hidden.with_name("away").rename(hidden)
    reconcile.take(node, action)
    assert [status.state for status in node.statuses.values()] == ["resident"]
    clock.wall -= jump
    assert reconcile.next_action(node) is None
    clock.passed += 61
    action = reconcile.next_action(node)
    assert action is not None and action.kind == "check"


@JUMPS
def test_the_scrubber_comes_by(
    make: Callable[..., Node], data: Callable[[str], Dataset], clock: Clock, jump: int
) -> None:
    node, one = make(scrub_every_s=3600.0), data("one")
    clock.wall -= min(0, jump)
    for path in (warm(node, one), *node.cache.dirs[0].path.rglob("*.have")):
        if isinstance(path, Path):
            os.utime(path, (time.time(), time.time()))  # the kernel's clock, as it is now
    assert scrub.scrub_some(node)
    flip(*member(node, one, next(iter(one.files))))
    clock.wall += jump
    clock.passed += 3601
    assert scrub.scrub_some(node)
    assert [status.state for status in node.statuses.values()] == ["waiting"]  # it found the flipped byte


@pytest.fixture
def wall(tmp_path: Path) -> tuple[dict[str, str], Callable[[int], None]]:
    return wall_clock(tmp_path)


@contextmanager
def reading(view: Path, files: dict[str, bytes]) -> Iterator[list[dict[str, int]]]:
    """All files, again and again; what is yielded lists the rounds in which not all were right."""
    wrong: list[dict[str, int]] = []
    done = threading.Event()

    def read_on() -> None:
        while not done.is_set():
            found = seen(view, files)
            if found != RIGHT:
                wrong.append(found)

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        yield wrong
    finally:
        done.set()
        reader.join()


@pytest.mark.slow
@JUMPS
def test_an_agent_whose_clock_jumps_under_views(
    tmp_path: Path,
    lake: StoreConfig,
    data: Callable[[str], Dataset],
    wall: tuple[dict[str, str], Callable[[int], None]],
    jump: int,
) -> None:
    """The agent and its daemons live on a clock that jumps while readers read; then each of them is killed."""
    resident, cold, later = data("resident"), data("cold"), data("later")
    idc = Idc(tmp_path / "home", lake, node={"ttl_s": 3600.0, "fetchfs_processes": 2})
    idc.configure()
    try:
        idc.start_control()
        environment, jump_by = wall
        idc.environment.update(environment)
        idc.up()
        assert idc.warm(resident).state == "done"
        view, view_of_cold = idc.mount(resident), idc.mount(cold)
        first = sorted(cold.files)[0]
        assert seen(view_of_cold, {first: cold.files[first]})["right"] == 1
        with reading(view, resident.files) as wrong:
            jump_by(jump)
            assert idc.warm(later).state == "done"
            assert seen(idc.mount(later), later.files) == RIGHT
            stamps = [json.loads(p.read_bytes())["at_ns"] for p in (idc.state / "images").glob("*.json")]
            assert any(abs((at - time.time_ns()) / S - jump) < 3600 for at in stamps), "no jump was seen"
            for pid in idc.fetchfs_pids().values():
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: seen(view_of_cold, cold.files) == RIGHT, "reads that need fetchfs")
            idc.stop("agent")
            idc.start_agent()
            jump_by(0)
            assert idc.free(later).state == "done"
            wait_until(lambda: idc.reports()[resident.version].state == "resident", "the first version")
        assert wrong == []
        with idc.agent() as agent:
            assert {one.version for one in agent.mounts()} == {d.version for d in (resident, cold, later)}
        assert seen(view, resident.files) == RIGHT
        assert idc.held(resident) >= resident.bytes
    finally:
        idc.end()
