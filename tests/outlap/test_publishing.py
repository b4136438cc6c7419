"""publish, verify, split, derive and export from the command line, on stores that are directories."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lake import catalog, packs, refs, stores, versions
from lake.config import StoreConfig
from lake.stores import Store, open_store
from outlap import cli

FILES = {"a/1.jpg": b"one", "a/2.jpg": b"", "b/ü.jpg": b"x" * 5000}
SETTINGS = """
here = "idc-a"
[idc.idc-a]
store = "lake"
[store.lake]
idc = "idc-a"
url = "file://{home}/lake"
[store.old]
idc = "idc-a"
url = "file://{home}/old"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with two stores: an empty lake, and `old` with FILES below in/."""
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    monkeypatch.delenv("OUTLAP_CONFIG", raising=False)
    monkeypatch.delenv("OUTLAP_IDC", raising=False)
    (tmp_path / "outlap.toml").write_text(SETTINGS.format(home=tmp_path))
    old = store(tmp_path, "old")
    for name, data in FILES.items():
        stores.put(old, f"in/{name}", data)
    return tmp_path


def store(home: Path, name: str = "lake") -> Store:
    return open_store(StoreConfig(name=name, idc="idc-a", url=f"file://{home}/{name}"))


def outlap(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """The JSON that a command prints, and `err`, what it says of an error in words."""
    assert cli.run([*arguments, "--json"]) == code, capsys.readouterr().err
    said = capsys.readouterr()
    found = json.loads(said.out)
    return found if isinstance(found, list) else {**found, "err": said.err}


def test_a_prefix_packed_in_place_and_from_a_list_is_one_version(place, capsys):
    in_place = outlap(capsys, "publish", "p", "--from", "old:in", "--in-place")
    assert (in_place["tag"], in_place["is_new"], in_place["files"]) == ("v1", True, 3)
    assert outlap(capsys, "verify", "p")["problems"] == []
    assert cli.run(["publish", "p", "--from", "old:in/"]) == 0
    assert capsys.readouterr().out.startswith("nothing new: p@v1 ")
    (place / "list").write_text("\n".join(f"old:in/{name}" for name in FILES))
    listed = outlap(capsys, "publish", "q", "--files", str(place / "list"))
    assert listed["files"] == 3 and listed["version"] != in_place["version"]  # its paths begin with in/
    (place / "list").write_text("\n".join(f"./x/{name}" for name in FILES))
    mapped = outlap(capsys, "publish", "r", "--files", str(place / "list"), "--map", "./x/=old:in")
    assert mapped["version"] == in_place["version"]
    by_etag = outlap(capsys, "publish", "p", "--from", "old:in", "--in-place", "--identity", "etag")
    assert by_etag["tag"] == "v2" and outlap(capsys, "verify", "p@v2")["problems"] == []
    stores.put(store(place, "old"), "in/a/1.jpg", b"two")
    assert len(outlap(capsys, "verify", "p@v2", code=1)["problems"]) == 1
    assert outlap(capsys, "verify", "p@v1")["problems"] == []  # packed by now


def test_a_pickled_list_reports_what_is_missing_and_twice(place, capsys):
    names = [*FILES, "a/none.jpg", "a/1.jpg"]
    (place / "l.pkl").write_bytes(
        pickle.dumps([{"path": f"/mnt/nas/{name}", "channel": "CAM"} for name in names])
    )
    arguments = ["publish", "p", "--pkl", str(place / "l.pkl")]
    assert "--map" in str(outlap(capsys, *arguments, code=1)["err"])
    arguments += ["--map", "/mnt/nas/=old:in"]
    assert "old:in/a/none.jpg" in str(outlap(capsys, *arguments, code=1)["err"])
    done = outlap(capsys, *arguments, "--skip-missing", code=3)
    assert done["missing"] == ["old:in/a/none.jpg"] and done["duplicates"] == ["a/1.jpg"]
    assert done["files"] == 3
    lake = store(place)
    (table,) = versions.rows(lake, refs.resolve(lake, "p").version)
    assert set(table["channel"].to_pylist()) == {"CAM"}
    (place / "l.pkl").write_bytes(b"cposix\nsystem\n(Vtouch HIT\ntR.")
    assert "posix.system" in str(outlap(capsys, *arguments, code=1)["err"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--from", "old:in", "--pkl", "outlap.toml"],
        ["--query", "select 1", "--in-place"],
        ["--from", "old:in", "--identity", "etag"],
        ["--from", "old:in", "--in-place", "--identity", "size"],
    ],
)
def test_options_that_contradict_are_wrong_usage(place, capsys, monkeypatch, arguments):
    monkeypatch.chdir(place)
    assert cli.run(["publish", "p", *arguments]) == 2


def test_stores_that_nobody_knows(place, capsys):
    assert "the settings know" in str(outlap(capsys, "publish", "p", "--from", "nas:in", code=1)["err"])
    assert "no object below" in str(outlap(capsys, "publish", "p", "--from", "old:nowhere", code=1)["err"])


def test_derive_and_split_from_the_command_line(place, capsys):
    import io

    from PIL import Image

    for n in range(12):
        out = io.BytesIO()
        Image.new("RGB", (64, 48), (n, n, n)).save(out, "JPEG")
        stores.put(store(place, "old"), f"drives/d{n}/1.jpg", out.getvalue())
    pairs = [(f"old:drives/d{n}/1.jpg", f"CAM{n}") for n in range(12)]
    (place / "l.pkl").write_bytes(
        pickle.dumps([{"path": path, "channel": channel} for path, channel in pairs])
    )
    outlap(capsys, "publish", "p", "--pkl", str(place / "l.pkl"), "--in-place")
    done = outlap(capsys, "derive", "p", "--resize", "32x24", "--as", "small")
    assert (done["made"], done["files"], done["is_new"]) == (12, 12, True)
    assert outlap(capsys, "derive", "p", "--resize", "32x24", "--as", "small")["is_new"] is False
    parts = outlap(capsys, "split", "small", "--by", "channel", "--into", "train=50,val=50")
    assert [part["dataset"] for part in parts] == ["small-train", "small-val"]
    assert sum(part["files"] for part in parts) == 12
    assert "NAME=WEIGHT" in str(outlap(capsys, "split", "small", "--into", "train", code=1)["err"])


def test_exports_from_the_command_line(place, capsys):
    outlap(capsys, "publish", "p", "--from", "old:in")
    for kind in ("files", "parquet", "webdataset", "croissant"):
        done = outlap(capsys, "export", "p", str(place / kind), "--to", kind)
        assert done["files"] == 3 and all((place / kind / str(name)).exists() for name in done["outputs"])
    assert outlap(capsys, "export", "p", str(place / "b"), "--to", "parquet", "--bytes")["copied"] == 5003
    assert (place / "files" / "files.txt").read_text().split() == sorted(FILES)
    assert "no file has" in str(
        outlap(capsys, "export", "p", str(place / "n"), "--to", "nuscenes", code=1)["err"]
    )
    assert cli.run(["export", "p", str(place / "n"), "--to", "coco"]) == 2


def catalogue(lake: Store, folder: Path, count: int = 4) -> None:
    """One drive of the catalogue, in a real pack."""
    names = [f"720p/car/d1/CAM/{n:019d}.jpg" for n in range(count)]
    pack = packs.write_pack(folder / "d1.tar", ((name, name.encode()) for name in names))
    packs.put_pack(lake, pack.id, folder / "d1.tar")
    columns = {
        name: pa.nulls(count, kind)
        for name, kind in zip(catalog.FRAME_SCHEMA.names, catalog.FRAME_SCHEMA.types, strict=True)
    }
    texts = {
        "drive": "d1",
        "channel": "CAM",
        "pack": pack.id,
        "vehicle": "car",
        "date": "2026-06-01",
        "output": "720p",
    }
    columns |= {name: pa.array([text] * count) for name, text in texts.items()}
    columns |= {name: pack.members[name] for name in ("content_id", "size", "offset")}
    columns["path"] = pa.array(names)
    table = pa.table(columns).select(catalog.FRAME_SCHEMA.names).cast(catalog.FRAME_SCHEMA)
    catalog.write_frames(lake, table, "2026-06-01", "car", "d1", "ab" * 32)


def test_verify_rerun_says_whether_the_query_gives_the_version_again(place, capsys):
    catalogue(store(place), place)
    made = outlap(capsys, "publish", "q", "--query", "select * from frames")
    again = outlap(capsys, "verify", "q", "--rerun")
    assert again["same"] is True and again["rerun"] == made["version"]
    outlap(capsys, "publish", "r", "--query", "select *, random() as dice from frames")
    assert outlap(capsys, "verify", "r", "--rerun", code=1)["same"] is False
    (place / "list").write_text("720p/car/d1/CAM/0000000000000000001.jpg\n")
    listed = outlap(capsys, "publish", "l", "--files", str(place / "list"))
    assert listed["files"] == 1
    assert "no query" in str(outlap(capsys, "verify", "l", "--rerun", code=1)["err"])
    (place / "list").write_text("720p/car/d1/none.jpg\n")
    assert "not in the catalogue" in str(
        outlap(capsys, "publish", "l", "--files", str(place / "list"), code=1)["err"]
    )
