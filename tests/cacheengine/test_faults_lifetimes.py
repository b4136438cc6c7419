"""Nothing that anyone can still read, in any mount namespace, is punched, overwritten or cut short.

A reader sees right bytes or an error, never zeros.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cacheengine import wanted as wants
from cacheengine.agent import letgo, mounts, room, upkeep
from cacheengine.agent.state import Node, mounted_versions
from cacheengine.node import CacheDirConfig
from cacheengine.packs import have as haves
from cacheengine.packs import lifetimes, packcache
from cacheengine.packs.have import Have
from lake.config import StoreConfig
from lake.stores import open_store
from tests.cacheengine.faulty import desire, end, make_node, member, mount, seen, warm
from tests.cacheengine.nodes import Dataset, cache_at, make_files, publish
from tests.cacheengine.private_mounts import held_elsewhere
from tests.cacheengine.test_packcache import PACK, SIZE, keys, write
from tests.conftest import wait_until

COUNT = 40
RIGHT = {"right": COUNT, "wrong": 0, "zeros": 0, "error": 0}
BACKENDS = ["kernel", "loop", "fuse"]


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreConfig:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    return StoreConfig(name="lake", idc="a", url=f"file://{tmp_path / 'lake'}")


@pytest.fixture
def data(lake: StoreConfig, tmp_path: Path) -> Dataset:
    return publish(open_store(lake), tmp_path, make_files(COUNT, 9000, 60_000), pack_bytes=512 << 10)


@pytest.fixture
def make(lake: StoreConfig, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make_it(**changes: object) -> Node:
        made.append(make_node(tmp_path, lake, **changes))  # type: ignore[arg-type]
        return made[-1]

    yield make_it
    for node in made:
        end(node)


def half(node: Node) -> Callable[[str], Have]:
    """What a file list of every other file keeps of a pack."""

    def keep(pack: str) -> Have:
        known = packcache.load_have(node.cache, pack)
        return Have(known.offset[::2], known.size[::2], known.head[::2])

    return keep


def free_half(node: Node) -> int:
    """As `outlap free --files-from` of half of the files does; bytes that it freed."""
    packs = packcache.packs_on_disk(node.cache.dirs[0])
    return sum(letgo.trim(node, pack, half(node), "freed") for pack in packs)


@pytest.mark.fault("A2")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_container_reads_right_bytes_after_umount_on_the_host_and_a_free(
    make: Callable[..., Node], data: Dataset, tmp_path: Path, backend: str
) -> None:
    node = make()
    assert warm(node, data) == "resident"
    view = mount(node, data, backend)
    with held_elsewhere(view, tmp_path / "container") as container:
        assert container.seen(data.files) == RIGHT
        mounts.umount(node, str(view))
        before = packcache.used(node.cache.dirs[0])
        assert free_half(node) == 0
        assert packcache.used(node.cache.dirs[0]) == before
        assert letgo.held_bytes(node)[node.cache.dirs[0].path] > before / 3
        assert container.seen(data.files) == RIGHT
    directory, packs = node.cache.dirs[0], data.packs
    paths = [packcache.pack_path(directory, pack) for pack in packs]
    wait_until(lambda: not any(map(lifetimes.is_read, paths)), "the last reader's end")
    assert free_half(node) > before / 3
    assert letgo.held_bytes(node) == {directory.path: 0}


@pytest.mark.fault("A2")
def test_room_is_not_made_of_what_a_container_reads(
    make: Callable[..., Node], data: Dataset, lake: StoreConfig, tmp_path: Path
) -> None:
    cache = CacheDirConfig(path=tmp_path / "cache", quota=int(data.bytes * 1.5))
    node = make(dirs=[cache])
    assert warm(node, data) == "resident"
    view = mount(node, data)
    other = publish(open_store(lake), tmp_path, make_files(COUNT, 9000, 60_000, 7), "other")
    with held_elsewhere(view, tmp_path / "container") as container:
        mounts.umount(node, str(view))
        desire(node, data, other)
        assert warm(node, other) == "failed"
        room.keep_below_watermarks(node)
        assert container.seen(data.files) == RIGHT
    wait_until(lambda: mounts.look_elsewhere(node) or not node.left, "the last reader's end")
    assert warm(node, other) == "resident"
    assert packcache.used(node.cache.dirs[0]) <= cache.quota


@pytest.mark.fault("A2")
def test_a_version_that_a_container_reads_is_let_go_when_that_ends(
    make: Callable[..., Node], data: Dataset, tmp_path: Path
) -> None:
    node = make()
    assert warm(node, data) == "resident"
    view = mount(node, data)
    with held_elsewhere(view, tmp_path / "container") as container:
        mounts.umount(node, str(view))
        desire(node)
        [key] = node.statuses
        letgo.release(node, key)
        mounts.look_elsewhere(node)
        assert [status.state for status in node.statuses.values()] == ["freeing"]
        assert "still read" in node.statuses[key].failures[0].cause
        assert container.seen(data.files) == RIGHT
    wait_until(lambda: mounts.look_elsewhere(node) or not node.left, "the last reader's end")
    wait_until(lambda: letgo.release(node, key) or not node.statuses, "the release")
    assert packcache.packs_on_disk(node.cache.dirs[0]) == {}


@pytest.mark.fault("A3")
def test_an_agent_that_lost_its_leases_takes_nothing_from_a_view(
    make: Callable[..., Node], data: Dataset
) -> None:
    node = make()
    assert warm(node, data) == "resident"
    view = mount(node, data)
    node.mounts.clear()  # as a state file that cannot be read had it
    assert not mounted_versions(node)
    assert free_half(node) == 0
    assert seen(view, data.files) == {"right": COUNT, "wrong": 0, "error": 0}


@pytest.mark.fault("A2")
@pytest.mark.parametrize("how", ["reader", "mapping", "child"])
def test_a_pack_is_taken_from_only_when_nobody_has_it_open(tmp_path: Path, how: str) -> None:
    cache = cache_at(tmp_path)
    directory, path = cache.dirs[0], packcache.pack_path(cache.dirs[0], PACK)
    write(cache, PACK, list(range(40)))
    before = path.read_bytes()
    if how == "child":
        code = "import sys; file = open(sys.argv[1], 'rb'); print(flush=True); sys.stdin.read()"
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None and child.stdout.readline()

        def close() -> None:
            child.communicate()
    else:
        fd = os.open(path, os.O_RDONLY)
        mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        if how == "mapping":
            os.close(fd)
            close = mapped.close
        else:
            mapped.close()

            def close() -> None:
                os.close(fd)

    for keep in (keys([3]), haves.NOTHING):
        done = packcache.release(directory, PACK, keep)
        assert done == packcache.Released(held=(40 - len(keep)) * 4096)
    assert path.read_bytes() == before and len(packcache.load_have(cache, PACK, SIZE)) == 40
    close()
    assert packcache.release(directory, PACK, keys([3])) == packcache.Released(freed=39 * 4096)


@pytest.mark.fault("A2")
def test_a_reader_that_comes_while_bytes_are_taken_waits_and_is_killed_by_nothing(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    write(cache, PACK, [1])
    path = packcache.pack_path(cache.dirs[0], PACK)
    with lifetimes.exclusive(path) as fd:
        assert fd is not None
        reader = subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE)
        wait_until(lambda: _waits_in_open(reader.pid), "the reader's open")
        with lifetimes.exclusive(path) as second:
            assert second is None
    assert len(reader.communicate()[0]) == SIZE
    with pytest.raises(FileNotFoundError), lifetimes.exclusive(tmp_path / "none"):
        pass


def _waits_in_open(pid: int) -> bool:
    return "break_lease" in Path(f"/proc/{pid}/wchan").read_text()


@pytest.mark.fault("A2")
def test_what_was_reserved_goes_back_under_a_reader_and_nothing_else(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    directory, path = cache.dirs[0], packcache.pack_path(cache.dirs[0], PACK)
    write(cache, PACK, [0, 1])
    fd = packcache.open_pack(directory, PACK, SIZE)
    os.pwrite(fd, b"x" * 4096, 9 * 4096)  # fetched and not marked: someone may have seen it
    assert packcache.allocate(fd, 20 * 4096, 40 * 4096)
    os.close(fd)
    epoch = packcache.epoch(directory, PACK)
    with path.open("rb") as file:
        before = file.read(20 * 4096)
        assert packcache.drop_unfilled(directory, PACK) == 20 * 4096
        file.seek(0)
        assert file.read(20 * 4096) == before
        assert packcache.epoch(directory, PACK) > epoch  # who writes there just now cannot mark
    assert packcache.drop_unfilled(directory, PACK) == 4096


@pytest.mark.fault("A2")
def test_a_file_of_another_size_is_replaced_and_never_made_longer_under_its_readers(
    make: Callable[..., Node], data: Dataset, tmp_path: Path
) -> None:
    node = make()
    assert warm(node, data) == "resident"
    view = mount(node, data)
    path, offset = member(node, data, sorted(data.files)[COUNT // 2])
    directory = node.cache.dirs[0]
    with held_elsewhere(view, tmp_path / "container") as container:
        os.truncate(path, offset)  # by someone else
        broken = container.seen(data.files)
        assert broken["error"] and not broken["wrong"] + broken["zeros"]
        size = next(p.size for p in _want(node, data).packs if p.id == path.stem)
        os.close(packcache.open_pack(directory, path.stem, size))
        assert path.stat().st_size == size
        assert container.seen(data.files) == broken  # an error stays an error
        assert lifetimes.retired_bytes(directory.path) > 0
        assert lifetimes.sweep_retired(directory.path) == 0
        mounts.umount(node, str(view))
    wait_until(lambda: upkeep.look_at_disks(node) or not _retired(directory.path), "the sweep")


def _want(node: Node, data: Dataset) -> wants.Want:
    want = wants.load_want(node.config.views, data.version)
    assert want is not None
    return want


def _retired(folder: Path) -> list[Path]:
    return list((folder / lifetimes.RETIRED).glob("*"))


@pytest.mark.fault("A5")
def test_packs_read_on_demand_are_closed_after_each_request_and_can_be_taken(
    make: Callable[..., Node], data: Dataset
) -> None:
    node = make()
    view = mount(node, data)
    assert seen(view, data.files)["right"] == COUNT
    paths = [packcache.pack_path(node.cache.dirs[0], pack) for pack in data.packs]
    wait_until(lambda: not any(map(lifetimes.is_read, paths)), "marks, after which packs are closed")
    assert sum(letgo.trim(node, pack, lambda _: haves.NOTHING, "room") for pack in data.packs) > 0
    assert packcache.used(node.cache.dirs[0]) < data.bytes / 10
    assert seen(view, data.files)["right"] == COUNT
