"""Drives dealt out to tasks: the lake is the same, whoever cuts, and however often they are killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lake import catalog, landing, quarantine, stores
from lake.errors import StoreDown
from tests.transforms.conftest import Place, new_place
from transforms import cutting, shards, work
from transforms.errors import TransformError
from transforms.recipe import Distance, Output, Recipe
from transforms.shards import Plan, Shard, ShardReport, plan_shards, run_shard

Clips = Callable[..., bytes]
START_NS = 1_780_300_800_000_000_000
RECIPE = Recipe(outputs=(Output(name="720p"), Output(name="tiny", lines=90)))


@pytest.fixture
def files(clip_bytes: Clips) -> dict[str, bytes]:
    return {
        **{f"CAM_{camera}.mp4": clip_bytes(camera=camera) for camera in range(3)},
        "GNSS.csv": f"timestamp_ns,latitude,longitude\n{START_NS},48,11\n".encode(),
    }


def run(place: Place, shard: Shard) -> ShardReport:
    return run_shard(place.landing, place.lake, shard, RECIPE, place.folder / "scratch")


def run_all(place: Place, plan: Plan) -> None:
    for shard in plan.shards:
        run(place, shard)
    for _, drive in plan.split:
        assert place.ingest(drive, RECIPE, keep=True).outcome == "ingested"


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The channels that were decoded, as they are."""
    done: list[str] = []
    real = cutting.cut_channel

    def counting(workshop: Any, channel: Any, *args: Any) -> Any:
        done.append(channel.source.path.parent.name)
        return real(workshop, channel, *args)

    monkeypatch.setattr(cutting, "cut_channel", counting)
    return done


