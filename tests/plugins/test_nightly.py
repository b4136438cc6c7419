"""Nights on a real catalogue and a real landing: missed, repeated, late, backfilled, and across both changes of the clocks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pendulum
import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.timetables.base import DataInterval, TimeRestriction
from airflow.timetables.trigger import CronTriggerTimetable
from outlap_airflow import ingest, nightly, publish
from outlap_airflow.settings import airflow_settings

from lake import catalog, landing, nights, refs, stores
from lake.canonical import canonical_json
from lake.config import load_config
from lake.errors import Corrupt, NotFound, Refused
from lake.stores import landing_store

BERLIN = ZoneInfo("Europe/Berlin")
QUERY = "select * from frames where channel = 'CAM_FRONT'"


def ns(moment: datetime) -> int:
    return nightly.until_of(moment, moment)


class Lake:
    """Two folders as landing and lake, and nights run in them as the DAG does."""

    def __init__(self, folder: Path, idcs: Any, frames: Callable[..., None]) -> None:
        self.folder, self.store, self.frames = folder, idcs.a, frames

    def upload(self, drive: str, at: datetime, text: str = "") -> None:
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        (source / "CAM_FRONT.mp4").write_text(drive + text)
        landing.upload_drive(landing_store(load_config()), source, "car1", drive)
        where = self.folder / "landing-a" / "landing" / "car1" / drive / landing.COMPLETE
        os.utime(where, (at.timestamp(), at.timestamp()))

    def ingest(self, form: dict[str, Any]) -> list[str]:
        """What ingest_drives does, with drives that are what they should be."""
        fields = {"vehicle": None, "drive": None, "retry_quarantined": False, **form}
        found = ingest.find_drives(**fields)
        for pair in found["to_ingest"]:
            self.frames(self.store, pair["drive"], recipe=found["recipe"])
            drive = landing.read_drive(landing_store(load_config()), "car1", pair["drive"])
            kept = {"fingerprint": drive.fingerprint}
            stores.put(
                self.store, f"raw/car1/2026-01-02/{drive.drive}/{landing.COMPLETE}", canonical_json(kept)
            )
        return [pair["drive"] for pair in found["to_ingest"]]

    def night(self, moment: datetime, run: str = "scheduled") -> tuple[list[str], dict[str, Any] | None]:
        """(drives that were ingested, what was published); None: the night did nothing."""
        try:
            looked = nightly.look(nightly.until_of(moment, datetime.now(UTC)), "keyframes", None)
        except AirflowSkipException:
            return [], None
        drives = self.ingest(looked["ingest"])
        (wanted,) = nightly.publishes(looked, None)
        conf = wanted["conf"]
        done = publish.publish(
            conf["dataset"], conf["query"], None, "publish_dataset", wanted["trigger_run_id"], conf["night"]
        )
        return drives, done


@pytest.fixture
def lake(tmp_path: Path, idcs: Any, frames: Callable[..., None]) -> Lake:
    return Lake(tmp_path, idcs, frames)


def at(day: int, hour: int = 2) -> datetime:
    return datetime(2026, 6, day, hour, tzinfo=UTC)


def test_a_missed_night_is_caught_up_and_a_repeated_one_does_nothing(lake: Lake) -> None:
    lake.upload("d1", at(1, 1))
    drives, first = lake.night(at(1))
    assert first is not None and (drives, first["tag"], first["is_new"]) == (["d1"], "v1", True)
    before = {(info.key, info.etag) for info in stores.list_objects(lake.store, "")}
    again = lake.night(at(1))[1]
    assert again is not None and (again["version"], again["tag"], again["is_new"]) == (
        first["version"],
        "v1",
        False,
    )
    assert {(info.key, info.etag) for info in stores.list_objects(lake.store, "")} == before
    # the 2nd is missed; the 3rd takes what came on both days, and nothing that came after its own moment
    lake.upload("d2", at(1, 12))
    lake.upload("d3", at(2, 12))
    lake.upload("d4", at(3, 3))
    drives, third = lake.night(at(3))
    assert third is not None and (drives, third["tag"]) == (["d2", "d3"], "v2")
    # backfill of the missed night and of an old one: nothing, and `latest` stays
    assert lake.night(at(2)) == ([], None) == lake.night(at(1))
    assert refs.resolve(lake.store, "front").version == third["version"]
    drives, fourth = lake.night(at(4))
    assert fourth is not None and drives == ["d4"] and fourth["tag"] == "v3"
    drives, fifth = lake.night(at(5))
    assert fifth is not None and (drives, fifth["tag"], fifth["is_new"]) == ([], "v3", False)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_nights_that_run_side_by_side_lose_nothing_and_do_nothing_twice(
    lake: Lake, order: tuple[int, ...]
) -> None:
    """A backfill starts several nights at once: all have looked before the first one is fixed."""
    lake.upload("d1", at(1, 1))
    lake.upload("d2", at(1, 12))
    looks = {day: nightly.look(ns(at(day)), "keyframes", None) for day in order}
    ingested = [drive for day in order for drive in lake.ingest(looks[day]["ingest"])]
    assert sorted(ingested) == ["d1", "d2"]
    made = []
    for day in order:
        (wanted,) = nightly.publishes(looks[day], None)
        conf = wanted["conf"]
        run = wanted["trigger_run_id"]
        made.append(publish.publish("front", conf["query"], None, "publish_dataset", run, conf["night"]))
    assert {one["version"] for one in made} == {refs.resolve(lake.store, "front").version}
    assert [one["is_new"] for one in made] == [True, False] and made[0]["files"] == 12


def test_a_night_that_runs_late_or_again_gives_the_version_of_then(lake: Lake) -> None:
    lake.upload("d1", at(1, 1))
    lake.upload("late", at(1, 4))
    drives, first = lake.night(at(1))  # as if at 05:00
    assert first is not None and drives == ["d1"]
    # someone ingests by hand, and the night is run again before the next: the same version
    lake.frames(lake.store, "by-hand")
    _, again = lake.night(at(1))
    assert again is not None and again["version"] == first["version"]
    # and also when its first try died after fixing the night, before it published
    refs_there = [f"refs/front/{ref.tag}.json" for ref in refs.list_refs(lake.store, "front")]
    for key in refs_there:
        stores.delete(lake.store, key)
    _, anew = lake.night(at(1))
    assert anew is not None and anew["version"] == first["version"]
    # someone publishes the newer catalogue by hand: the night does not move `latest` back
    newer = publish.publish("front", QUERY, None, "publish_dataset", "by-hand")
    (wanted,) = nightly.publishes(nightly.look(ns(at(1)), "keyframes", None), None)
    kept = publish.publish("front", QUERY, None, "publish_dataset", "another run", wanted["conf"]["night"])
    assert kept["version"] == newer["version"] != first["version"]
    assert not publish.worth_announcing(kept, "new")
    assert refs.resolve(lake.store, "front").version == newer["version"]


def test_what_is_behind_the_watermark_is_not_read_again(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (1, 2, 3):
        lake.upload(f"d{day}", at(day, 0))
        lake.night(at(day))
    lake.upload("d4", at(4, 1))
    lake.upload("d1", at(4, 1), "corrected")
    read: list[str] = []
    real = landing.read_drive

    def noted(store: Any, vehicle: str, drive: str) -> Any:
        read.append(drive)
        return real(store, vehicle, drive)

    monkeypatch.setattr(landing, "read_drive", noted)
    looked = nightly.look(ns(at(4)), "keyframes", None)
    assert looked["since_ns"] == ns(at(3))
    form = {"vehicle": None, "drive": None, "retry_quarantined": False, **looked["ingest"]}
    found = ingest.find_drives(**form)
    assert {pair["drive"] for pair in found["to_ingest"]} == {"d4", "d1"}
    assert set(read) == {"d1"}, "only what was uploaded since, and a drive of that name is known"
    # a drive that an earlier night could not take (it failed, or was left over) is taken however old it is
    key = next(info.key for info in stores.list_objects(lake.store, catalog.PREFIX) if "d2-" in info.key)
    stores.delete(lake.store, key)
    assert "d2" in {pair["drive"] for pair in ingest.find_drives(**form)["to_ingest"]}


@pytest.mark.parametrize(("month", "day", "hours"), [(3, 29, 23), (10, 25, 25)])
@pytest.mark.parametrize("cron", ["0 2 * * *", "30 2 * * *", "0 0 * * *"])
def test_nights_meet_without_gap_or_overlap_when_the_clocks_change(
    lake: Lake, cron: str, month: int, day: int, hours: int
) -> None:
    """Airflow's own timetable across both changes of 2026 in Berlin; a drive every hour comes in exactly one night."""
    timetable = CronTriggerTimetable(cron, timezone="Europe/Berlin")
    start = pendulum.datetime(2026, month, day - 2, 12, tz="UTC")
    moments, last = [], None
    for _ in range(4):
        restriction = TimeRestriction(earliest=start, latest=None, catchup=True)
        info = timetable.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
        assert info is not None and info.data_interval is not None
        last = DataInterval(info.data_interval.start, info.data_interval.end)
        moments.append(info.data_interval.end)
    assert [moment.astimezone(BERLIN).day for moment in moments] == [day - 1, day, day + 1, day + 2]
    lengths = {round((two - one).total_seconds() / 3600, 2) for one, two in itertools.pairwise(moments)}
    assert sum((two - one).total_seconds() for one, two in itertools.pairwise(moments)) == (hours + 48) * 3600
    assert lengths <= {22.5, 23.0, 23.5, 24.0, 24.5, 25.0}
    uploaded = [moments[0] - timedelta(hours=1) + timedelta(hours=1) * number for number in range(hours + 50)]
    for number, moment in enumerate(uploaded):
        lake.upload(f"d{number:03d}", moment)
    seen: list[str] = []
    for moment in moments:
        looked = nightly.look(ns(moment), "keyframes", None)
        form = {"vehicle": None, "drive": None, "retry_quarantined": False, **looked["ingest"]}
        drives = [pair["drive"] for pair in ingest.find_drives(**form)["to_ingest"]]
        new = [drive for drive in drives if drive not in seen]
        assert new == [
            f"d{number:03d}"
            for number, when in enumerate(uploaded)
            if looked["since_ns"] < ns(when) <= looked["until_ns"]
        ]
        seen += new
        lake.frames(lake.store, f"marker-{looked['night'][:13].replace(':', '')}", 1)
        nights.fix(lake.store, looked["until_ns"], looked["since_ns"])
    assert len(seen) == len(set(seen)) == len([when for when in uploaded if when <= moments[-1]])
    assert nights.names(lake.store) == [nights.night_name(ns(moment)) for moment in moments]


