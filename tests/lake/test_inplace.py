"""Import and publish in place: the same version as packed, nothing copied, and a change of an object is never read."""

from __future__ import annotations

import signal
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lake import assemblies, imports, inplace, manifests, publish, reading, refs, stores, sync, versions
from lake.config import StoreConfig
from lake.errors import Corrupt, NotFound, Refused
from lake.imports import Wanted

FILES = {"a": b"", "b/c": b"x" * 5000, "b/ü": b"y", "b!": b"z" * 4096}


def fill(store, files=FILES, prefix="in/"):
    for name, data in files.items():
        stores.put(store, prefix + name, data)


def named(*given):
    known = {store.name: store for store in given}
    return lambda name: known[name]


def in_place_contents(store, version, open_named):
    found = {}
    for table in versions.rows(store, version):
        for row in table.to_pylist():
            member = assemblies.read_assembly(store, row["pack"])
            place = member["offset"].to_pylist().index(row["offset"])
            one = member.slice(place, 1).to_pylist()[0]
            found[row["path"]] = assemblies.read_member(
                open_named(one["store"]), one["key"], one["etag"], one["size"]
            )
    return found


def test_in_place_is_the_version_that_packing_gives_and_copies_nothing(make_store, tmp_path):
    lake, other = make_store(), make_store("other")
    fill(other)
    items, open_named = imports.prefix_items(other, "in"), named(other)
    made = inplace.publish_in_place(lake, "p", items, open_named, {})
    assert in_place_contents(lake, made.version, open_named) == FILES
    assert not list(stores.list_objects(lake, "packs/"))
    available = versions.read_available(lake, made.version)
    assert available.assembled == tuple(use.id for use in available.packs) and available.assembled
    again = inplace.publish_in_place(lake, "p", items, open_named, {})
    assert (again.version, again.tag, again.is_new) == (made.version, "v1", False)
    # packing it later is the same version, from then on in packs
    packed = publish.publish_objects(lake, "p", other, "in/", tmp_path, {})
    assert (packed.version, packed.is_new) == (made.version, False)
    assert versions.read_available(lake, made.version).assembled == ()
    assert versions.verify(lake, made.version, tmp_path).problems == ()
    # and in place does not undo that
    inplace.publish_in_place(lake, "p", items, open_named, {})
    assert versions.read_available(lake, made.version).assembled == ()


def test_an_object_that_was_overwritten_is_an_error_not_other_bytes(make_store):
    lake, other = make_store(), make_store("other")
    fill(other)
    open_named = named(other)
    made = inplace.publish_in_place(lake, "p", imports.prefix_items(other, "in"), open_named, {})
    available = versions.read_available(lake, made.version)
    rows = pa.concat_tables(versions.rows(lake, made.version))

    def problems(version, identity):
        (pack,) = versions.read_available(lake, version).assembled
        rows = pa.concat_tables(versions.rows(lake, version))
        return assemblies.verify_assembly(lake, pack, rows, open_named, identity)

    assert problems(made.version, "content") == []
    by_etag = inplace.publish_in_place(
        lake, "e", imports.prefix_items(other, "in"), open_named, {}, identity="etag"
    )
    assert manifests.read_root(lake, by_etag.version).identity == "etag" and by_etag.version != made.version
    assert problems(by_etag.version, "etag") == []
    stores.put(other, "in/b/c", b"w" * 5000)
    with pytest.raises(Corrupt, match="changed since it was published"):
        in_place_contents(lake, made.version, open_named)
    for version, identity in ((made.version, "content"), (by_etag.version, "etag")):
        (line,) = problems(version, identity)
        assert line.startswith("b/c: ")
    stores.delete(other, "in/b/c")
    assert len(problems(made.version, "content")) == 1
    assert rows.num_rows == available.files == 4


