"""Faults of a node's own disks, on real mounts: what a reader sees, and that the node mends it by itself."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cacheengine import metrics, segments
from cacheengine import wanted as wants
from cacheengine.agent import mounts, room, scrub
from cacheengine.agent.__main__ import lock_cache
from cacheengine.agent.ages import Ages
from cacheengine.agent.residency import check
from cacheengine.agent.state import Node
from cacheengine.errors import Busy
from cacheengine.node import CacheDirConfig
from cacheengine.packs import disks, lifetimes, packcache
from cacheengine.packs import have as haves
from cacheengine.packs.disks import Disk, failed, worked
from lake.config import StoreConfig
from lake.stores import open_store
from tests.cacheengine.faulty import (
    again,
    causes,
    end,
    flip,
    make_node,
    member,
    mount,
    probes,
    seen,
    warm,
)
from tests.cacheengine.nodes import Dataset, make_files, object_path, publish
from tests.conftest import wait_until

ONE = "720p/CAM_1/000004.jpg"
COUNT = 40
RIGHT = {"right": COUNT, "wrong": 0, "error": 0}


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreConfig:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    return StoreConfig(name="lake", idc="a", url=f"file://{tmp_path / 'lake'}")


@pytest.fixture
def data(lake: StoreConfig, tmp_path: Path) -> Dataset:
    return publish(open_store(lake), tmp_path, make_files(COUNT, 1000, 60_000), pack_bytes=512 << 10)


@pytest.fixture
def make(lake: StoreConfig, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make_it(**changes: object) -> Node:
        made.append(make_node(tmp_path, lake, **changes))  # type: ignore[arg-type]
        return made[-1]

    yield make_it
    for node in made:
        end(node)


def scrub_all(node: Node) -> int:
    return sum(
        scrub.scrub_pack(node, d, pack) for d in node.cache.dirs for pack in packcache.packs_on_disk(d)
    )


def test_flipped_bits_under_a_view_are_found_and_mended(make: Callable[..., Node], data: Dataset) -> None:
    node = make()
    assert warm(node, data) == "resident"
    view = mount(node, data)
    assert seen(view, data.files) == RIGHT
    flip(*member(node, data, ONE))
    assert seen(view, data.files) == RIGHT | {
        "right": COUNT - 1,
        "wrong": 1,
    }  # nobody hashes what the kernel reads
    before = metrics.total(metrics.scrubbed_bad)
    assert scrub_all(node) == 1
    assert metrics.total(metrics.scrubbed_bad) == before + 1
    mounts.keep_mounted(node)  # the view gets the pack through fetchfs, which fetches and checks
    assert [record.remote for record in node.mounts.values()] != [()]
    assert seen(view, data.files) == RIGHT
    assert again(node) == "resident"
    mounts.keep_mounted(node)
    assert [record.remote for record in node.mounts.values()] == [()]
    assert seen(view, data.files) == RIGHT
    assert scrub_all(node) == 0


def test_flipped_bits_before_a_warm_is_done(make: Callable[..., Node], data: Dataset) -> None:
    node = make()
    view = mount(node, data)
    assert (view / ONE).read_bytes() == data.files[ONE]  # fetchfs makes it resident
    file, offset = member(node, data, ONE)
    wait_until(lambda: offset in haves.load(file.with_suffix(".have")).offset, "its mark")
    flip(file, offset)
    assert warm(node, data) == "resident"
    mounts.keep_mounted(node)
    assert scrub_all(node) == 1
    assert again(node) == "resident"
    mounts.keep_mounted(node)
    assert [record.remote for record in node.mounts.values()] == [()]
    assert seen(view, data.files) == RIGHT
    assert scrub_all(node) == 0


def test_flipped_bits_in_the_store_are_never_warm_and_an_error_to_a_reader(
    make: Callable[..., Node], data: Dataset, lake: StoreConfig
) -> None:
    node = make()
    path = object_path(open_store(lake), data.packs[0])
    whole = path.read_bytes()
    at = next(p for p, content in data.files.items() if content[:64] in whole)
    path.chmod(0o644)
    flip(path, whole.index(data.files[at][:64]) + 9)
    assert warm(node, data) == "failed"
    assert at in causes(node) and "content id" in causes(node)
    view = mount(node, data)
    assert seen(view, data.files) == {"right": COUNT - 1, "wrong": 0, "error": 1}
    path.write_bytes(whole)
    assert seen(view, data.files) == RIGHT


def test_a_truncated_pack_under_a_view(make: Callable[..., Node], data: Dataset) -> None:
    node = make()
    assert warm(node, data) == "resident"
    view = mount(node, data)
    file, offset = member(node, data, ONE)
    os.truncate(file, offset + 100)
    # until the next look the kernel finds the file's end: an error, no wrong bytes
    between = seen(view, data.files)
    assert between["wrong"] == 0 and between["error"] > 0
    mounts.keep_mounted(node)
    assert seen(view, data.files) == RIGHT
    assert again(node) == "resident"
    mounts.keep_mounted(node)
    assert [record.remote for record in node.mounts.values()] == [()]
    assert seen(view, data.files) == RIGHT


def test_a_deleted_pack_under_a_view_is_read_on_and_comes_back(
    make: Callable[..., Node], data: Dataset
) -> None:
    node = make()
    assert warm(node, data) == "resident"
    view = mount(node, data)
    file, _ = member(node, data, ONE)
    file.unlink()
    assert seen(view, data.files) == RIGHT  # the kernel holds the file
    mounts.keep_mounted(node)
    assert seen(view, data.files) == RIGHT
    assert again(node) == "resident" and file.exists()
    mounts.keep_mounted(node)
    assert seen(view, data.files) == RIGHT
    assert [record.remote for record in node.mounts.values()] == [()]


def test_a_record_that_is_torn_or_lies(make: Callable[..., Node], data: Dataset) -> None:
    node = make()
    assert warm(node, data) == "resident"
    directory = node.cache.dirs[0]
    torn = packcache.have_path(directory, data.packs[0])
    torn.write_bytes(torn.read_bytes()[:-5])
    # one that lies: whole and well-formed, of members whose bytes are not there
    pack = data.packs[1]
    file = packcache.pack_path(directory, pack)
    fd = os.open(file, os.O_RDWR)
    known = haves.load(packcache.have_path(directory, pack))
    lifetimes.punch(fd, 0, file.stat().st_size)
    os.close(fd)
    for key in list(node.desired):
        check(node, key)
    assert [status.state for status in node.statuses.values()] == [
        "waiting"
    ]  # the torn one speaks of nothing
    assert again(node) == "resident"
    view = mount(node, data)
    assert scrub_all(node) == len(known)  # the lie is found by hashing alone
    mounts.keep_mounted(node)
    assert seen(view, data.files) == RIGHT
    assert again(node) == "resident"


def two_dirs(tmp_path: Path) -> list[CacheDirConfig]:
    return [
        CacheDirConfig(path=tmp_path / "fast", medium="nvme", quota=1 << 30),
        CacheDirConfig(path=tmp_path / "slow", medium="hdd", quota=1 << 30),
    ]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own for the fast directory."""
    folder = tmp_path / "fast"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=2000", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_becomes_read_only(
    small: Path, make: Callable[..., Node], data: Dataset, tmp_path: Path
) -> None:
    node = make(dirs=two_dirs(tmp_path))
    assert warm(node, data) == "resident"
    fast, slow = node.cache.dirs
    assert len(packcache.packs_on_disk(fast)) == len(data.packs)
    view = mount(node, data)
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    assert seen(view, data.files) == RIGHT
    probes(node)
    assert [packcache.report(d).state for d in node.cache.dirs] == ["down", "normal"]
    assert any("fast" in part for part in node.last_errors)
    assert again(node) == "resident"  # its packs are made again elsewhere
    assert len(packcache.packs_on_disk(slow)) == len(data.packs)
    assert seen(view, data.files) == RIGHT
    mounts.umount(node, str(view))
    view = mount(node, data)
    assert seen(view, data.files) == RIGHT
    assert all(path.is_relative_to(slow.path) for path in node.files_seen[str(view)])
    subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
    probes(node)
    assert [packcache.report(d).state for d in node.cache.dirs] == ["normal", "normal"]
    assert not any("fast" in part for part in node.last_errors)
    mounts.umount(node, str(view))
    assert scrub_all(node) == 0 and warm(node, data) == "resident"


