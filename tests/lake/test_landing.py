from __future__ import annotations

import json

import pytest

from lake import landing, quarantine, stores
from lake.errors import Corrupt, NotFound, Refused


@pytest.fixture
def drive_folder(tmp_path):
    folder = tmp_path / "drive"
    (folder / "sub").mkdir(parents=True)
    (folder / "CAM_FRONT.mp4").write_bytes(b"v" * 100_000)
    (folder / "sub" / "GNSS.csv").write_bytes(b"")
    return folder


def test_a_drive_comes_back_checked(make_store, drive_folder, tmp_path):
    store = make_store("landing")
    made = landing.upload_drive(store, drive_folder, "car-1", "d1", start_ns=1_780_300_800_000_000_001)
    assert landing.find_drives(store) == [("car-1", "d1")] and landing.incomplete(store) == []
    found = landing.read_drive(store, "car-1", "d1")
    assert found == made and found.start_ns == 1_780_300_800_000_000_001
    for file in found.files:
        landing.fetch_file(store, "car-1", "d1", file, tmp_path / "out" / file.path)
        assert (tmp_path / "out" / file.path).read_bytes() == (drive_folder / file.path).read_bytes()


def test_an_upload_without_its_end_is_not_ready(make_folder_store, drive_folder):
    store = make_folder_store()
    landing.upload_drive(store, drive_folder, "car-1", "d1")
    stores.delete(store, "landing/car-1/d1/COMPLETE.json")
    assert landing.find_drives(store) == [] and landing.incomplete(store) == [("car-1", "d1")]
    with pytest.raises(NotFound, match=r"COMPLETE\.json"):
        landing.read_drive(store, "car-1", "d1")


@pytest.mark.parametrize("changed", [b"w" * 100_000, b"v" * 99_999, b"v" * 100_001, b""])
def test_other_bytes_than_declared_are_corrupt(make_folder_store, drive_folder, tmp_path, changed):
    store = make_folder_store()
    drive = landing.upload_drive(store, drive_folder, "car-1", "d1")
    stores.put(store, "landing/car-1/d1/CAM_FRONT.mp4", changed)
    with pytest.raises(Corrupt, match=r"CAM_FRONT\.mp4"):
        landing.fetch_file(store, "car-1", "d1", drive.files[0], tmp_path / "x")


HOSTILE = [
    {"path": "../../etc/passwd"},
    {"path": "/etc/passwd"},
    {"size": -1},
    {"size": True, "path": ""},
    {"sha256": "x"},
    {"channel": "../x"},
    {"start_ns": -5},
    {"extra": 1},
]


@pytest.mark.parametrize("change", HOSTILE)
def test_what_a_car_writes_is_checked(make_folder_store, change):
    store = make_folder_store()
    file = {"path": "a.mp4", "size": 1, "sha256": "0" * 64, "channel": None, "start_ns": None} | change
    value = {"outlap": 1, "vehicle": "c", "drive": "d", "start_ns": None, "files": [file]}
    stores.put(store, "landing/c/d/COMPLETE.json", json.dumps(value).encode())
    with pytest.raises(Corrupt, match=r"COMPLETE\.json"):
        landing.read_drive(store, "c", "d")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"outlap":1,"outlap":1}', b"[" * 100_000])
def test_no_json_is_corrupt(make_folder_store, data):
    store = make_folder_store()
    stores.put(store, "landing/c/d/COMPLETE.json", data)
    with pytest.raises(Corrupt):
        landing.read_drive(store, "c", "d")


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a" * 200])
def test_names_of_drives_are_checked(make_folder_store, name):
    with pytest.raises(Refused):
        landing.read_drive(make_folder_store(), "car", name)


def test_raw_keeps_what_was_checked(make_folder_store, drive_folder):
    store, lake = make_folder_store("landing"), make_folder_store("lake")
    drive = landing.upload_drive(store, drive_folder, "car-1", "d1")
    assert landing.raw_fingerprint(lake, "car-1", "d1") is None
    # an older upload of the same size was cut short here
    stores.put(lake, "raw/car-1/2026-06-01/d1/CAM_FRONT.mp4", b"w" * 100_000)
    for _ in range(2):
        landing.keep_raw(lake, drive, "2026-06-01", {f.path: drive_folder / f.path for f in drive.files})
    assert landing.raw_fingerprint(lake, "car-1", "d1") == drive.fingerprint
    assert stores.get(lake, "raw/car-1/2026-06-01/d1/CAM_FRONT.mp4") == b"v" * 100_000


def test_quarantine_tells_what_and_why(make_folder_store):
    lake = make_folder_store()
    finding = quarantine.Finding("truncated", "error", "CAM_FRONT.mp4", "ends at byte 5 of 10")
    first = quarantine.add(lake, "car-1", "d1", [finding], "f" * 64)
    assert quarantine.add(lake, "car-1", "d1", [finding], "f" * 64) == first
    assert quarantine.entries(lake) == [first] and quarantine.read(lake, "car-1", "d1") == first
    quarantine.clear(lake, "car-1", "d1")
    assert quarantine.read(lake, "car-1", "d1") is None