def test_a_run_by_hand_stands_for_the_moment_it_was_asked_for() -> None:
    asked = datetime(2026, 6, 1, 15, 30, 1, 5, tzinfo=UTC)
    assert nightly.until_of(None, asked) == ns(asked)
    assert nights.night_name(ns(asked)) == "2026-06-01T15:30:01.000005Z"
    # the hour that Berlin has twice is two nights
    twice = [datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=fold) for fold in (0, 1)]
    assert len({nights.night_name(ns(moment)) for moment in twice}) == 2


def test_what_a_night_is_not(lake: Lake) -> None:
    looked = nightly.look(ns(at(1)), "keyframes", None)
    assert looked["since_ns"] == 0
    assert nightly.publishes(looked, None) == [], "an empty catalogue is nothing to publish, and no failure"
    with pytest.raises(AirflowFailException, match="front"):
        nightly.publishes(looked, "other")
    with pytest.raises(AirflowFailException, match="was not fixed"):
        publish.publish("front", QUERY, None, "d", "r", looked["night"])
    with pytest.raises(Refused, match="a night reads like"):
        nights.read(lake.store, "../x")
    with pytest.raises(NotFound, match="no frames"):
        nights.fix(lake.store, ns(at(1)), 0)
    for bad in (b"{}", b'{"until_ns": 1, "since_ns": 0, "snapshot": "00", "fixed_ns": 1}'):
        stores.put(lake.store, f"nights/{looked['night']}.json", bad)
        with pytest.raises(Corrupt):
            nights.read(lake.store, looked["night"])