def test_the_only_disk_is_read_only(
    small: Path, make: Callable[..., Node], data: Dataset, lake: StoreConfig
) -> None:
    node = make(dirs=[CacheDirConfig(path=small, quota=1 << 30)])
    assert warm(node, data) == "resident"
    view = mount(node, data)
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    probes(node)
    assert seen(view, data.files) == RIGHT
    other = publish(open_store(lake), small.parent, make_files(5, 1000, 9000, 7), "other")
    assert warm(node, other) == "failed"
    assert "no cache directory can be written" in causes(node) and "Read-only file system" in causes(node)
    assert seen(view, data.files) == RIGHT
    subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)


@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_a_full_disk_is_one_clear_error_and_hurts_no_reader(
    small: Path, make: Callable[..., Node], data: Dataset, lake: StoreConfig, what: str
) -> None:
    node = make(dirs=[CacheDirConfig(path=small, quota=1 << 30)])
    assert warm(node, data) == "resident"
    view = mount(node, data)
    if what == "bytes":
        free = os.statvfs(small)
        (small / "someone-elses").write_bytes(bytes(free.f_bavail * free.f_frsize - (1 << 20)))
    else:
        for number in range(1200):
            (small / f"n{number}").touch()
    other = publish(open_store(lake), small.parent, make_files(100, 9000, 60_000, 7), "other")
    held = packcache.used(node.cache.dirs[0])
    assert warm(node, other) == "failed"
    assert "bytes, 0 are available" in causes(node) and "larger quota" in causes(node)
    assert packcache.used(node.cache.dirs[0]) == held
    assert seen(view, data.files) == RIGHT
    probes(node)
    assert packcache.report(node.cache.dirs[0]).state == "normal"  # a full disk is no broken one


