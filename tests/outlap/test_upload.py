"""`outlap upload`: drives in the landing, as ingest finds them; killed and run again, it sends what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lake import landing, stores
from lake.config import load_config
from lake.errors import StoreDown
from lake.stores import Store, landing_store
from outlap import cli

START = "2026-06-01T08:00:00+02:00"
START_NS = 1_780_293_600 * 10**9


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The landing of an IDC in a folder."""
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path / "home"))
    for name in ("OUTLAP_IDC", "OUTLAP_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    lines = ['here = "a"', "[idc.a]", 'store = "lake"', 'landing = "land"']
    for name in ("lake", "land"):
        lines += [f"[store.{name}]", 'idc = "a"', f'url = "file://{tmp_path}/{name}"']
    (tmp_path / "home" / "outlap.toml").write_text("\n".join(lines))
    return landing_store(load_config())


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A folder with two recordings, positions, and a file that is none."""
    folder = tmp_path / "drive-42"
    folder.mkdir()
    for name in ("CAM_FRONT.mp4", "CAM_LEFT.mp4", "GNSS.csv"):
        (folder / name).write_bytes(name.encode() * 100)
    (folder / "notes.txt").write_text("rain")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert cli.run(["upload", *arguments, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.mark.fault("E8")
def test_a_folder_is_a_complete_drive_of_the_landing(
    store: Store, drive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (told,) = run(capsys, str(drive), "--vehicle", "car-7", "--drive", "monday", "--start", START)
    assert (told["outcome"], told["drive"]) == ("uploaded", "car-7/monday")
    assert (told["sent"], told["there_before"], told["left_out"]) == (3, 0, ["notes.txt"])
    found = landing.read_drive(store, "car-7", "monday")
    assert found.start_ns == START_NS
    assert {file.path: file.channel for file in found.files} == {
        "CAM_FRONT.mp4": "CAM_FRONT",
        "CAM_LEFT.mp4": "CAM_LEFT",
        "GNSS.csv": "GNSS",
    }
    for file in found.files:
        assert b"".join(landing.read_file(store, "car-7", "monday", file)) == (drive / file.path).read_bytes()
    assert landing.find_drives(store) == [("car-7", "monday")]


@pytest.mark.fault("E8")
def test_a_killed_upload_goes_on_and_a_changed_file_is_sent_again(
    store: Store, drive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (str(drive), "--vehicle", "car-7", "--drive", "monday")
    put, sent = stores.put_file, list[str]()

    def until_the_third(to: Store, key: str, path: Path) -> None:
        if len(sent) == 2:
            raise StoreDown("the landing", "it is away", "try again")
        sent.append(key)
        put(to, key, path)

    monkeypatch.setattr(stores, "put_file", until_the_third)
    (told,) = run(capsys, *arguments, code=1)
    assert told["outcome"] == "failed" and "it is away" in told["error"]
    assert landing.incomplete(store) == [("car-7", "monday")]
    monkeypatch.setattr(stores, "put_file", put)
    (drive / "CAM_LEFT.mp4").write_bytes(b"cut again!!!!" * 100)
    stores.put(store, "landing/car-7/monday/CAM_FRONT.mp4", (drive / "CAM_FRONT.mp4").read_bytes()[::-1])
    (told,) = run(capsys, *arguments)
    # one is new, one has changed here, and one has changed there
    assert (told["sent"], told["there_before"]) == (3, 0)
    for file in landing.read_drive(store, "car-7", "monday").files:
        b"".join(landing.read_file(store, "car-7", "monday", file))  # raises Corrupt for other bytes


@pytest.mark.fault("E8")
def test_what_an_earlier_try_sent_is_not_sent_again(
    store: Store, drive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put = stores.put

    def no_end(to: Store, key: str, data: bytes) -> None:
        if key.endswith(landing.COMPLETE):
            raise StoreDown("the landing", "it is away", "try again")
        put(to, key, data)

    monkeypatch.setattr(stores, "put", no_end)
    run(capsys, str(drive), "--vehicle", "car-7", code=1)
    monkeypatch.setattr(stores, "put", put)
    (told,) = run(capsys, str(drive), "--vehicle", "car-7")
    assert (told["sent"], told["there_before"]) == (0, 3)


def test_one_drive_that_fails_keeps_no_other_back(
    store: Store, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    paths = (str(tmp_path / "empty"), str(tmp_path / "nowhere"), str(drive))
    told = run(capsys, *paths, "--vehicle", "car-7", code=3)
    assert [one["outcome"] for one in told] == ["failed", "failed", "uploaded"]
    assert len(landing.find_drives(store)) == 1


@pytest.mark.parametrize("start", ["yesterday", "2026-06-01T08:00:00"])
def test_a_time_that_is_none_is_wrong_usage(store: Store, drive: Path, start: str) -> None:
    assert cli.run(["upload", str(drive), "--vehicle", "car-7", "--start", start]) == 2
