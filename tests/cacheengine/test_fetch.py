"""Fetch: few requests, and nothing is marked that was not checked."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine import metrics, wanted
from cacheengine.errors import Busy, FetchFailed
from cacheengine.fetching import fetch, giveway
from cacheengine.fetching.fetch import GAP, REQUEST, PackJob, plan
from cacheengine.ondemand import readahead
from cacheengine.ondemand.readthrough import ReadThrough
from cacheengine.packs import have, packcache, reserving
from cacheengine.packs.memberwrites import PackFile
from cacheengine.packs.packcache import Cache
from cacheengine.packs.reserving import Need
from cacheengine.wanted import Want
from lake import stores
from lake.errors import Explained, NotFound
from lake.stores import Store
from tests.cacheengine.nodes import Dataset, cache_at, damage, make_files, object_path, publish
from tests.conftest import wait_until

EMPTY = 1  # the empty file of the dataset has no bytes to miss


@given(st.lists(st.tuples(st.integers(0, 4 << 20), st.integers(0, 12 << 20)), max_size=30))
def test_requests_cover_every_member_once_and_are_bounded(steps: list[tuple[int, int]]) -> None:
    offset, length, end = [], [], 0
    for gap, size in steps:
        offset.append(end + gap)
        length.append(size)
        end += gap + size
    pieces = plan(np.array(offset, np.int64), np.array(length, np.int64))
    covered = []
    for piece in pieces:
        rows = range(piece.first, piece.last)
        covered += rows
        assert piece.offset == offset[rows[0]]
        assert piece.offset + piece.length == max(offset[r] + length[r] for r in rows)
        assert piece.length <= REQUEST or len(rows) == 1
        for before, after in pairwise(rows):
            assert offset[after] - (offset[before] + length[before]) <= GAP
    assert covered == list(range(len(offset)))


def test_neighbours_come_in_one_request() -> None:
    offset = np.arange(50, dtype=np.int64) * 102_400
    assert len(plan(offset, np.full(50, 100_000))) == 1


def fill(store: Store, cache: Cache, want: Want) -> list[fetch.Bad]:
    jobs = []
    for part in wanted.read_packs(want):
        missing, _ = fetch.unique_members(part.take(~packcache.resident(cache, part)))
        jobs.append(missing)
    needs = [Need(m.pack, m.size, m.offset, m.length) for m in jobs]
    placed = reserving.reserve(cache, needs, "a warm", lambda _: False, lambda: "")
    return fetch.fetch(store, [PackJob(m, placed[m.pack]) for m in jobs], 4)


def resident_files(cache: Cache, want: Want) -> int:
    return sum(int(packcache.resident(cache, part).sum()) for part in wanted.read_packs(want))


def assert_right(cache: Cache, want: Want, data: Dataset) -> None:
    """Every resident file has its bytes on disk."""
    for place, part in enumerate(wanted.read_packs(want)):
        home = packcache.find_pack(cache, part.pack)
        assert home is not None
        raw = packcache.pack_path(home, part.pack).read_bytes()
        mask = packcache.resident(cache, part)
        for row in np.flatnonzero(mask):
            path = wanted.paths_at(want, place, np.array([row]))[0]
            start = int(part.offset[row])
            assert raw[start : start + int(part.length[row])] == data.files[path]


@pytest.fixture
def published(make_folder_store: Callable[..., Store], tmp_path: Path) -> tuple[Store, Dataset, Want]:
    store = make_folder_store()
    files = make_files(60, 1, 90_000)
    files["720p/CAM_0/empty.jpg"] = b""
    files["720p/CAM_0/same.jpg"] = files["720p/CAM_0/000000.jpg"]
    files["video/long.bin"] = os.urandom(REQUEST + 12345)
    data = publish(store, tmp_path, files, pack_bytes=1 << 30)
    return store, data, wanted.save_want(store, tmp_path / "views", data.version)


def test_all_of_a_version(published: tuple[Store, Dataset, Want], tmp_path: Path) -> None:
    store, data, want = published
    cache = cache_at(tmp_path / "cache")
    assert (want.files, want.bytes) == (len(data.files), data.bytes)
    assert resident_files(cache, want) == EMPTY
    assert fill(store, cache, want) == []
    assert resident_files(cache, want) == want.files
    assert_right(cache, want, data)
    again = wanted.load_want(tmp_path / "views", data.version)
    assert again == want


def test_a_list_narrows_it(published: tuple[Store, Dataset, Want], tmp_path: Path) -> None:
    store, data, _ = published
    cache, some = cache_at(tmp_path / "cache"), ["720p/CAM_1/000001.jpg", "720p/CAM_2/000050.jpg"]
    want = wanted.save_want(store, tmp_path / "views", data.version, "list-1", some)
    assert (want.files, want.bytes) == (2, sum(len(data.files[path]) for path in some))
    assert fill(store, cache, want) == []
    assert resident_files(cache, want) == 2
    assert packcache.used(cache.dirs[0]) < data.bytes / 4
    with pytest.raises(NotFound, match="no-such"):
        wanted.save_want(store, tmp_path / "views", data.version, "list-2", ["720p/no-such.jpg"])
    assert wanted.load_want(tmp_path / "views", data.version, "list-2") is None


@pytest.mark.parametrize("path", ["720p/CAM_1/000004.jpg", "video/long.bin"])
def test_a_damaged_member_is_named_and_never_marked(
    published: tuple[Store, Dataset, Want], tmp_path: Path, path: str
) -> None:
    store, data, want = published
    cache = cache_at(tmp_path / "cache")
    damage(store, data.packs[0], data.files[path])
    bad = fill(store, cache, want)
    assert len(bad) == 1 and "content id" in bad[0].cause
    part = wanted.read_pack(want, 0)
    missing = ~packcache.resident(cache, part)
    assert wanted.paths_at(want, 0, missing) == [path]
    assert part.offset[missing].tolist() == [bad[0].offset]
    assert_right(cache, want, data)


def test_a_pack_that_is_gone(published: tuple[Store, Dataset, Want], tmp_path: Path) -> None:
    store, data, want = published
    cache = cache_at(tmp_path / "cache")
    object_path(store, data.packs[0]).unlink()
    bad = fill(store, cache, want)
    assert bad and "no such object" in bad[0].cause
    assert resident_files(cache, want) == EMPTY


def test_a_stopped_fetch_keeps_what_it_marked(published: tuple[Store, Dataset, Want], tmp_path: Path) -> None:
    store, _, want = published
    cache, stop = cache_at(tmp_path / "cache"), threading.Event()
    stop.set()
    part, _ = fetch.unique_members(wanted.read_pack(want, 0))
    directory = cache.dirs[0]
    assert fetch.fetch(store, [PackJob(part, directory)], 2, stop=stop) == []
    assert resident_files(cache, want) == EMPTY
    assert fill(store, cache, want) == []
    assert resident_files(cache, want) == want.files


def test_a_store_that_is_away_ends_the_fetch(
    published: tuple[Store, Dataset, Want], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, want = published
    cache = cache_at(tmp_path / "cache")
    monkeypatch.setattr(fetch, "TRIES", 1)
    monkeypatch.setattr(
        stores, "get_range", lambda *a: (_ for _ in ()).throw(stores.StoreDown("read", "refused"))
    )
    with pytest.raises(FetchFailed, match="refused"):
        fill(store, cache, want)
    assert resident_files(cache, want) == EMPTY


def test_bytes_taken_away_while_they_are_written_are_not_marked(
    published: tuple[Store, Dataset, Want], tmp_path: Path
) -> None:
    store, data, want = published
    cache = cache_at(tmp_path / "cache")
    part, _ = fetch.unique_members(wanted.read_pack(want, 0))
    some = part.take(np.flatnonzero(part.length > 0)[:3])
    assert fetch.fetch(store, [PackJob(some, cache.dirs[0])], 2) == []
    before = resident_files(cache, want)

    def slow(members: wanted.PackWant, rows: np.ndarray) -> None:
        raise AssertionError("nothing of it may be marked")

    # a fetch that began before what was reserved in the pack went back, and ends after
    fd = packcache.open_pack(cache.dirs[0], part.pack, part.size)
    epoch = packcache.epoch(cache.dirs[0], part.pack)
    rest = part.take(np.flatnonzero(part.length > 0)[3:8])
    session = fetch._Session(PackJob(rest, cache.dirs[0]), fd, epoch, 1, slow)
    [piece] = plan(rest.offset, rest.length)
    assert fetch.fetch_piece(store, rest, piece, PackFile(fd, cache.dirs[0])) == []
    assert packcache.keep_only(cache.dirs[0], part.pack, some.keys()) == 0  # not while it is written
    packcache.drop_unfilled(cache.dirs[0], part.pack)
    with pytest.raises(Busy):
        session.ended(np.arange(5), piece.length)
    assert resident_files(cache, want) == before
    assert_right(cache, want, data)


def test_reading_through_gives_right_bytes_with_one_request_for_many_readers(
    published: tuple[Store, Dataset, Want], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, data, want = published
    cache = cache_at(tmp_path / "cache")
    through = ReadThrough(cache, store, tmp_path / "views")
    raw = object_path(store, data.packs[0]).read_bytes()
    asked: list[tuple[int, int]] = []
    real = stores.get_range

    def counted(handle: Store, key: str, offset: int, length: int, *received: Any) -> bytes | memoryview:
        asked.append((offset, length))
        return real(handle, key, offset, length, *received)

    size, path = through.open_pack(data.packs[0])
    assert size == len(raw) and path.exists()
    monkeypatch.setattr(stores, "get_range", counted)
    part = wanted.read_pack(want, 0)
    row = int(np.argmax(part.length == len(data.files["720p/CAM_0/000000.jpg"])))
    start, length = int(part.offset[row]), int(part.length[row])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: through.read(data.packs[0], start + 10, 50), range(32)))
    assert set(found) == {raw[start + 10 : start + 60]}
    assert asked == [(start, length)]
    for row in range(len(part.offset)):
        start, length = int(part.offset[row]), int(part.length[row])
        assert through.read(part.pack, start, length) == raw[start : start + length]
    through.close()
    assert resident_files(cache, want) == want.files
    assert_right(cache, want, data)


def test_what_a_version_names_is_read_without_the_list_of_the_pack(
    published: tuple[Store, Dataset, Want], tmp_path: Path
) -> None:
    store, _, want = published
    part = wanted.read_pack(want, 0)
    rows = np.argsort(part.offset)
    start, last = int(part.offset[rows[0]]), int(part.offset[rows[-1]] + part.length[rows[-1]])
    path = object_path(store, part.pack)
    raw = path.read_bytes()
    path.chmod(0o644)
    os.truncate(path, last)  # the list is behind the last member
    through = ReadThrough(cache_at(tmp_path / "cache"), store, tmp_path / "views")
    expected = bytearray(last)
    for row in rows.tolist():
        at, size = int(part.offset[row]), int(part.length[row])
        expected[at : at + size] = raw[at : at + size]
    assert through.read(part.pack, start, last - start) == expected[start:]
    assert through.read(part.pack, last - 100, 100) == raw[last - 100 : last]
    # what no version speaks of is not taken for nothing
    with pytest.raises(Explained):
        through.read(part.pack, last - 100, 8192)
    path.write_bytes(raw)
    assert through.read(part.pack, last - 100, 100) == raw[last - 100 : last]
    assert len(through.read(part.pack, last - 100, 8192)) == min(8192, len(raw) - last + 100)
    through.close()


def test_a_gap_that_another_version_may_fill_is_read_by_the_list(
    published: tuple[Store, Dataset, Want], tmp_path: Path
) -> None:
    store, data, want = published
    part = wanted.read_pack(want, 0)
    path = sorted(data.files)[5]
    others = [name for name in data.files if name != path]
    views = tmp_path / "others"
    wanted.save_want(store, views, want.version, "list", others)
    through = ReadThrough(cache_at(tmp_path / "cache"), store, views)
    names = wanted.paths_at(want, 0, np.arange(len(part.offset)))
    at = int(part.offset[names.index(path)])
    assert through.read(part.pack, at, len(data.files[path])) == data.files[path]
    through.close()


def test_reading_through_raises_for_a_damaged_member_and_serves_the_others(
    published: tuple[Store, Dataset, Want], tmp_path: Path
) -> None:
    store, data, want = published
    cache, path = cache_at(tmp_path / "cache"), "720p/CAM_1/000004.jpg"
    damage(store, data.packs[0], data.files[path])
    through = ReadThrough(cache, store, tmp_path / "views")
    part = wanted.read_pack(want, 0)
    for row in range(len(part.offset)):
        name = wanted.paths_at(want, 0, np.array([row]))[0]
        start, length = int(part.offset[row]), int(part.length[row])
        if name == path:
            with pytest.raises(FetchFailed, match="content id"):
                through.read(part.pack, start, length)
        else:
            assert through.read(part.pack, start, length) == data.files[name]
    through.close()
    assert resident_files(cache, want) == want.files - 1


def test_what_is_resident_is_read_at_once_and_nothing_else(
    published: tuple[Store, Dataset, Want], tmp_path: Path
) -> None:
    store, _, want = published
    cache = cache_at(tmp_path / "cache")
    through = ReadThrough(cache, store, tmp_path / "views")
    part, _ = fetch.unique_members(wanted.read_pack(want, 0))
    offset, length = int(part.offset[5]), int(part.length[5])
    right = through.read(part.pack, offset, length)
    other = int(part.offset[-1])
    buffer = memoryview(bytearray(length))

    def now(at: int = offset, may_wait: bool = True) -> bool:
        buffer[:] = bytes(length)
        return through.read_now(part.pack, at, buffer, may_wait)

    assert now() and bytes(buffer) == right
    assert now(may_wait=False) and bytes(buffer) == right
    assert not through.read_now(part.pack, other, memoryview(bytearray(int(part.length[-1]))), True)
    assert not through.read_now("0" * 64, 0, buffer, True)
    through.flush()
    home = packcache.find_pack(cache, part.pack)
    assert home is not None
    path = packcache.pack_path(home, part.pack)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert not now(may_wait=False)  # it is on the disk, which has to be waited for
    assert now() and bytes(buffer) == right
    packcache.keep_only(home, part.pack, part.take(np.arange(2)).keys())  # room is made
    assert not now()
    assert through.read(part.pack, offset, length) == right
    assert now() and bytes(buffer) == right
    (tmp_path / "views" / "new").touch()  # a version may have come: what is known of packs is looked at anew
    assert not now()
    assert through.read(part.pack, offset, length) == right
    assert now() and bytes(buffer) == right
    through.close()


def test_reading_through_after_room_was_made_fetches_again(
    published: tuple[Store, Dataset, Want], tmp_path: Path
) -> None:
    store, _, want = published
    cache = cache_at(tmp_path / "cache")
    through = ReadThrough(cache, store, tmp_path / "views")
    part, _ = fetch.unique_members(wanted.read_pack(want, 0))
    start, length = int(part.offset[5]), int(part.length[5])
    first = through.read(part.pack, start, length)
    through.flush()
    packcache.keep_only(cache.dirs[0], part.pack, part.take(np.arange(2)).keys())
    assert through.read(part.pack, start, length) == first
    through.flush()
    path = packcache.pack_path(cache.dirs[0], part.pack)
    with path.open("rb") as file:
        file.seek(start)
        assert file.read(length) == first
    through.close()


@pytest.mark.fault("A2", "A5")
def test_a_pack_that_went_and_came_back_is_another_one_whatever_its_inode_number_says(
    published: tuple[Store, Dataset, Want], tmp_path: Path
) -> None:
    store, _, want = published
    cache = cache_at(tmp_path / "cache")
    through = ReadThrough(cache, store, tmp_path / "views")
    part, _ = fetch.unique_members(wanted.read_pack(want, 0))
    start, length = int(part.offset[5]), int(part.length[5])
    first = through.read(part.pack, start, length)
    for _ in range(20):  # a file system gives an inode number again at once
        through.flush()
        assert packcache.keep_only(cache.dirs[0], part.pack, have.NOTHING) > 0
        os.close(packcache.open_pack(cache.dirs[0], part.pack, part.size))
        assert not through.read_now(part.pack, start, memoryview(bytearray(length)), True)
        assert through.read(part.pack, start, length) == first
    through.close()


def test_a_store_that_never_answers_is_an_error_in_time_and_the_bytes_come_later(
    published: tuple[Store, Dataset, Want], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, data, want = published
    raw, answers = object_path(store, data.packs[0]).read_bytes(), threading.Event()
    through = ReadThrough(cache_at(tmp_path / "cache"), store, tmp_path / "views", wait_s=0.5)
    through.open_pack(data.packs[0])
    real = stores.get_range

    def hangs(handle: Store, key: str, offset: int, length: int, *received: Any) -> bytes | memoryview:
        answers.wait()
        return real(handle, key, offset, length, *received)

    monkeypatch.setattr(stores, "get_range", hangs)
    part = wanted.read_pack(want, 0)
    start, length = int(part.offset[3]), int(part.length[3])
    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(through.read, part.pack, start, length) for _ in range(2)]
        for reader in readers:
            with pytest.raises(FetchFailed, match=r"did not come within 0\.5 s"):
                reader.result()
    answers.set()
    assert through.read(part.pack, start, length) == raw[start : start + length]
    through.close()


def test_a_reader_that_goes_along_a_pack_finds_what_comes_next(
    published: tuple[Store, Dataset, Want], tmp_path: Path
) -> None:
    store, _, want = published
    cache = cache_at(tmp_path / "cache")
    through = ReadThrough(cache, store, tmp_path / "views")
    part, _ = fetch.unique_members(wanted.read_pack(want, 0))
    for row in range(3):
        through.read(part.pack, int(part.offset[row]), int(part.length[row]))
    ahead = part.take(part.offset < part.offset[2] + readahead.AHEAD)

    def fetched() -> bool:
        through.flush()
        return bool(packcache.resident(cache, ahead).all())

    wait_until(fetched, "the members ahead of the reader")
    through.close()


def test_who_reads_here_and_there_is_not_followed() -> None:
    streams = readahead.Streams()
    for place in (0, 400, 100, 300, 200, 500, 50):
        assert readahead.follow(streams, place << 20, 4096, 1 << 30) is None
    found = [readahead.follow(streams, (700 << 20) + 4096 * place, 4096, 1 << 30) for place in range(4)]
    start = (700 << 20) + 3 * 4096
    assert found == [None, None, (start, start + readahead.AHEAD), None]
    assert readahead.follow(streams, (1 << 30) - 4096, 4096, 1 << 30) is None


def test_a_warm_gives_way_to_a_reader(published: tuple[Store, Dataset, Want], tmp_path: Path) -> None:
    mark, stop = tmp_path / "fetchfs.busy", threading.Event()
    give_way = giveway.to_readers(tmp_path, stop)
    give_way()
    before = metrics.total(metrics.gave_way)
    giveway.say(mark)
    assert giveway.waiting(tmp_path)
    give_way()
    assert not giveway.waiting(tmp_path) and metrics.total(metrics.gave_way) == before + 1
    # a clock that jumped: a mark from the future holds nobody up
    os.utime(mark, (2e9, 2e9))
    assert not giveway.waiting(tmp_path)
    store, _, want = published
    through = ReadThrough(cache_at(tmp_path / "c"), store, tmp_path / "views", tmp_path / "r.json")
    part = wanted.read_pack(want, 0)
    through.read(part.pack, int(part.offset[0]), int(part.length[0]))
    assert (tmp_path / "r.busy").exists()
    through.close()