def test_a_view_with_open_files_is_not_unmounted_before_they_are_closed(
    make: Callable[..., Node], data: Dataset
) -> None:
    node = make()
    assert warm(node, data) == "resident"
    view = mount(node, data)
    with (view / ONE).open("rb") as file:
        with pytest.raises(Busy, match="files in it are open"):
            mounts.umount(node, str(view))
        assert file.read() == data.files[ONE]
        assert seen(view, data.files) == RIGHT
    mounts.umount(node, str(view))
    assert not view.exists()


def test_two_agents_on_one_cache_directory(make: Callable[..., Node], tmp_path: Path) -> None:
    one, two = make(), make(state_dir=tmp_path / "other-state")
    held = lock_cache(one.config)
    with pytest.raises(Busy, match="another agent runs on it"):
        lock_cache(two.config)
    for lock in held:
        os.close(lock)
    for lock in lock_cache(two.config):
        os.close(lock)


def test_states_of_a_disk() -> None:
    disk = Disk()
    for at in (0.0, 1.0):
        disk = failed(disk, at, "EIO")
        assert disk.state == "normal"
    assert failed(disk, 100.0, "EIO").state == "normal"  # errors far apart are no trouble
    disk = failed(disk, 2.0, "EIO")
    assert disk.state == "unstable"
    assert failed(failed(disk, 3.0, "x"), 3.0, "x").state == "unstable"  # probes decide what comes after
    down = disk
    for _ in range(disks.DOWN_AFTER):
        down = failed(down, 4.0, "EIO", is_probe=True)
    assert down.state == "down"
    for _ in range(disks.NORMAL_AFTER - 1):
        disk, down = worked(disk), worked(down)
        assert (disk.state, down.state) == ("unstable", "down")
    assert (worked(disk), worked(down)) == (Disk(), Disk())
    assert failed(Disk(), 0.0, "gone", is_gone=True).state == "unstable"


def test_bytes_beyond_what_is_desired_go_when_they_are_old(make: Callable[..., Node], data: Dataset) -> None:
    node = make(ttl_s=50.0)
    assert warm(node, data) == "resident"
    room.drop_old(node)
    assert len(packcache.packs_on_disk(node.cache.dirs[0])) == len(data.packs)
    node.desired.clear()
    assert room.drop_old(node) == 0  # too young
    old = time.time() - 100
    for path in node.cache.dirs[0].path.rglob("*.have"):
        os.utime(path, (old, old))
    assert room.drop_old(node) == 0  # it saw them change just now: whatever the clock on the wall says
    node.ages = Ages()  # an agent that starts has nothing but that clock
    assert room.drop_old(node) > 0
    assert packcache.packs_on_disk(node.cache.dirs[0]) == {}


def test_a_round_of_scrubbing_goes_on_where_it_was_and_ends(make: Callable[..., Node], data: Dataset) -> None:
    node = make(scrub_every_s=30.0)
    assert warm(node, data) == "resident" and len(data.packs) >= 2
    flip(*member(node, data, ONE))
    assert scrub.scrub_some(node, most=0)
    assert scrub.scrub_some(node)
    assert not scrub.scrub_some(node)  # none is due
    assert [status.state for status in node.statuses.values()] == ["waiting"]
    assert again(node) == "resident"


def test_rows_are_sorted_in_buckets_as_they_are_in_one(
    lake: StoreConfig, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(lake)
    one = wants.save_want(store, tmp_path / "one", data.version)
    monkeypatch.setattr(segments, "BUCKET_ROWS", 5)
    many = wants.save_want(store, tmp_path / "many", data.version)
    assert one.packs == many.packs and wants.read_index(many.index) == many
    first_rows, second_rows = (pa.concat_tables(wants.read_rows(want.index)) for want in (one, many))
    assert first_rows.equals(second_rows)
    for place, (first, second) in enumerate(zip(wants.read_packs(one), wants.read_packs(many), strict=True)):
        assert np.array_equal(first.offset, second.offset) and np.array_equal(
            first.content_id, second.content_id
        )
        rows = first.offset >= 0
        assert wants.paths_at(one, place, rows) == wants.paths_at(many, place, rows)
    assert [path for path in (tmp_path / "many").rglob(".*")] == []
