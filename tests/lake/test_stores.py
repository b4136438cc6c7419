from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lake import stores
from lake.config import SecretRef, StoreConfig
from lake.errors import Conflict, NotFound, ReadOnly, StoreDown
from lake.stores import open_store
from tests.wallclock import wall_clock


@pytest.fixture(params=["seaweed", "folder"])
def store(request, make_folder_store):
    if request.param == "folder":
        return make_folder_store()
    return request.getfixturevalue("make_store")()


def test_bytes_come_back_whole_and_in_ranges(store):
    data = bytes(range(256)) * 100_000
    stores.put(store, "a/b/c", data)
    assert stores.get(store, "a/b/c") == data
    assert stores.get_range(store, "a/b/c", 5, 1000) == data[5:1005]
    assert stores.get_ranges(store, "a/b/c", [0, 100_000], [7, 9]) == [data[:7], data[100_000:100_009]]
    assert b"".join(stores.stream(store, "a/b/c", 1 << 20)) == data
    assert stores.head(store, "a/b/c").size == len(data)


def test_ranges_in_any_order_far_and_near_and_beyond_the_end(store):
    data = bytes(range(251)) * 30_000
    stores.put(store, "it", data)
    offsets, lengths = [5_000_000, 3, 100, 2, 5_000_000], [9, 40, 9, 70, 4]
    found = stores.get_ranges(store, "it", offsets, lengths)
    assert found == [data[at : at + size] for at, size in zip(offsets, lengths, strict=True)]
    assert stores.get_ranges(store, "it", [], []) == []
    # an object that is shorter than its locations say
    for ends_inside in (
        [len(data) - 9, len(data) - 3],
        [0, len(data) + 4096],
        [len(data) - 1, len(data) + 9],
    ):
        with pytest.raises(StoreDown, match="it in store"):
            stores.get_ranges(store, "it", ends_inside, [5, 5])


def test_a_file_larger_than_one_part_arrives(store, tmp_path: Path):
    local = tmp_path / "big"
    local.write_bytes(bytes(range(251)) * 300_000)
    stores.put_file(store, "big", local)
    assert stores.get(store, "big") == local.read_bytes()


def test_absent_objects(store):
    assert stores.head(store, "no") is None
    with pytest.raises(NotFound, match="no such object"):
        stores.get(store, "no")
    stores.delete(store, "no")


def test_one_of_many_writers_wins(store):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: stores.put_if_absent(store, "once", b"%d" % n), range(16)))
    assert sum(won) == 1
    assert stores.get(store, "once") == b"%d" % won.index(True)


def test_compare_and_swap_refuses_what_moved(store):
    stores.compare_and_swap(store, "ref", b"1", None)
    with pytest.raises(Conflict):
        stores.compare_and_swap(store, "ref", b"x", None)
    _, etag = stores.get_tagged(store, "ref")
    stores.compare_and_swap(store, "ref", b"2 longer", etag)
    with pytest.raises(Conflict):
        stores.compare_and_swap(store, "ref", b"3", etag)
    assert stores.get(store, "ref") == b"2 longer"


def test_lists(store):
    for key in ("x/a/1", "x/a/2", "x/b/1", "y"):
        stores.put(store, key, b"-")
    assert sorted(info.key for info in stores.list_objects(store, "x/")) == ["x/a/1", "x/a/2", "x/b/1"]
    assert stores.list_folders(store, "x/") == ["a", "b"]


def test_many_objects_are_all_listed(make_store):
    store = make_store()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: stores.put(store, f"many/{n:04d}", b""), range(1100)))
    assert len(list(stores.list_objects(store, "many/"))) == 1100


def test_read_only_is_not_written(make_folder_store):
    store = make_folder_store(read_only=True)
    for write in (
        lambda: stores.put(store, "k", b""),
        lambda: stores.put_if_absent(store, "k", b""),
        lambda: stores.compare_and_swap(store, "k", b"", None),
        lambda: stores.delete(store, "k"),
    ):
        with pytest.raises(ReadOnly, match="read-only"):
            write()


def test_a_store_that_is_down_is_named(monkeypatch):
    monkeypatch.setenv("K", "never-shown")
    secret = SecretRef(env="K")
    config = StoreConfig(
        name="lake-z",
        idc="idc-z",
        url="s3://b",
        endpoint="http://127.0.0.1:9",
        access_key_id=secret,
        secret_access_key=secret,
    )
    with pytest.raises(StoreDown) as caught:
        stores.get(open_store(config), "key")
    assert "lake-z" in str(caught.value) and "outlap status" in caught.value.fix
    assert "never-shown" not in str(caught.value)


def test_wrong_keys_are_named_and_not_shown(store_config, monkeypatch):
    config = store_config()
    monkeypatch.setenv("TEST_STORE_KEY", "wrong-secret")
    with pytest.raises(StoreDown, match="credentials") as caught:
        stores.put(open_store(config), "key", b"")
    assert "wrong-secret" not in str(caught.value)


def test_a_store_without_keys_opens():
    config = StoreConfig(name="open", idc="idc-a", url="s3://b", endpoint="http://127.0.0.1:9")
    with pytest.raises(StoreDown, match="open"):
        stores.get(open_store(config), "key")


def test_objects_of_any_size_come_only_while_they_are_what_they_were(make_store, monkeypatch):
    monkeypatch.setattr(stores, "STREAM_CHUNK", 1000)
    store = make_store()
    for size in (0, 999, 1000, 1001, 5000):
        stores.put(store, "a", bytes(range(256)) * 20 if size == 5000 else b"x" * size)
        data = stores.get(store, "a")
        etag = stores.head(store, "a").etag
        assert b"".join(stores.stream_matching(store, "a", etag, len(data))) == data
        # what was listed with another size comes whole all the same: whoever asks compares
        assert b"".join(stores.stream_matching(store, "a", etag, 1)) == data
        stores.put(store, "a", b"another")
        with pytest.raises(Conflict):
            list(stores.stream_matching(store, "a", etag, size))


@pytest.mark.parametrize("off_s", [3 * 86_400, -3 * 86_400])
def test_a_clock_that_is_off_is_named_and_not_the_keys(store_config, tmp_path: Path, off_s: int):
    config = store_config()
    stores.put(open_store(config), "k", b"v")
    program = (
        "import sys; from lake import stores; from lake.config import StoreConfig; "
        "stores.get(stores.open_store(StoreConfig.model_validate_json(sys.argv[1])), 'k')"
    )
    command = [sys.executable, "-c", program, config.model_dump_json()]
    faked, _ = wall_clock(tmp_path, off_s)
    ran = subprocess.run(command, env=os.environ | faked, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert "the clock of this machine" in ran.stderr.splitlines()[-1], ran.stderr