def test_who_reads_packs_only_says_so(make_folder_store, tmp_path):
    lake, other = make_folder_store(), make_folder_store("other")
    fill(other)
    made = inplace.publish_in_place(lake, "p", imports.prefix_items(other, "in"), named(other), {})
    with pytest.raises(Refused, match="published in place"):
        assemblies.refuse_assembled(versions.read_available(lake, made.version), "warm")
    with pytest.raises(Refused, match="published in place"):
        sync.sync(lake, make_folder_store("there"), "p", "latest", tmp_path / "s")
    assert "not read" in versions.verify(lake, made.version, tmp_path).problems[0]
    check = versions.verify(
        lake,
        made.version,
        tmp_path,
        lambda pack, rows: assemblies.verify_assembly(lake, pack, rows, named(other), "content"),
    )
    assert check.problems == ()


def test_one_more_object_changes_one_assembly(make_folder_store, monkeypatch):
    monkeypatch.setattr(assemblies, "CUT_MASK", assemblies.CUT_MASK >> 8)
    lake, other = make_folder_store(), make_folder_store("other")
    fill(other, {f"{n:04d}": b"%d" % n for n in range(200)})
    first = inplace.publish_in_place(lake, "p", imports.prefix_items(other, "in"), named(other), {})
    fill(other, {"0050x": b"new"})
    second = inplace.publish_in_place(lake, "p", imports.prefix_items(other, "in"), named(other), {})
    old, new = (set(versions.read_available(lake, made.version).assembled) for made in (first, second))
    assert len(old) > 5 and len(new - old) <= 2


def test_lists_report_what_is_missing_and_what_stands_twice(make_folder_store, tmp_path):
    lake, other = make_folder_store(), make_folder_store("other")
    fill(other)
    (tmp_path / "local").write_bytes(b"here")
    wanted = [
        Wanted("x/1", "other", "in/a"),
        Wanted("x/1", "other", "in/a"),
        Wanted("x/2", "", str(tmp_path / "local")),
        Wanted("x/3", "other", "in/none"),
        Wanted("x/4", "", str(tmp_path / "none")),
    ]
    found = imports.listed_items(wanted, named(other))
    assert found.items["path"].to_pylist() == ["x/1", "x/2"]
    assert found.missing == ("other:in/none", str(tmp_path / "none")) and found.duplicates == ("x/1",)
    made = publish.publish_items(lake, "l", found.items, named(other), tmp_path / "s", {})
    assert made.files == 2
    with pytest.raises(Refused, match="stands for other:in/a and for other:in/b"):
        imports.listed_items([Wanted("x", "other", "in/a"), Wanted("x", "other", "in/b")], named(other))
    with pytest.raises(Refused, match="plain relative path"):
        imports.listed_items([Wanted("../x", "other", "in/a")], named(other))
    with pytest.raises(NotFound, match="no object below it"):
        imports.prefix_items(other, "nowhere/")
    with pytest.raises(Refused, match="local files"):
        inplace.publish_in_place(lake, "l", found.items, named(other), {})


def test_extra_columns_and_packs_that_stay_when_a_file_is_added(make_folder_store, tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "CUT_FROM", 20_000)
    monkeypatch.setattr(imports, "CUT_MASK", imports.CUT_MASK >> 6)
    lake, other = make_folder_store(), make_folder_store("other")
    fill(other, {f"{n:04d}": b"%d" % n * 500 for n in range(300)})
    items = imports.prefix_items(other, "in")
    items = items.append_column("weather", pa.array(["rain"] * len(items)))
    first = publish.publish_items(lake, "p", items, named(other), tmp_path / "s", {})
    (table,) = versions.rows(lake, first.version)
    assert set(table["weather"].to_pylist()) == {"rain"}
    fill(other, {"0050x": b"new"})
    second = publish.publish_objects(lake, "q", other, "in", tmp_path / "s", {})
    old, new = (
        {use.id for use in versions.read_available(lake, made.version).packs} for made in (first, second)
    )
    assert len(old) > 5 and len(new - old) <= 2
    assert not list((tmp_path / "s").iterdir())


