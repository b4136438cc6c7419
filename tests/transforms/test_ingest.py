"""A drive from the landing to frames: which frames, where, and what happens the second time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import simplejpeg

from lake import catalog, landing, packs, quarantine, stores
from lake.canonical import blake3_hex
from lake.errors import Conflict, NotFound, StoreDown
from lake.stores import Store
from outlap.synthetic import START_NS, make_drive
from tests.transforms.conftest import Place, new_place
from transforms import packing
from transforms.errors import TransformError
from transforms.ingest import ingest_drive
from transforms.recipe import Distance, Events, Output, Rate, Recipe, recipe_id

CAMERAS = ("CAM_FRONT", "CAM_LEFT", "CAM_RIGHT")
Clips = Callable[..., bytes]


@pytest.fixture(scope="session")
def small_drive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Three cameras of 640x360, two seconds at 10 Hz, a key frame each half second, and a track."""
    folder = tmp_path_factory.mktemp("drive")
    make_drive(folder, cameras=CAMERAS, seconds=2, width=640, height=360, gop=5, codec="libx264")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_key_frames_of_all_cameras(place: Place, small_drive: dict[str, bytes]) -> None:
    place.upload(small_drive, start_ns=START_NS)
    told: list[tuple[str, int, int]] = []
    report = place.ingest(progress=lambda *step: told.append(step))
    assert (report.outcome, report.findings) == ("ingested", ())
    assert (report.frames, report.frames_4k, report.frames_720p) == (12, 0, 12)
    assert (report.recordings, report.seconds_of_video, report.packs) == (3, 6.0, 1)
    assert place.shown("720p") == {name: [(i, n) for n in (0, 5, 10, 15)] for i, name in enumerate(CAMERAS)}
    rows = place.rows().to_pylist()
    assert report.bytes == sum(row["size"] for row in rows)
    for row in rows:
        camera = CAMERAS.index(row["channel"])
        at = START_NS + row["frame_index"] * 100_000_000 + camera * 3_000_000
        assert row["timestamp_ns"] == at
        assert row["path"] == f"720p/car/d1/{row['channel']}/{at:019d}.jpg"
        assert row["sample_id"] == f"car/d1/{at - camera * 3_000_000:019d}"
        assert (row["width"], row["height"], row["is_key"]) == (640, 360, True)
        assert (row["vehicle"], row["drive"], row["date"]) == ("car", "d1", "2026-06-01")
        assert row["recipe"] == recipe_id(Recipe())
        assert blake3_hex(place.jpeg(row)) == row["content_id"]
        assert 48 < row["latitude"] < 49 and 11 < row["longitude"] < 12 and 12 < row["speed_mps"] < 15
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    for step in ("fetch", "cut", "pack"):
        last = [(done, total) for name, done, total in told if name == step][-1]
        assert last[0] == last[1] > 0
    assert json.loads(json.dumps(dataclasses.asdict(report)))["outcome"] == "ingested"
    assert list((place.folder / "scratch").iterdir()) == []


def test_a_rate_cuts_the_frames_at_its_ticks(place: Place, small_drive: dict[str, bytes]) -> None:
    place.upload(small_drive, start_ns=START_NS)
    report = place.ingest(recipe=Recipe(cut=Rate(rate_mhz=5000)))
    # ticks each 200 ms; the last frame, at 1900 ms, is nearest to the tick at 2000
    numbers = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19]
    assert place.shown("720p") == {name: [(i, n) for n in numbers] for i, name in enumerate(CAMERAS)}
    assert report.frames == 33
    rows = place.rows().to_pylist()
    assert sum(row["is_key"] for row in rows) == 6
    samples: dict[str, set[str]] = {}
    for row in rows:
        samples.setdefault(row["sample_id"], set()).add(row["channel"])
    assert len(samples) == 11
    assert all(channels == set(CAMERAS) for channels in samples.values())


