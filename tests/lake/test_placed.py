"""An import packs and sends only what is new: what the version before has lies where it lies."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest

from lake import imports, publish, stores, versions
from lake.packs import pack_key

KB = 1000


@pytest.fixture(autouse=True)
def no_home(monkeypatch, tmp_path):
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path / "no-home"))


@pytest.fixture
def sent(monkeypatch):
    """Sizes of the packs that are put."""
    sizes = []
    real = stores.put_file

    def put_file(store, key, path):
        if key.startswith("packs/"):
            sizes.append(path.stat().st_size)
        real(store, key, path)

    monkeypatch.setattr(stores, "put_file", put_file)
    return sizes


def a_folder(tmp_path, count=40, size=100 * KB):
    folder = tmp_path / "f"
    for number in range(count):
        path = folder / f"d{number % 4}" / f"{number:04d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return folder


def publish_it(store, folder, tmp_path):
    return publish.publish_folder(store, "f", folder, tmp_path / "s", {})


def contents(store, version):
    rows = pa.concat_tables(versions.rows(store, version)).to_pylist()
    return {
        row["path"]: stores.get_range(store, pack_key(row["pack"]), row["offset"], row["size"])
        for row in rows
    }


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.fault("C13")
def test_one_more_byte_in_a_folder_sends_one_small_pack(make_folder_store, tmp_path, monkeypatch, sent):
    monkeypatch.setattr(imports, "PACK_TARGET", 1000 * KB)
    store, folder = make_folder_store(), a_folder(tmp_path)
    publish_it(store, folder, tmp_path)
    assert len(sent) > 3
    sent.clear()
    (folder / "d1" / "one").write_bytes(b"1")
    made = publish_it(store, folder, tmp_path)
    assert len(sent) == 1 and sent[0] < 50 * KB
    assert contents(store, made.version) == files_of(folder)
    assert versions.verify(store, made.version, tmp_path).problems == ()
    # the version is the one that a publish from nothing gives
    assert publish_it(make_folder_store("other"), folder, tmp_path).version == made.version
    sent.clear()
    # what changed, also to the same size, is sent; what went is not
    (folder / "d2" / "0002.bin").write_bytes(os.urandom(100 * KB))
    (folder / "d0" / "0000.bin").unlink()
    made = publish_it(store, folder, tmp_path)
    assert len(sent) == 1 and 100 * KB < sent[0] < 150 * KB
    assert contents(store, made.version) == files_of(folder)
    sent.clear()
    assert publish_it(store, folder, tmp_path).version == made.version and sent == []


@pytest.mark.fault("C13")
def test_objects_with_new_etags_and_old_bytes_and_large_files_are_not_sent_again(
    make_folder_store, tmp_path, monkeypatch, sent
):
    monkeypatch.setattr(imports, "LARGE", 50 * KB)
    store, source = make_folder_store(), make_folder_store("source")
    for number in range(10):
        stores.put(source, f"in/{number}", bytes([number]) * (60 if number % 2 else 20) * KB)

    def import_it():
        return publish.publish_objects(store, "f", source, "in", tmp_path / "s", {})

    import_it()
    sent.clear()
    for number in range(10):
        stores.put(source, f"in/{number}", bytes([number]) * (60 if number % 2 else 20) * KB)
    stores.put(source, "in/new", b"1")
    made = import_it()
    assert len(sent) == 1 and sent[0] < 30 * KB
    assert contents(store, made.version)["5"] == b"\5" * 60 * KB


@pytest.mark.fault("C13")
def test_a_pack_that_is_gone_or_short_is_made_again(make_folder_store, tmp_path, sent):
    store, folder = make_folder_store(), a_folder(tmp_path, 4)
    first = publish_it(store, folder, tmp_path)
    pack = pack_key(versions.read_available(store, first.version).packs[0].id)
    for wrong in (None, b"short"):
        stores.delete(store, pack) if wrong is None else stores.put(store, pack, wrong)
        (folder / "more").write_bytes(wrong or b"1")
        made = publish_it(store, folder, tmp_path)
        assert contents(store, made.version) == files_of(folder)


@pytest.mark.fault("C13")
def test_columns_of_items_stay_with_their_files(make_folder_store, tmp_path):
    """Kept and packed rows come in the order of paths, so that further columns fit."""
    store, folder = make_folder_store(), a_folder(tmp_path, 12, 10 * KB)
    publish_it(store, folder, tmp_path)
    for number in range(5):
        (folder / f"d{number}").mkdir(exist_ok=True)
        (folder / f"d{number}" / "0000-new").write_bytes(b"%d" % number)
    items = imports.folder_items(folder)
    items = items.append_column("name", items["path"])
    made = publish.publish_items(store, "f", items, imports.no_store, tmp_path / "s", {})
    table = pa.concat_tables(versions.rows(store, made.version))
    assert table["name"].to_pylist() == table["path"].to_pylist() == sorted(files_of(folder))
    assert contents(store, made.version) == files_of(folder)