def test_a_failed_read_ends_the_import_and_leaves_nothing_visible(make_folder_store, tmp_path):
    lake, other = make_folder_store(), make_folder_store("other")
    fill(other)
    items = imports.prefix_items(other, "in")
    stores.delete(other, "in/b/c")
    with pytest.raises(NotFound):
        publish.publish_items(lake, "p", items, named(other), tmp_path / "s", {})
    assert refs.list_datasets(lake) == [] and not list((tmp_path / "s").iterdir())


def test_only_objects_that_changed_are_read_again(make_folder_store, monkeypatch):
    lake, other = make_folder_store(), make_folder_store("other")
    fill(other)
    first = inplace.publish_in_place(lake, "p", imports.prefix_items(other, "in"), named(other), {})
    read = []
    real = inplace.hash_object
    monkeypatch.setattr(inplace, "hash_object", lambda *given: read.append(given[1]) or real(*given))
    assert not inplace.publish_in_place(lake, "p", imports.prefix_items(other, "in"), named(other), {}).is_new
    assert read == []
    fill(other, {"b/c": b"w" * 5000, "new": b"1"})
    seen = []
    second = inplace.publish_in_place(
        lake,
        "p",
        imports.prefix_items(other, "in"),
        named(other),
        {},
        progress=lambda done, total: seen.append((done, total)),
    )
    assert sorted(read) == ["in/b/c", "in/new"] and second.version != first.version
    assert in_place_contents(lake, second.version, named(other)) == FILES | {"b/c": b"w" * 5000, "new": b"1"}
    assert seen[-1] == (second.bytes, second.bytes)


def test_large_files_go_in_piece_by_piece_and_a_file_that_grows_is_refused(
    make_folder_store, tmp_path, monkeypatch
):
    lake, other = make_folder_store(), make_folder_store("other")
    fill(other)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "big").write_bytes(b"0123456789" * 1000)
    (tmp_path / "f" / "small").write_bytes(b"1")
    whole = publish.publish_objects(lake, "p", other, "in", tmp_path / "s", {})
    local = publish.publish_folder(lake, "f", tmp_path / "f", tmp_path / "s", {})
    monkeypatch.setattr(imports, "LARGE", 100)
    monkeypatch.setattr(stores, "STREAM_CHUNK", 64)
    assert publish.publish_objects(lake, "q", other, "in", tmp_path / "s", {}).version == whole.version
    assert publish.publish_folder(lake, "g", tmp_path / "f", tmp_path / "s", {}).version == local.version
    items = imports.folder_items(tmp_path / "f")
    (tmp_path / "f" / "big").write_bytes(b"0123456789" * 1001)
    with pytest.raises(Corrupt, match="big"):
        publish.publish_items(lake, "g", items, imports.no_store, tmp_path / "s", {})
    assert not list((tmp_path / "s").iterdir())


def test_an_import_again_reads_only_what_is_new_or_changed(make_folder_store, tmp_path, monkeypatch):
    lake, other, third = make_folder_store(), make_folder_store("other"), make_folder_store("third")
    files = {f"{n:03d}": b"%d" % n * 100 for n in range(50)}
    fill(other, files)
    publish.publish_objects(lake, "p", other, "in", tmp_path / "s", {})
    read = []
    real = stores.get

    def get(store, key):
        if store.name == "other":
            read.append(key)
        return real(store, key)

    monkeypatch.setattr(stores, "get", get)
    before = sorted(info.key for info in stores.list_objects(lake, ""))
    assert not publish.publish_objects(lake, "p", other, "in", tmp_path / "s", {}).is_new
    assert read == [] and sorted(info.key for info in stores.list_objects(lake, "")) == before
    changes = {"007": b"seven", "0070": b"new", "zzz": b"last", "000!": b"early"}
    fill(other, changes)
    stores.delete(other, "in/003")
    files = {name: data for name, data in (files | changes).items() if name != "003"}
    items = imports.prefix_items(other, "in")
    weather = pa.array([f"w{path}" for path in items["path"].to_pylist()])
    made = publish.publish_items(
        lake, "p", items.append_column("weather", weather), named(other), tmp_path / "s", {}
    )
    assert sorted(read) == sorted(f"in/{name}" for name in changes)
    rows = pa.concat_tables(versions.rows(lake, made.version))
    assert rows["weather"].to_pylist() == [f"w{path}" for path in rows["path"].to_pylist()]
    assert dict(reading.read_rows(reading.open_version(lake, made.version), rows)) == files
    plain = publish.publish_objects(lake, "p", other, "in", tmp_path / "s", {})
    assert plain.version == publish.publish_objects(third, "p", other, "in", tmp_path / "t", {}).version
    assert versions.verify(lake, plain.version, tmp_path).problems == ()
    # a memory that lies or is lost costs reading, nothing else
    for data in (b"no Parquet", None):
        key = "imports/p.parquet"
        stores.put(lake, key, data) if data else stores.delete(lake, key)
        read.clear()
        assert publish.publish_objects(lake, "p", other, "in", tmp_path / "s", {}).version == plain.version
        assert len(read) == len(files)


