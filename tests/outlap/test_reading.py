"""The Python API and the fsspec file system: every byte right or an error, from several threads, in other processes."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.dataset
import pytest

import outlap
from lake import imports, inplace, manifests, publish, reading, refs, stores, versions
from lake.config import StoreConfig, load_config
from lake.errors import Corrupt, NotFound
from lake.packs import pack_key
from lake.stores import open_store
from outlap.filesystem import OutlapFileSystem

ROOT = Path(__file__).parents[2]
FILES = {"a/1.jpg": b"one", "a/b/2.jpg": b"", "a/b/ü.csv": b"x,y\n1,2\n", "a!": b"!" * 9000, "z": b"z"}


@pytest.fixture(params=[manifests.CUT_MASK, np.uint64(0)], ids=["one part", "a part for each row"])
def home(request, tmp_path, monkeypatch):
    """A home whose lake has FILES as `d@v1`."""
    monkeypatch.setattr(manifests, "CUT_MASK", request.param)
    settings = {"here": "idc-a", "url": f"file://{tmp_path}/lake"}
    text = 'here = "idc-a"\n[idc.idc-a]\nstore = "lake"\n[store.lake]\nidc = "idc-a"\nurl = "{url}"\n'
    text += '[store.old]\nidc = "idc-a"\nurl = "{url}-old"\n'
    (tmp_path / "outlap.toml").write_text(text.format(**settings))
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    monkeypatch.delenv("OUTLAP_CONFIG", raising=False)
    monkeypatch.delenv("OUTLAP_IDC", raising=False)
    for name, data in FILES.items():
        path = tmp_path / "f" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    store = open_store(StoreConfig(name="lake", idc="idc-a", url=settings["url"]))
    publish.publish_folder(store, "d", tmp_path / "f", tmp_path / "s", {})
    return tmp_path, store


@pytest.fixture
def files(home):
    OutlapFileSystem.clear_instance_cache()
    return OutlapFileSystem()


def test_a_dataset_is_its_files(home):
    _, store = home
    opened = outlap.open_dataset("d")
    assert (opened.name, opened.tag, opened.files, len(opened)) == ("d", "latest", 5, 5)
    assert opened.version == refs.resolve(store, "d").version and opened.total_bytes == sum(
        map(len, FILES.values())
    )
    assert [file.path for file in opened] == sorted(FILES)
    assert all(opened.read(path) == data and path in opened for path, data in FILES.items())
    assert dict(opened.read_many([*FILES, "z"])) == FILES and dict(opened.read_many([])) == {}
    assert opened.file("a!").size == 9000 and opened.file("a!").timestamp_ns is None
    assert opened.table(["path", "size"]).column_names == ["path", "size"]
    assert "pack" not in opened.table().column_names and opened.table().num_rows == 5
    for path in ("", "a", "a/0", "zz", "a/b/2.jp", "\udcff"):
        assert path not in opened
        with pytest.raises(NotFound, match="no such file"):
            opened.read(path)
    below = pa.concat_tables(opened.below("a/b/"))["path"].to_pylist()
    assert below == ["a/b/2.jpg", "a/b/ü.csv"]
    with pytest.raises(NotFound, match="d"):
        outlap.open_dataset("e")


def test_tags_are_typed_and_a_copy_in_another_process_is_the_same_version(home):
    _, store = home
    (rows,) = [pa.concat_tables(versions.rows(store, refs.resolve(store, "d").version))]
    rows = rows.append_column("weather", pa.array(["rain"] * 5)).append_column("night", pa.array([True] * 5))
    publish.publish_rows(store, "t", [rows], rows.schema, {})
    opened = outlap.open_dataset("t@latest")
    assert opened.file("z").tags == {"weather": "rain", "night": True} and "weather" in opened.columns
    text = pickle.dumps(opened)
    publish.publish_rows(store, "t", [rows.slice(0, 2)], rows.schema, {})
    code = "import pickle, sys; d = pickle.load(sys.stdin.buffer); print(d.version, d.read('z'))"
    done = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, check=True)
    assert done.stdout.decode().split() == [opened.version, "b'z'"]


def test_several_threads_read_one_dataset(home):
    opened = outlap.open_dataset("d@v1")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(opened.read, [*FILES] * 20)) == [*FILES.values()] * 20


def test_wrong_bytes_are_an_error(home, files):
    _, store = home
    opened = outlap.open_dataset("d")
    row = next(
        row
        for part in versions.rows(store, opened.version)
        for row in part.to_pylist()
        if row["path"] == "a!"
    )
    key = pack_key(row["pack"])
    data = bytearray(stores.get(store, key))
    data[row["offset"]] ^= 1
    stores.put(store, key, bytes(data))
    with pytest.raises(Corrupt):
        opened.read("a!")
    with pytest.raises(Corrupt):
        files.cat_file("d/a!", 5, 6)
    assert opened.read("z") == b"z"


def test_what_was_published_in_place_is_read_from_where_it_is(home):
    _, store = home
    old = stores.open_store(load_config().store_named("old"))
    for name, data in FILES.items():
        stores.put(old, f"in/{name}", data)
    inplace.publish_in_place(store, "p", imports.prefix_items(old, "in"), lambda _: old, {}, identity="etag")
    opened = outlap.open_dataset("p")
    assert dict(opened.read_many(list(FILES))) == FILES
    stores.put(old, "in/z", b"other")
    with pytest.raises(Corrupt, match="changed"):
        opened.read("z")


def test_it_is_a_file_system(files):
    def names(path):
        return sorted(files.ls(path, detail=False))

    assert names("outlap://d@v1") == ["d@v1/a", "d@v1/a!", "d@v1/z"] and names("d/a/b") == [
        "d/a/b/2.jpg",
        "d/a/b/ü.csv",
    ]
    assert names("d/z") == ["d/z"]
    assert files.info("d/a")["type"] == "directory" and files.info("d/a!")["size"] == 9000
    assert files.isdir("d") and files.isfile("d/z") and not files.exists("d/none") and files.exists("d/a")
    assert sorted(files.find("d")) == sorted(f"d/{path}" for path in FILES)
    assert sorted(files.find("d/a", maxdepth=1)) == ["d/a/1.jpg"]
    assert sorted(files.glob("d/**/*.jpg")) == ["d/a/1.jpg", "d/a/b/2.jpg"]
    assert [(top, sorted(dirs), sorted(inner)) for top, dirs, inner in files.walk("d/a")] == [
        ("d/a", ["b"], ["1.jpg"]),
        ("d/a/b", [], ["2.jpg", "ü.csv"]),
    ]
    assert files.cat("d/z") == b"z" and files.cat(["d/z", "d/a!"]) == {"d/z": b"z", "d/a!": FILES["a!"]}
    assert files.cat("d/a", recursive=True) == {
        f"d/{path}": data for path, data in FILES.items() if path.startswith("a/")
    }
    assert files.cat_ranges(["d/a!", "d/a/1.jpg"], [1, 0], [3, 2]) == [b"!!", b"on"]
    assert files.cat_file("d/a/1.jpg", 1) == b"ne" and files.size("d/a!") == 9000
    with files.open("d/a/1.jpg") as file:
        assert file.read(2) == b"on" and file.seek(0) == 0
    assert files.checksum("d/z") == outlap.open_dataset("d").file("z").content_id
    for path in ("d/none", "nothing/z", "outlap://"):
        with pytest.raises(FileNotFoundError):
            files.info(path)
    with pytest.raises(FileNotFoundError):
        files.cat(["d/none", "d/z"])
    with pytest.raises(PermissionError, match="never written"):
        files.open("d/z", "wb")


def test_get_and_pandas_by_address(files, tmp_path):
    fsspec.register_implementation("outlap", OutlapFileSystem, clobber=True)
    files.get("outlap://d/a/", str(tmp_path / "got"), recursive=True)
    got = {
        path.relative_to(tmp_path / "got").as_posix(): path.read_bytes()
        for path in (tmp_path / "got").rglob("*.*")
    }
    assert got == {path[2:]: data for path, data in FILES.items() if path.startswith("a/")}
    with fsspec.open("outlap://d@v1/a/1.jpg") as file:
        assert file.read() == b"one"
    assert pandas.read_csv("outlap://d@v1/a/b/ü.csv").to_dict("list") == {"x": [1], "y": [2]}
    table = pyarrow.dataset.dataset("d/a/b/ü.csv", format="csv", filesystem=files).to_table()
    assert table.to_pydict() == {"x": [1], "y": [2]}
    wrapped = fsspec.filesystem("outlap").to_json()
    assert json.loads(wrapped)["protocol"] == "outlap"


def test_the_package_registers_the_address_and_says_that_it_is_typed():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["fsspec.specs"]
    point = importlib.metadata.EntryPoint("outlap", declared["outlap"], "fsspec.specs")
    assert point.load() is OutlapFileSystem
    assert (Path(outlap.__file__).parent / "py.typed").exists()


def test_import_outlap_is_light():
    code = "import sys, outlap; sys.exit(repr({'pyarrow', 'obstore', 'fsspec'} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() in ("", "''")
    with pytest.raises(AttributeError, match="nothing"):
        outlap.nothing  # noqa: B018
    assert outlap.Dataset.__name__ == "Dataset" and outlap.File.__name__ == "File"


def test_a_dataset_in_a_real_object_store(make_store, tmp_path):
    """The same through S3: ranges of packs, and single objects with If-Match."""
    store, old = make_store(), make_store("old")
    for name, data in FILES.items():
        stores.put(old, f"in/{name}", data)
    items = imports.prefix_items(old, "in")
    packed = publish.publish_items(store, "d", items, lambda _: old, tmp_path / "s", {})
    in_place = inplace.publish_in_place(store, "p", items, lambda _: old, {}, identity="etag")
    for version in (packed.version, in_place.version):
        opened = reading.open_version(store, version, lambda _: old)
        assert dict(reading.read_rows(opened, pa.concat_tables(versions.rows(store, version)))) == FILES
    stores.put(old, "in/z", b"other")
    with pytest.raises(Corrupt, match="changed"):
        list(reading.read_rows(opened, pa.concat_tables(versions.rows(store, in_place.version))))