def test_4k_of_h265_gives_both_sizes_in_packs_of_their_own(place: Place) -> None:
    folder = place.folder / "drive"
    make_drive(folder, cameras=("CAM_FRONT",), seconds=0.8, fps=10, gop=4)
    landing.upload_drive(place.landing, folder, "car", "d1")
    report = place.ingest()
    assert (report.frames, report.frames_4k, report.frames_720p, report.packs) == (2, 2, 2, 2)
    assert place.shown("4k") == place.shown("720p") == {"CAM_FRONT": [(0, 0), (0, 4)]}
    of_pack: dict[str, set[str]] = {}
    for row in place.rows().to_pylist():
        of_pack.setdefault(row["pack"], set()).add(row["output"])
        jpeg = place.jpeg(row)
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
        assert (width, height) == (row["width"], row["height"])
        assert (width, height) == {"4k": (3840, 2160), "720p": (1280, 720)}[row["output"]]
        members = packs.read_members(place.lake, row["pack"])
        assert row["path"] in members["name"].to_pylist()
    assert sorted(of_pack.values(), key=sorted) == [{"4k"}, {"720p"}]
    # no clock but the container's: taken, and said
    assert {(finding.rule, finding.severity, finding.inferred) for finding in report.findings} == {
        ("clock-from-container", "warning", True)
    }
    assert all(row["timestamp_ns"] >= START_NS for row in place.rows().to_pylist())


def test_the_same_drive_anywhere_gives_the_same_objects(
    tmp_path: Path, small_drive: dict[str, bytes]
) -> None:
    lakes = []
    for name in ("one", "two"):
        place = new_place(tmp_path / name)
        place.upload(small_drive, start_ns=START_NS)
        place.ingest()
        lakes.append(place.objects())
    assert lakes[0] == lakes[1]
    assert any(key.startswith("packs/") for key in lakes[0])


def test_the_same_drive_twice_writes_nothing(place: Place, small_drive: dict[str, bytes]) -> None:
    place.upload(small_drive, start_ns=START_NS)
    first = place.ingest()
    before = {key: (place.folder / "lake" / key).stat().st_mtime_ns for key in place.objects()}
    second = place.ingest()
    assert second.outcome == "already"
    assert (second.frames, second.bytes, second.packs) == (first.frames, first.bytes, first.packs)
    assert {key: (place.folder / "lake" / key).stat().st_mtime_ns for key in place.objects()} == before


def test_other_bytes_under_the_same_name_are_a_conflict(
    place: Place, small_drive: dict[str, bytes], clip_bytes: Clips
) -> None:
    place.upload(small_drive, start_ns=START_NS)
    place.ingest()
    before = place.objects()
    place.upload({**small_drive, "CAM_LEFT.mp4": clip_bytes(camera=7)}, start_ns=START_NS)
    with pytest.raises(Conflict, match="d1"):
        place.ingest()
    assert place.objects() == before