KILLED = """
import os, signal, sys
from pathlib import Path
from lake import imports, inplace, publish, stores
from lake.config import StoreConfig
here, there = (stores.open_store(StoreConfig(name=n, idc="a", url=u)) for n, u in (("lake", sys.argv[1]), ("other", sys.argv[2])))
imports.CUT_FROM, imports.PACK_TARGET = 20_000, 100_000
def progress(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
items = imports.prefix_items(there, "in")
publish.publish_items(here, "p", items, lambda name: there, Path(sys.argv[3]), {}, None, progress)
"""


def test_an_import_that_was_killed_leaves_nothing_visible_and_comes_out_the_same(
    make_folder_store, tmp_path, monkeypatch
):
    monkeypatch.setattr(imports, "CUT_FROM", 20_000)
    monkeypatch.setattr(imports, "PACK_TARGET", 100_000)
    lake, other, third = make_folder_store(), make_folder_store("other"), make_folder_store("third")
    fill(other, {f"{n:04d}": b"%d" % n * 500 for n in range(300)})
    arguments = [lake.where, other.where, str(tmp_path / "s")]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL and refs.list_datasets(lake) == []
    packs_before = {info.key for info in stores.list_objects(lake, "packs/")}
    made = publish.publish_objects(lake, "p", other, "in", tmp_path / "s", {})
    assert packs_before and packs_before < {info.key for info in stores.list_objects(lake, "packs/")}
    assert made.version == publish.publish_objects(third, "p", other, "in", tmp_path / "t", {}).version
    assert versions.verify(lake, made.version, tmp_path).problems == ()


name = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=6).filter(
    lambda text: text not in (".", "..") and len(text.encode()) < 200
)
trees = st.dictionaries(
    st.lists(name, min_size=1, max_size=3).map("/".join), st.binary(max_size=5000), min_size=1, max_size=8
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_any_tree_comes_back_and_is_one_version_packed_and_in_place(tmp_path_factory, files):
    """Trees of up to 8 files of any Unicode names: packed and in place they have one id, and come back."""
    folder = tmp_path_factory.mktemp("tree")
    lake, other = (
        stores.open_store(StoreConfig(name=one, idc="a", url=f"file://{folder}/{one}"))
        for one in ("lake", "other")
    )
    clash = {path for path in files for more in files if more.startswith(f"{path}/")}
    files = {path: data for path, data in files.items() if path not in clash}
    for number, data in enumerate(files.values()):
        stores.put(other, f"o/{number}", data)
    wanted = [Wanted(path, "other", f"o/{number}") for number, path in enumerate(files)]
    found = imports.listed_items(wanted, named(other))
    packed = publish.publish_items(lake, "p", found.items, named(other), folder / "s", {})
    opened = reading.open_version(lake, packed.version)
    rows = pa.concat_tables(versions.rows(lake, packed.version))
    assert dict(reading.read_rows(opened, rows)) == files
    in_place = inplace.publish_in_place(other, "p", found.items, named(other), {})
    assert in_place.version == packed.version
    opened = reading.open_version(other, packed.version, named(other))
    assert dict(reading.read_rows(opened, pa.concat_tables(versions.rows(other, packed.version)))) == files
