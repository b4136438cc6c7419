"""The pack cache: quotas hold, room is taken before the first byte, and what is kept keeps its bytes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cacheengine.errors import Busy, NoSpace
from cacheengine.node import CacheDirConfig
from cacheengine.packs import have, packcache, reserving
from cacheengine.packs.eviction import Holding, Key, Step, order
from cacheengine.packs.have import Have
from cacheengine.packs.packcache import Cache, open_cache
from cacheengine.packs.reserving import Need
from tests.cacheengine.nodes import cache_at

PACK = "ab" + "0" * 62
OTHER = "cd" + "1" * 62
SIZE = 64 * 4096
MIB = 1 << 20


def need(pack: str = PACK, members: int = 4, size: int = SIZE) -> Need:
    offset = np.arange(members, dtype=np.int64) * 8192
    return Need(pack, size, offset, np.full(members, 5000, np.int64))


def no(short: int) -> bool:
    return False


def write(cache: Cache, pack: str, members: list[int]) -> None:
    """Members as block numbers: one block each, filled with their number, marked."""
    directory = cache.dirs[0]
    fd = packcache.open_pack(directory, pack, SIZE)
    try:
        for member in members:
            os.pwrite(fd, bytes([member]) * 4096, member * 4096)
        packcache.mark(directory, pack, SIZE, fd, keys(members, packcache.epoch(directory, pack)))
    finally:
        os.close(fd)


def keys(members: list[int], epoch: int = 0) -> Have:
    return have.make([m * 4096 for m in members], [4096] * len(members), members, epoch)


def test_reserving_takes_the_space_at_once(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    placed = reserving.reserve(cache, [need()], "x", no, str)
    path = packcache.pack_path(placed[PACK], PACK)
    assert path.stat().st_size == SIZE
    assert path.stat().st_blocks * 512 == reserving.blocks_of(need()) == 4 * 8192
    assert len(packcache.load_have(cache, PACK, SIZE)) == 0
    # what was not filled goes back, and what was marked stays
    write(cache, PACK, [0])
    assert packcache.drop_unfilled(placed[PACK], PACK) == 7 * 4096
    assert packcache.load_have(cache, PACK, SIZE).offset.tolist() == [0]
    assert packcache.drop_unfilled(placed[PACK], PACK) == 0


def test_what_does_not_fit_says_what_is_needed_what_there_is_and_what_helps(tmp_path: Path) -> None:
    cache = cache_at(tmp_path, MIB)
    big = need(members=32, size=512 * MIB)
    many = [Need(f"{place:064x}", big.size, big.offset, big.length) for place in range(10)]
    with pytest.raises(NoSpace) as raised:
        reserving.reserve(cache, many, "warm frames@v1", no, lambda: "free old@v1")
    text = str(raised.value)
    assert "warm frames@v1" in text and str(10 * 32 * 8192) in text and "free old@v1" in text
    assert str(packcache.room(cache.dirs[0])) in text and str(tmp_path) in text
    assert packcache.packs_on_disk(cache.dirs[0]) == {}


def test_room_is_asked_for_and_then_it_fits(tmp_path: Path) -> None:
    cache = cache_at(tmp_path, 2 * SIZE)
    write(cache, OTHER, list(range(64)))
    asked: list[int] = []

    def make_room(short: int) -> bool:
        asked.append(short)
        return packcache.keep_only(cache.dirs[0], OTHER, have.NOTHING) > 0

    reserving.reserve(cache, [need(members=32)], "x", make_room, str)
    assert len(asked) == 1 and asked[0] >= 32 * 8192
    assert packcache.used(cache.dirs[0]) <= 2 * SIZE


def test_reservations_of_other_processes_count(tmp_path: Path) -> None:
    cache, other = cache_at(tmp_path, 3 * MIB), cache_at(tmp_path, 2 * MIB)
    reserving.reserve(cache, [need(members=8)], "ours", no, str)
    ours = packcache.used(cache.dirs[0])
    # `other` stands for another process: its usage is remembered apart
    reserving.reserve(other, [need(OTHER, 128, 4 * MIB)], "theirs", no, str)
    assert ours + MIB <= packcache.used(cache.dirs[0]) <= ours + MIB + 3 * 4096
    with pytest.raises(NoSpace):
        reserving.reserve(cache, [need("ef" + "2" * 62, 256, 4 * MIB)], "ours", no, str)
    # and room that was made meanwhile is seen
    packcache.keep_only(cache.dirs[0], OTHER, have.NOTHING)
    reserving.reserve(cache, [need("ef" + "2" * 62, 256, 4 * MIB)], "ours", no, str)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_behind(small_disk: Path) -> None:
    cache = cache_at(small_disk, 1 << 40)
    big = [need(f"{place:064x}", members=1000, size=16 * MIB) for place in range(8)]
    with pytest.raises(NoSpace):
        reserving.reserve(cache, big, "x", no, str)
    assert packcache.packs_on_disk(cache.dirs[0]) == {}
    reserving.reserve(cache, big[:1], "x", no, str)


@pytest.fixture
def small_disk(tmp_path: Path) -> object:
    folder = tmp_path / "disk"
    folder.mkdir()
    assert os.system(f"mount -t tmpfs -o size=32m none {folder}") == 0
    yield folder
    assert os.system(f"umount {folder}") == 0


def test_packs_go_to_the_fastest_directory_with_room(tmp_path: Path) -> None:
    slow = CacheDirConfig(path=tmp_path / "hdd", medium="hdd", quota=100 * MIB)
    fast = CacheDirConfig(path=tmp_path / "mem", medium="mem", quota=SIZE)
    cache = open_cache([slow, fast])
    placed = reserving.reserve(cache, [need(PACK, 20), need(OTHER, 20)], "x", no, str)
    assert [placed[PACK].medium, placed[OTHER].medium] == ["mem", "hdd"]
    # and stay where they are
    again = reserving.reserve(cache, [need(PACK, 5), need(OTHER, 5)], "x", no, str)
    assert again == placed


def test_keeping_some_members_frees_the_others_and_keeps_their_bytes(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    directory, path = cache.dirs[0], packcache.pack_path(cache.dirs[0], PACK)
    write(cache, PACK, list(range(40)))
    before = path.stat().st_blocks
    freed = packcache.keep_only(directory, PACK, keys([3, 4, 20, 63]))
    assert freed == 37 * 4096 == (before - path.stat().st_blocks) * 512
    assert packcache.load_have(cache, PACK, SIZE).offset.tolist() == [3 * 4096, 4 * 4096, 20 * 4096]
    raw = path.read_bytes()
    assert len(raw) == SIZE
    assert [raw[m * 4096] for m in (2, 3, 4, 5, 20, 21)] == [0, 3, 4, 0, 20, 0]
    assert packcache.keep_only(directory, PACK, keys([5])) > 0
    assert not path.exists() and not packcache.have_path(directory, PACK).exists()


def test_marks_of_a_writer_that_lost_its_bytes_are_refused(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    directory = cache.dirs[0]
    write(cache, PACK, [1, 2])
    fd = packcache.open_pack(directory, PACK, SIZE)
    epoch = packcache.epoch(directory, PACK)
    os.pwrite(fd, b"x" * 4096, 9 * 4096)
    assert packcache.keep_only(directory, PACK, keys([1])) == 0  # not while it has the pack open
    os.close(fd)
    packcache.keep_only(directory, PACK, keys([1]))
    fd = packcache.open_pack(directory, PACK, SIZE)
    with pytest.raises(Busy):
        packcache.mark(directory, PACK, SIZE, fd, keys([9], epoch))
    assert packcache.load_have(cache, PACK, SIZE).offset.tolist() == [4096]
    packcache.pack_path(directory, PACK).unlink()  # and a file that was replaced
    write(cache, PACK, [5])
    with pytest.raises(Busy):
        packcache.mark(directory, PACK, SIZE, fd, keys([9], packcache.epoch(directory, PACK)))
    os.close(fd)
    assert packcache.load_have(cache, PACK, SIZE).offset.tolist() == [5 * 4096]


def test_a_damaged_record_or_a_short_file_means_that_nothing_is_resident(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    write(cache, PACK, [1, 2])
    record = packcache.have_path(cache.dirs[0], PACK)
    good = record.read_bytes()
    record.write_bytes(good[:-1] + b"!")
    assert len(packcache.load_have(cache, PACK, SIZE)) == 0
    record.write_bytes(good)
    assert len(packcache.load_have(cache, PACK, SIZE)) == 2
    os.truncate(packcache.pack_path(cache.dirs[0], PACK), 4096)
    assert len(packcache.load_have(cache, PACK, SIZE)) == 0


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "AB" + "0" * 62, "0" * 63])
def test_what_is_no_pack_id_becomes_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(packcache.Refused):
        packcache.pack_path(cache_at(tmp_path).dirs[0], name)


def test_order_of_eviction() -> None:
    whole, old, pinned, mounted = (Key("d", letter * 64, None) for letter in "abcd")
    holdings = [
        Holding(whole, frozenset({"p1", "p2"}), False, 50),
        Holding(old, frozenset({"p2", "p3"}), False, 10),
        Holding(pinned, frozenset({"p4"}), True, 0),
        Holding(mounted, frozenset({"p5"}), False, 0),
    ]
    packs = {"p1": 9, "p2": 3, "p3": 5, "p4": 1, "p5": 0, "x2": 2, "x1": 1}
    assert order(packs, holdings, {"p5"}) == [
        Step("trim", "p4"),
        Step("trim", "p2"),
        Step("trim", "p3"),
        Step("trim", "p1"),
        Step("trim", "x1"),
        Step("trim", "x2"),
        Step("version", key=old),
        Step("version", key=whole),
    ]
    assert Step("version", key=old) not in order(packs, holdings, {"p5"}, asking=old)
