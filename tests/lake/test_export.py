"""Exports are read by the tools that they are for: webdataset, pandas, Polars, mlcroissant, and by the rules of nuScenes."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from pathlib import Path

import datasets
import mlcroissant
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from lake import catalog, export, imports, inplace, packs, publish, reading, refs, stores, versions
from lake.errors import Corrupt, NotFound, Refused
from lake.export_croissant import export_croissant
from lake.export_nuscenes import export_nuscenes
from lake.packs import pack_key

CHANNELS = ("CAM_BACK", "CAM_FRONT")
SECOND = 10**9


def jpeg(n: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 16), (n, 0, 0)).save(out, "JPEG")
    return out.getvalue()


def publish_drives(store, folder, drives=("d1", "d2"), samples=3):
    """Frames of two cameras in one pack a drive; {path: bytes}."""
    files = {}
    for number, drive in enumerate(drives):
        names, rows = [], []
        for channel in CHANNELS:
            for n in range(samples):
                at = (1_700_000_000 + 60 * number + n) * SECOND
                names.append(f"720p/car/{drive}/{channel}/{at:019d}.jpg")
                rows.append((drive, channel, at, f"s{n}", n == 1))
        data = [jpeg(number * 50 + n) for n in range(len(names))]
        pack = packs.write_pack(folder / f"{drive}.tar", zip(names, data, strict=True))
        packs.put_pack(store, pack.id, folder / f"{drive}.tar")
        files |= dict(zip(names, data, strict=True))
        count = len(names)
        table = pa.table(
            {
                "path": names,
                "content_id": pack.members["content_id"],
                "size": pack.members["size"],
                "drive": [drive] * count,
                "channel": [row[1] for row in rows],
                "timestamp_ns": pa.array([row[2] for row in rows], pa.int64()),
                "sample_id": [row[3] for row in rows],
                "width": pa.array([32] * count, pa.int32()),
                "height": pa.array([16] * count, pa.int32()),
                "recipe": ["r"] * count,
                "pack": [pack.id] * count,
                "offset": pack.members["offset"],
                "vehicle": ["car"] * count,
                "date": ["2026-06-01"] * count,
                "output": ["720p"] * count,
                "frame_index": pa.array(range(count), pa.int64()),
                "is_key": [row[4] for row in rows],
                "latitude": pa.array([48.5] * count, pa.float64()),
                "longitude": pa.array([None] * count, pa.float64()),
                "speed_mps": pa.nulls(count, pa.float64()),
            }
        ).cast(catalog.FRAME_SCHEMA)
        catalog.write_frames(store, table, "2026-06-01", "car", drive, "ab" * 32)
    return files


@pytest.fixture
def lake(make_folder_store, tmp_path):
    """(store, {path: bytes}, ref, opened) of a published dataset `d`."""
    store = make_folder_store()
    files = publish_drives(store, tmp_path)
    publish.publish_query(store, "d", "select * from frames", tmp_path / "s", {})
    ref = refs.resolve(store, "d", "v1")
    return store, files, ref, reading.open_version(store, ref.version)


def samples_of(shards):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = webdataset.WebDataset(shards, shardshuffle=False)
        return {f"{sample['__key__']}.jpg": sample["jpg"] for sample in found}


def test_a_list_of_files(lake, tmp_path):
    _, files, _, opened = lake
    done = export.export_files(opened, tmp_path / "o", "/mnt/d/")
    lines = (tmp_path / "o" / "files.txt").read_text().splitlines()
    assert lines == [f"/mnt/d/{path}" for path in sorted(files)] and done.files == len(files)
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["files.txt"]


def test_packs_are_shards_as_they_are_and_parts_of_packs_become_shards(lake, tmp_path):
    store, files, _, opened = lake
    done = export.export_webdataset(opened, tmp_path / "o", store.where)
    shards = (tmp_path / "o" / "shards.txt").read_text().split()
    assert len(shards) == 2 and done.copied == 0 and all("/packs/" in shard for shard in shards)
    assert samples_of(shards) == files
    # half of a pack, and other names than in the pack
    sql = "select * from frames where drive = 'd1' and channel = 'CAM_FRONT' or drive = 'd2'"
    publish.publish_query(store, "half", sql, tmp_path / "s", {})
    half = reading.open_version(store, refs.resolve(store, "half").version)
    done = export.export_webdataset(half, tmp_path / "h", store.where)
    shards = (tmp_path / "h" / "shards.txt").read_text().split()
    kept = {path: data for path, data in files.items() if "d2" in path or "CAM_FRONT" in path}
    assert (
        len(shards) == 2 and done.outputs == ("shards.txt", "shard-00000.tar") and samples_of(shards) == kept
    )
    sql = "select * replace ('x/' || path as path) from frames where drive = 'd1'"
    publish.publish_query(store, "renamed", sql, tmp_path / "s", {})
    renamed = reading.open_version(store, refs.resolve(store, "renamed").version)
    export.export_webdataset(renamed, tmp_path / "r", store.where)
    shards = (tmp_path / "r" / "shards.txt").read_text().split()
    assert samples_of(shards) == {f"x/{path}": data for path, data in files.items() if "d1" in path}
    copied = export.export_webdataset(opened, tmp_path / "c", store.where, copy=True)
    assert copied.copied == sum(map(len, files.values()))
    assert samples_of((tmp_path / "c" / "shards.txt").read_text().split()) == files
    assert not [path for path in (tmp_path / "c").iterdir() if path.name.startswith(".")]


def test_parquet_is_read_by_pandas_and_polars(lake, tmp_path):
    _, files, _, opened = lake
    export.export_parquet(opened, tmp_path / "o")
    path = tmp_path / "o" / "files.parquet"
    frame, other = pandas.read_parquet(path), polars.read_parquet(path)
    assert frame["path"].tolist() == other["path"].to_list() == sorted(files)
    assert set(frame["vehicle"]) == {"car"} and other["is_key"].sum() == 4
    assert "pack" not in frame.columns and "offset" not in frame.columns
    assert frame["size"].sum() == sum(map(len, files.values()))


def test_parquet_with_pictures_has_the_form_of_hugging_face(lake, tmp_path, monkeypatch):
    _, files, _, opened = lake
    monkeypatch.setattr(export, "FILES_AT_ONCE", 4)
    monkeypatch.setattr(export, "SHARD_BYTES", 3000)
    done = export.export_parquet_with_bytes(opened, tmp_path / "o")
    assert len(done.outputs) > 1 and done.copied == sum(map(len, files.values()))
    table = pq.read_table([tmp_path / "o" / name for name in done.outputs])
    assert {row["path"]: row["bytes"] for row in table["image"].to_pylist()} == files
    assert table["path"].to_pylist() == sorted(files)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"} and features["size"] == {
        "_type": "Value",
        "dtype": "int64",
    }
    assert set(features) == set(table.schema.names)
    # the library itself, which decodes `image` by the features in the metadata
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    names = [str(tmp_path / "o" / name) for name in done.outputs]
    loaded = datasets.load_dataset(
        "parquet", data_files=names, split="train", cache_dir=str(tmp_path / "hf"), num_proc=None
    )
    assert isinstance(loaded.features["image"], datasets.Image) and loaded["path"][:] == sorted(files)
    assert loaded[0]["image"].size == (32, 16)
    undecoded = loaded.cast_column("image", datasets.Image(decode=False))
    assert {row["image"]["path"]: row["image"]["bytes"] for row in undecoded} == files
    frame = polars.read_parquet(tmp_path / "o" / "*.parquet")
    assert Image.open(io.BytesIO(frame["image"][0]["bytes"])).size == (32, 16)


def test_croissant_is_valid_and_its_records_are_the_files(lake, tmp_path):
    _, files, ref, opened = lake
    licence = "https://creativecommons.org/licenses/by/4.0/"
    export_croissant(opened, ref, tmp_path / "o", licence, "Frames of a test.")
    described = mlcroissant.Dataset(jsonld=str(tmp_path / "o" / "croissant.json"))
    issues = described.metadata.ctx.issues
    assert not issues.errors, issues.report()
    records = list(described.records("files"))
    assert [record["files/path"].decode() for record in records] == sorted(files)
    assert {record["files/timestamp_ns"] for record in records} >= {1_700_000_000 * SECOND}
    value = json.loads((tmp_path / "o" / "croissant.json").read_text())
    assert (value["name"], value["version"], value["license"]) == ("d", "1.0.0", licence)
    table = (tmp_path / "o" / "files.parquet").read_bytes()
    assert value["distribution"][0]["sha256"] == hashlib.sha256(table).hexdigest()
    names = [field["name"] for field in value["recordSet"][0]["field"]]
    assert "latitude" in names and "longitude" not in names  # null everywhere


def read_tables(folder: Path):
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_nuscenes_tables_fit_together(lake, tmp_path):
    _, files, ref, opened = lake
    export_nuscenes(opened, ref, tmp_path / "o")
    tables = read_tables(tmp_path / "o" / "v1.0-v1")
    assert set(tables) == {
        *("attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample"),
        *("sample_annotation", "sample_data", "scene", "sensor", "visibility"),
    }
    by_token = {name: {row["token"]: row for row in rows} for name, rows in tables.items()}
    assert all(len(by_token[name]) == len(rows) for name, rows in tables.items())
    for row in tables["sample_data"]:
        assert row["filename"] in files and (row["width"], row["height"]) == (32, 16)
        sample = by_token["sample"][row["sample_token"]]
        calibrated = by_token["calibrated_sensor"][row["calibrated_sensor_token"]]
        assert by_token["sensor"][calibrated["sensor_token"]]["channel"] in row["filename"]
        assert row["timestamp"] >= sample["timestamp"] and row["ego_pose_token"] in by_token["ego_pose"]
        assert row["fileformat"] == "jpg"
    assert len(tables["sample_data"]) == 12 and len(tables["sample"]) == 6 and len(tables["scene"]) == 2
    for scene in tables["scene"]:
        walked, at = [], scene["first_sample_token"]
        while at:
            walked.append(at)
            at = by_token["sample"][at]["next"]
        assert walked[-1] == scene["last_sample_token"] and len(walked) == scene["nbr_samples"] == 3
        assert by_token["log"][scene["log_token"]]["vehicle"] == "car"
    starts = [row for row in tables["sample_data"] if not row["prev"]]
    assert len(starts) == 4
    export_nuscenes(opened, ref, tmp_path / "again")
    assert read_tables(tmp_path / "again" / "v1.0-v1") == tables


def test_files_that_are_no_frames_are_no_nuscenes(make_folder_store, tmp_path):
    store = make_folder_store()
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a\nb").write_bytes(b"1")
    publish.publish_folder(store, "f", tmp_path / "f", tmp_path / "s", {})
    ref = refs.resolve(store, "f")
    opened = reading.open_version(store, ref.version)
    with pytest.raises(Refused, match="no file has drive, channel, timestamp_ns"):
        export_nuscenes(opened, ref, tmp_path / "o")
    with pytest.raises(Refused, match="line break"):
        export.export_files(opened, tmp_path / "o")
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())


def test_what_was_published_in_place_is_exported_from_where_it_is(make_folder_store, tmp_path):
    store, other = make_folder_store(), make_folder_store("other")
    files = {f"{n}.jpg": jpeg(n) for n in range(5)} | {"e.jpg": b""}
    for name, data in files.items():
        stores.put(other, f"in/{name}", data)
    for identity in ("content", "etag"):
        inplace.publish_in_place(
            store, "p", imports.prefix_items(other, "in"), lambda _: other, {}, identity=identity
        )
        version = refs.resolve(store, "p").version
        opened = reading.open_version(store, version, lambda _: other)
        export.export_webdataset(opened, tmp_path / identity, store.where)
        shards = (tmp_path / identity / "shards.txt").read_text().split()
        assert samples_of(shards) == files
        with pytest.raises(Refused, match="other"):
            rows = pa.concat_tables(versions.rows(store, version))
            list(reading.read_rows(reading.open_version(store, version), rows))


def test_bytes_that_changed_in_the_store_are_an_error(lake, tmp_path):
    store, _, _, opened = lake
    pack = versions.read_available(store, opened.version).packs[0].id
    rows = pa.concat_tables(versions.rows(store, opened.version))
    offset = rows.filter(pa.compute.equal(rows["pack"], pack))["offset"][0].as_py()
    data = bytearray(stores.get(store, pack_key(pack)))
    data[offset + 3] ^= 1
    stores.put(store, pack_key(pack), bytes(data))
    with pytest.raises(Corrupt, match="content id"):
        export.export_parquet_with_bytes(opened, tmp_path / "o")
    assert list((tmp_path / "o").iterdir()) == []
    with pytest.raises(NotFound):
        reading.open_version(store, "0" * 64)