def test_settings_of_the_night_are_checked(idcs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTLAP_AIRFLOW_NIGHTLY", "0 2 * * *")
    monkeypatch.setenv("OUTLAP_AIRFLOW_TIMEZONE", "Europe/Berlin")
    assert airflow_settings(load_config()).timezone == "Europe/Berlin"
    monkeypatch.setenv("OUTLAP_AIRFLOW_TIMEZONE", "Mars/Olympus")
    with pytest.raises(Refused, match="time zone"):
        airflow_settings(load_config())
    monkeypatch.setenv("OUTLAP_AIRFLOW_TIMEZONE", "UTC")
    for bad in ("every day", "0 25 * * *", "0 2 * * * *"):
        monkeypatch.setenv("OUTLAP_AIRFLOW_NIGHTLY", bad)
        with pytest.raises(Refused, match="cron"):
            airflow_settings(load_config())


@pytest.mark.fault("E5")
def test_a_dataset_without_rows_yet_is_skipped_and_the_others_are_published(
    lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    lake.upload("d1", at(1, 1))
    looked = nightly.look(ns(at(1)), "keyframes", None)
    lake.ingest(looked["ingest"])
    (wanted,) = nightly.publishes(looked, None)
    night = wanted["conf"]["night"]
    rain = "select * from frames where channel = 'CAM_REAR'"
    with pytest.raises(AirflowSkipException, match="rain is skipped: its query selects nothing of the night"):
        publish.publish("rain", rain, None, "publish_dataset", "nightly__rain", night)
    assert refs.list_datasets(lake.store) == []
    made = publish.publish("front", QUERY, None, "publish_dataset", "nightly__front", night)
    assert made["tag"] == "v1"
    # asked for by a person: an error that says what to do
    with pytest.raises(AirflowFailException, match="no file to publish"):
        publish.publish("rain", rain, None, "publish_dataset", "by-hand")


@pytest.mark.fault("E5")
def test_a_run_that_failed_is_not_started_again_by_the_night(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.exceptions import AirflowException
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
    from outlap_airflow.operators import RunDag

    def failed(self: Any, event_data: Any) -> None:
        raise AirflowException("publish_dataset failed with failed states")

    monkeypatch.setattr(TriggerDagRunOperator, "_trigger_dag_run_af_3_execute_complete", failed)
    step = RunDag(task_id="publish", trigger_dag_id="publish_dataset")
    with pytest.raises(AirflowFailException, match="tried again already"):
        step.execute_complete({}, ("trigger", {"run_ids": ["r"]}))


@pytest.mark.fault("E7")
def test_a_dismissed_drive_is_not_tried_again_until_its_upload_changes(lake: Lake) -> None:
    from lake import quarantine

    lake.upload("d1", at(1, 1))
    uploads = landing_store(load_config())
    fingerprint = landing.read_drive(uploads, "car1", "d1").fingerprint
    quarantine.add(
        lake.store, "car1", "d1", [quarantine.Finding("empty-file", "error", "x", "y")], fingerprint
    )
    quarantine.dismiss(lake.store, "car1", "d1", "somebody")
    form = {"vehicle": None, "drive": None, "retry_quarantined": False, "cut": "keyframes", "rate_hz": None}
    assert ingest.find_drives(**form)["to_ingest"] == []
    lake.upload("d1", at(1, 1), "corrected")
    assert [pair["drive"] for pair in ingest.find_drives(**form)["to_ingest"]] == ["d1"]


@pytest.mark.fault("C12")
def test_a_malformed_upload_that_was_refused_does_not_end_the_next_batch(lake: Lake) -> None:
    """Its COMPLETE.json cannot be read: it is compared by its bytes, and the other drives are found."""
    from lake import quarantine

    lake.upload("bad", at(1, 1))
    lake.upload("good", at(1, 1))
    uploads = landing_store(load_config())
    stores.put(uploads, f"landing/car1/bad/{landing.COMPLETE}", b"{")
    fingerprint = landing.malformed_fingerprint(uploads, "car1", "bad")
    quarantine.add(
        lake.store, "car1", "bad", [quarantine.Finding("bad-upload", "error", "x", "y")], fingerprint
    )
    form = {"vehicle": None, "drive": None, "retry_quarantined": False, "cut": "keyframes", "rate_hz": None}
    found = ingest.find_drives(**form)
    assert [pair["drive"] for pair in found["to_ingest"]] == ["good"]
    assert [pair["drive"] for pair in found["quarantined"]] == ["bad"]
    stores.put(lake.store, "quarantine/car1/bad.json", b"{")
    assert {pair["drive"] for pair in ingest.find_drives(**form)["to_ingest"]} == {"good", "bad"}
