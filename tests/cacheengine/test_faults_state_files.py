"""State of another release, cut short or gone: nothing is let go until the kernel has told what is mounted, and health says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cacheengine import metrics, state_files
from cacheengine.agent import known_mounts, letgo, mounts
from cacheengine.agent.state import Node, leased_packs, mounted_versions, tell_set_aside
from cacheengine.packs import packcache
from cacheengine.packs.have import Have
from cacheengine.views import mountapi, superblocks
from lake.config import StoreConfig
from lake.stores import open_store
from tests.cacheengine.faulty import desire, end, make_node, mount, seen, warm
from tests.cacheengine.nodes import Dataset, make_files, publish
from tests.cacheengine.private_mounts import held_elsewhere
from tests.conftest import wait_until

COUNT = 40
RIGHT = {"right": COUNT, "wrong": 0, "error": 0}


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreConfig:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    return StoreConfig(name="lake", idc="a", url=f"file://{tmp_path / 'lake'}")


@pytest.fixture
def data(lake: StoreConfig, tmp_path: Path) -> Dataset:
    return publish(open_store(lake), tmp_path, make_files(COUNT, 9000, 60_000), pack_bytes=512 << 10)


@pytest.fixture
def make(lake: StoreConfig, tmp_path: Path) -> Iterator[Callable[[], Node]]:
    made: list[Node] = []

    def make_it() -> Node:
        made.append(make_node(tmp_path, lake))
        return made[-1]

    yield make_it
    for node in made:
        end(node)


def free_half(node: Node) -> int:
    """As a free by a list of half of the files; bytes that it freed."""

    def keep(pack: str) -> Have:
        known = packcache.load_have(node.cache, pack)
        return Have(known.offset[::2], known.size[::2], known.head[::2])

    packs = packcache.packs_on_disk(node.cache.dirs[0])
    return sum(letgo.trim(node, pack, keep, "freed") for pack in packs)


def add_field(path: Path) -> None:
    value = json.loads(path.read_bytes())
    for one in value if isinstance(value, list) else [value]:
        one["colour_of_the_car"] = "red"
    path.write_text(json.dumps(value))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def newer(path: Path) -> None:
    path.write_text('{"format": 2, "mounts": []}')


DAMAGES = [cut, empty, folder, newer]


@pytest.mark.fault("A3")
@pytest.mark.parametrize("name", ["mounts.json", "desired.json", "releasing.json"])
def test_a_field_of_another_release_is_no_damage(make: Callable[[], Node], data: Dataset, name: str) -> None:
    node = make()
    assert warm(node, data) == "resident"
    view = mount(node, data)
    add_field(node.config.state_dir / name)
    again = make()
    assert mounted_versions(again) == {data.version} and again.unsure == {} and again.last_errors == {}
    assert leased_packs(again) == leased_packs(node) != set()
    assert [key.version for key in again.desired] == [data.version]
    assert free_half(again) == 0
    assert seen(view, data.files) == RIGHT


@pytest.mark.fault("A3")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_mounts_that_cannot_be_read_are_learned_from_the_kernel_and_cost_no_lease(
    make: Callable[[], Node], data: Dataset, damage: Callable[[Path], None]
) -> None:
    node = make()
    assert warm(node, data) == "resident"
    view = mount(node, data)
    path = node.config.state_dir / "mounts.json"
    damage(path)
    again = make()
    assert mounted_versions(again) == {data.version} and "mounts" not in again.unsure
    assert leased_packs(again) == leased_packs(node) != set()
    # told until a person has looked, and not overwritten
    assert "mounts.json" in again.last_errors["state mounts.json"]
    assert metrics.state_unreadable._value.get() == 1
    (copy,) = state_files.copies_of(path)
    desire(again)
    [key] = again.statuses
    letgo.release(again, key)
    assert free_half(again) == 0
    assert seen(view, data.files) == RIGHT
    mounts.umount(again, str(view))
    assert not mountapi.is_mounted(view)
    copy.rmdir() if copy.is_dir() else copy.unlink()
    tell_set_aside(again)
    assert "state mounts.json" not in again.last_errors and metrics.state_unreadable._value.get() == 0


@pytest.mark.fault("A3")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_nothing_is_let_go_while_what_is_desired_is_not_known(
    make: Callable[[], Node], data: Dataset, damage: Callable[[Path], None]
) -> None:
    node = make()
    assert warm(node, data) == "resident"
    damage(node.config.state_dir / "desired.json")
    before = packcache.used(node.cache.dirs[0])
    again = make()
    assert "desired" in again.unsure and "state desired.json" in again.last_errors
    assert letgo.eviction_steps(again, None) == [] and free_half(again) == 0
    assert packcache.used(again.cache.dirs[0]) >= before - (64 << 10)
    desire(again, data)  # control says it again
    assert again.unsure == {} and free_half(again) > 0


@pytest.mark.fault("A3")
def test_a_view_that_no_file_tells_of_stops_every_release_until_it_is_gone(
    make: Callable[[], Node], data: Dataset
) -> None:
    node = make()
    assert warm(node, data) == "resident"
    view = mount(node, data)
    cut(node.config.state_dir / "mounts.json")
    for record in (node.config.state_dir / "images").glob("view-*.json"):
        cut(record)
    again = make()
    assert str(view) in again.unsure["mounts"] and free_half(again) == 0
    assert seen(view, data.files) == RIGHT
    mountapi.unmount(view)
    known_mounts.recover(again)
    assert again.unsure == {} and free_half(again) > 0


@pytest.mark.fault("A2")
@pytest.mark.parametrize("backend", ["kernel", "loop", "fuse"])
def test_umount_says_whether_the_view_is_still_read_elsewhere(
    make: Callable[[], Node], data: Dataset, tmp_path: Path, backend: str
) -> None:
    node = make()
    assert warm(node, data) == "resident"
    view = mount(node, data, backend)
    alone = mounts.umount(node, str(view))
    assert (alone.still_read, alone.superblocks) == (False, ())
    view = mount(node, data, backend)
    with held_elsewhere(view, tmp_path / "container") as container:
        answer = mounts.umount(node, str(view))
        assert answer.still_read and answer.superblocks and answer.version == data.version
        assert [left.version for left in make().left] == [
            data.version
        ]  # an agent that starts now knows it, too
        assert container.seen(data.files)["right"] == COUNT

    def ended() -> bool:
        mounts.look_elsewhere(node)
        return node.left == ()

    wait_until(ended, "the end of the last reader")
    assert superblocks.list_leftovers(node.config.state_dir / "images") == []