def test_two_runs_of_other_drives_under_one_name_do_not_mix(
    place: Place, small_drive: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.upload(small_drive, start_ns=START_NS)
    real = landing.keep_raw

    def after_another(lake: Any, drive: landing.Drive, *args: Any) -> None:
        real(lake, dataclasses.replace(drive, fingerprint="0" * 64), *args)
        real(lake, drive, *args)

    monkeypatch.setattr(landing, "keep_raw", after_another)
    with pytest.raises(Conflict, match="d1"):
        place.ingest()
    assert catalog.drives_in(place.lake) == []
    assert not [key for key in place.objects() if key.startswith("packs/")]


def test_a_second_recipe_stands_beside_the_first(place: Place, small_drive: dict[str, bytes]) -> None:
    place.upload(small_drive, start_ns=START_NS)
    place.ingest()
    other = Recipe(outputs=(Output(name="720p", quality=50),))
    assert place.ingest(recipe=other).outcome == "ingested"
    assert len(catalog.drives_in(place.lake)) == 2
    raw = [key for key in place.objects() if key.startswith("raw/")]
    assert len(raw) == len(small_drive) + 1


def test_an_upload_that_has_not_ended_is_not_ready(place: Place, small_drive: dict[str, bytes]) -> None:
    place.upload(small_drive)
    stores.delete(place.landing, f"landing/car/d1/{landing.COMPLETE}")
    with pytest.raises(NotFound, match=r"COMPLETE\.json"):
        place.ingest()
    assert place.objects() == {}


class Killed(BaseException):
    """Stands for SIGKILL at a write."""


@pytest.mark.parametrize("survived", range(12))
def test_killed_at_any_write_and_run_again_gives_the_same_lake(
    tmp_path: Path, small_drive: dict[str, bytes], survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = new_place(tmp_path / "whole"), new_place(tmp_path / "broken")
    for place in (whole, broken):
        place.upload(small_drive, start_ns=START_NS)
    recipe = Recipe(tags=())
    whole.ingest(recipe=recipe)
    writes = 0
    with monkeypatch.context() as patch:
        for name in ("put", "put_if_absent", "put_file"):
            real = getattr(stores, name)

            def dying(store: Any, *args: Any, real: Any = real) -> Any:
                nonlocal writes
                writes += 1
                if writes > survived:
                    raise Killed
                return real(store, *args)

            patch.setattr(stores, name, dying)
        try:
            broken.ingest(recipe=recipe)
        except Killed:
            assert catalog.drives_in(broken.lake) == []
    # 4 files and COMPLETE.json, a pack, the recipe, two columns, a lease, the catalogue: what dies at the twelfth write does not die
    assert (writes > survived) == (survived < 11)
    assert broken.ingest(recipe=recipe).outcome == ("already" if survived >= 11 else "ingested")
    assert broken.objects() == whole.objects()


def test_plain_recordings_without_a_track(place: Place, clip_bytes: Clips) -> None:
    place.upload({"dash.MOV": clip_bytes(suffix=".mov"), "notes.txt": b"wet road", "empty.log": b""})
    report = place.ingest()
    assert report.outcome == "ingested"
    rows = place.rows().to_pylist()
    assert {(row["channel"], row["latitude"], row["speed_mps"]) for row in rows} == {("dash", None, None)}
    kept = {key.rsplit("/", 1)[1]: data for key, data in place.objects().items() if key.startswith("raw/")}
    assert kept["notes.txt"] == b"wet road" and kept["empty.log"] == b""


def test_recordings_of_one_channel_follow_each_other(place: Place, clip_bytes: Clips) -> None:
    second = START_NS + 2_000_000_000
    files = {"a/1.mp4": clip_bytes(), "a/2.mp4": clip_bytes(camera=1, start_ns=second)}
    place.upload(files, channels={"a/1.mp4": "CAM", "a/2.mp4": "CAM"})
    assert place.ingest().outcome == "ingested"
    assert place.shown("720p") == {"CAM": [(0, n) for n in (0, 5, 10, 15)] + [(1, n) for n in (0, 5, 10, 15)]}


def test_packs_are_split_at_their_size(
    place: Place, small_drive: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = packing.write_packs
    monkeypatch.setattr(
        "transforms.ingest.write_packs", lambda items, folder: real(items, folder, target=30_000)
    )
    place.upload(small_drive, start_ns=START_NS)
    report = place.ingest()
    assert report.packs > 2
    assert sum(len(shown) for shown in place.shown("720p").values()) == 12
    names = []
    for pack in dict.fromkeys(place.rows()["pack"].to_pylist()):
        assert stores.head(place.lake, packs.pack_key(pack)) is not None
        names += packs.read_members(place.lake, pack)["name"].to_pylist()
    assert names == place.rows()["path"].to_pylist()


def test_a_corrected_upload_leaves_quarantine(place: Place, small_drive: dict[str, bytes]) -> None:
    place.upload({**small_drive, "CAM_LEFT.mp4": b""}, start_ns=START_NS)
    assert place.ingest().outcome == "quarantined"
    assert quarantine.read(place.lake, "car", "d1") is not None
    place.upload(small_drive, start_ns=START_NS)
    assert place.ingest().outcome == "ingested"
    assert quarantine.read(place.lake, "car", "d1") is None


def test_a_store_that_fails_is_no_bad_drive(
    place: Place, small_drive: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.upload(small_drive, start_ns=START_NS)

    def down(*_: Any) -> None:
        raise StoreDown("read", "nobody answers", "start it")

    monkeypatch.setattr(landing, "fetch_file", down)
    with pytest.raises(StoreDown):
        place.ingest()
    assert place.objects() == {}


def test_a_full_scratch_folder_is_explained(
    place: Place, small_drive: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.upload(small_drive, start_ns=START_NS)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(landing, "fetch_file", full)
    with pytest.raises(TransformError, match=r"scratch.*No space left"):
        ingest_drive(place.landing, place.lake, "car", "d1", Recipe(), place.folder / "scratch")
    assert place.objects() == {}


def test_on_real_s3_the_lake_is_the_same(
    tmp_path: Path, small_drive: dict[str, bytes], make_store: Callable[..., Store]
) -> None:
    folder = new_place(tmp_path / "folder")
    s3 = Place(tmp_path / "s3", make_store("landing"), make_store("lake"))
    for place in (folder, s3):
        place.upload(small_drive, start_ns=START_NS)
        assert place.ingest().outcome == "ingested"
        assert place.ingest().outcome == "already"
    assert folder.objects() == s3.objects()
    assert folder.shown("720p") == s3.shown("720p")


def test_cuts_by_distance_events_and_of_all_frames_take_the_right_frames(
    place: Place, clip_bytes: Clips
) -> None:
    """20 frames at 10 Hz from START_NS; a car that drives 20 m/s, then stands."""
    fixes = ["timestamp_ns,latitude,longitude,speed_mps"]
    for tenth in range(21):
        metres = min(tenth, 10) * 2.0
        speed = 20.0 if tenth <= 10 else 0.0
        fixes.append(f"{START_NS + tenth * 10**8},{48 + metres / 111_195.08:.9f},11.5,{speed}")
    place.upload({"CAM.mp4": clip_bytes(), "GNSS.csv": "\n".join(fixes).encode()}, start_ns=START_NS)
    expected = {
        "all": list(range(20)),
        Distance(every_mm=5990): [0, 3, 6, 9],
        Events(at_ns=(START_NS + 730_000_000, START_NS + 10**12)): [7],
        Events(at_ns=(START_NS + 700_000_000,), before_ns=200_000_000, after_ns=99_999_999): [5, 6, 7],
    }
    for cut, numbers in expected.items():
        recipe = Recipe.model_validate({"cut": cut, "sample_tolerance_ns": 60_000_000})
        assert place.ingest(recipe=recipe).outcome == "ingested"
        shown = place.shown("720p", recipe=recipe_id(recipe))
        assert shown == {"CAM": [(0, number) for number in numbers]}


def test_a_cut_by_distance_of_a_drive_without_positions_is_explained(place: Place, clip_bytes: Clips) -> None:
    place.upload({"CAM.mp4": clip_bytes()}, start_ns=START_NS)
    with pytest.raises(TransformError, match="positions"):
        place.ingest(recipe=Recipe(cut=Distance(every_mm=1000)))
    assert place.objects() == {}


def test_a_channel_that_has_no_frame_in_a_sample_is_named(place: Place, clip_bytes: Clips) -> None:
    """The second camera began a second later."""
    files = {"CAM_A.mp4": clip_bytes(), "CAM_B.mp4": clip_bytes(camera=1, start_ns=START_NS + 10**9)}
    place.upload(files)
    assert place.ingest().outcome == "ingested"
    found = {(row["channel"], row["timestamp_ns"] - START_NS): row for row in place.rows().to_pylist()}
    second = 10**9
    missing = {key: row["missing"] for key, row in found.items()}
    assert missing == {
        **{("CAM_A", k * second // 2): "CAM_B" if k < 2 else "" for k in range(4)},
        **{("CAM_B", second + k * second // 2): "CAM_A" if k > 1 else "" for k in range(4)},
    }
    assert found["CAM_A", second]["sample_id"] == found["CAM_B", second]["sample_id"]