def test_a_drive_in_shards_gives_the_lake_of_one_task(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, dealt = new_place(tmp_path / "one"), new_place(tmp_path / "dealt")
    for place in (one, dealt):
        place.upload(files, start_ns=START_NS)
    one.ingest(recipe=RECIPE)
    size = len(files["CAM_0.mp4"])
    plan = plan_shards(dealt.landing, [("car", "d1")], RECIPE, shard_bytes=2 * size + 1000)
    assert [shard.clips for shard in plan.shards] == [(("CAM_0.mp4",), ("CAM_1.mp4",)), (("CAM_2.mp4",),)]
    assert plan.split == (("car", "d1"),)
    cuts = counted(monkeypatch)
    for shard in reversed(plan.shards):
        assert run(dealt, shard) == ShardReport(shard.id, cut=len(shard.clips))
        assert run(dealt, shard) == ShardReport(shard.id, kept=len(shard.clips))
    assert len(cuts) == 3
    assert dealt.ingest(recipe=RECIPE, keep=True).outcome == "ingested"
    assert len(cuts) == 3, "what shards had cut was cut again"
    assert dealt.objects() == one.objects()


def test_small_drives_share_a_task(place: Place, files: dict[str, bytes]) -> None:
    for number in range(3):
        place.upload(files, drive=f"d{number}", start_ns=START_NS)
    pairs = [("car", f"d{number}") for number in range(3)]
    size = sum(map(len, files.values()))
    plan = plan_shards(place.landing, pairs, RECIPE, shard_bytes=2 * size)
    assert [shard.drives for shard in plan.shards] == [(("car", "d0"), ("car", "d1")), (("car", "d2"),)]
    assert plan.split == ()
    assert plan == plan_shards(place.landing, reversed(pairs), RECIPE, shard_bytes=2 * size)
    assert plan != plan_shards(place.landing, pairs, Recipe(), shard_bytes=2 * size)
    report = run(place, plan.shards[0])
    assert [item.outcome for item in report.reports] == ["ingested", "ingested"]
    assert [item.outcome for item in run(place, plan.shards[0]).reports] == ["already", "already"]
    assert not place.objects(but=("packs/", "raw/", "catalog/"))


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("survived", range(0, 16, 2))
def test_shards_killed_at_any_write_go_on_where_they_were(
    tmp_path: Path, files: dict[str, bytes], survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, broken = new_place(tmp_path / "one"), new_place(tmp_path / "broken")
    for place in (one, broken):
        place.upload(files, start_ns=START_NS)
    one.ingest(recipe=RECIPE)
    plan = plan_shards(broken.landing, [("car", "d1")], RECIPE, shard_bytes=1)
    assert len(plan.shards) == 3
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
        with pytest.raises(Killed):
            run_all(broken, plan)
    cuts = counted(monkeypatch)
    run_all(broken, plan)
    # begin, save, done: three writes for each clip
    assert len(cuts) == 3 - min(3, (survived + 1) // 3)
    assert broken.objects() == one.objects()


def test_a_clip_that_kills_its_task_is_set_aside_and_the_others_go_on(
    place: Place, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.upload(files, start_ns=START_NS)
    plan = plan_shards(
        place.landing, [("car", "d1")], RECIPE, shard_bytes=sum(map(len, files.values())) - 100
    )
    shard = plan.shards[0]
    real = cutting.cut_channel

    def poison(workshop: Any, channel: Any, *args: Any) -> Any:
        if channel.source.name == "CAM_0.mp4":
            raise Killed
        return real(workshop, channel, *args)

    with monkeypatch.context() as patch:
        patch.setattr(cutting, "cut_channel", poison)
        for _ in range(work.MOST_TRIES):
            with pytest.raises(Killed):
                run(place, shard)
        assert run(place, shard).cut >= 1
    report = place.ingest(recipe=RECIPE, keep=True)
    assert report.outcome == "quarantined"
    (finding,) = [finding for finding in report.findings if finding.severity == "error"]
    assert finding.file == "CAM_0.mp4" and "3 tries" in finding.evidence
    # a retry of the quarantine counts anew, and now it is well
    assert place.ingest(recipe=RECIPE, keep=True).outcome == "ingested"
    assert quarantine.entries(place.lake) == []


def test_a_drive_that_fails_does_not_stop_the_others_and_is_given_up(
    place: Place, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "good"):
        place.upload(files, drive=name, start_ns=START_NS)
    (shard,) = plan_shards(place.landing, [("car", "bad"), ("car", "good")], RECIPE).shards
    real = shards.ingest_drive

    def poison(uploads: Any, lake: Any, vehicle: str, drive: str, *args: Any) -> Any:
        if drive == "bad":
            raise ValueError("a parser that met what it does not know")
        return real(uploads, lake, vehicle, drive, *args)

    monkeypatch.setattr(shards, "ingest_drive", poison)
    for _ in range(work.MOST_TRIES):
        with pytest.raises(TransformError, match="car/bad"):
            run(place, shard)
        assert [cut.drive for cut in catalog.drives_in(place.lake)] == ["good"]
    report = run(place, shard)
    assert [(item.drive, item.outcome) for item in report.reports] == [
        ("bad", "quarantined"),
        ("good", "already"),
    ]
    (entry,) = quarantine.entries(place.lake)
    assert entry.drive == "bad" and "met what it does not know" in entry.findings[0].evidence


def test_a_clip_that_does_not_decode_is_tried_once(
    place: Place, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = bytearray(files["CAM_1.mp4"])
    middle = bad.index(b"mdat") + 4
    bad[middle + 200 : middle + 6000] = bytes(5800)
    place.upload({**files, "CAM_1.mp4": bytes(bad)}, start_ns=START_NS)
    plan = plan_shards(place.landing, [("car", "d1")], RECIPE, shard_bytes=1)
    for shard in plan.shards:
        run(place, shard)
    cuts = counted(monkeypatch)
    report = place.ingest(recipe=RECIPE, keep=True)
    assert report.outcome == "quarantined" and cuts == []


def test_a_damaged_cut_is_not_believed(place: Place, files: dict[str, bytes]) -> None:
    place.upload(files, start_ns=START_NS)
    plan = plan_shards(place.landing, [("car", "d1")], RECIPE, shard_bytes=1)
    for shard in plan.shards:
        run(place, shard)
    kept = [key for key in place.objects() if key.startswith("work/") and key.endswith(".tar")]
    assert len(kept) == 3
    data = bytearray(stores.get(place.lake, kept[0]))
    data[5000] ^= 0xFF
    stores.put(place.lake, kept[0], bytes(data))
    stores.put(place.lake, kept[1], b"cut off")
    assert place.ingest(recipe=RECIPE, keep=True).outcome == "ingested"
    assert {len(numbers) for numbers in place.shown("720p").values()} == {4}


def test_a_store_that_is_down_is_no_try(
    place: Place, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.upload(files, start_ns=START_NS)
    plan = plan_shards(place.landing, [("car", "d1")], RECIPE, shard_bytes=1)

    def down(*_: Any) -> None:
        raise StoreDown("read", "nobody answers", "start it")

    with monkeypatch.context() as patch:
        patch.setattr(landing, "fetch_file", down)
        for _ in range(work.MOST_TRIES + 1):
            with pytest.raises(StoreDown):
                run(place, plan.shards[0])
    run_all(place, plan)


def test_cuts_that_need_the_whole_drive_are_not_dealt_out(place: Place, files: dict[str, bytes]) -> None:
    place.upload(files, start_ns=START_NS)
    plan = plan_shards(place.landing, [("car", "d1")], Recipe(cut=Distance(every_mm=1000)), shard_bytes=1)
    assert plan.split == () and [shard.clips for shard in plan.shards] == [()]


def test_files_that_belong_together_are_one_clip() -> None:
    names = ["bag/bag_0.mcap", "CAM/1.jpg", "bag/bag_1.mcap", "CAM/2.jpg", "a.mp4", "b.mp4", "GNSS.csv"]
    drive = landing.Drive(
        "car", "d", None, tuple(landing.LandedFile(n, 1, "", None, None) for n in names), "f"
    )
    assert [[file.path for file in clip] for clip in shards.clips_of(drive)] == [
        ["bag/bag_0.mcap", "bag/bag_1.mcap"],
        ["CAM/1.jpg", "CAM/2.jpg"],
        ["a.mp4"],
        ["b.mp4"],
    ]


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 60))
def test_shards_hold_all_and_no_more_than_they_may(sizes: list[int], most: int) -> None:
    dealt = shards._dealt(sizes, most)
    assert [number for numbers in dealt for number in numbers] == list(range(len(sizes)))
    for numbers in dealt:
        assert len(numbers) == 1 or sum(sizes[number] for number in numbers) <= most
