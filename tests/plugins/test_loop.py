"""Mapping, publishing, syncing, ingest planning and training on two IDCs in folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from hypothesis import given
from hypothesis import strategies as st
from outlap_airflow import ingest, pools, publish, sync, training, warm
from outlap_airflow.assets import dataset_published, dataset_synced, parse_synced, published_key, synced_key
from outlap_airflow.faults import told
from outlap_airflow.mappers import FanOutIdc
from outlap_airflow.settings import DEFAULT_QUERY, airflow_settings
from outlap_airflow.train import digest_of, main, read_epoch

from lake import landing, quarantine, refs
from lake.config import load_config
from lake.errors import NotFound, Refused, StoreDown
from lake.quarantine import Finding
from lake.stores import landing_store
from lake.versions import is_available, rows

VERSION = "ab" * 32


class Events(dict[Any, Any]):
    """Outlet events as a task sees them."""

    def __missing__(self, asset: Any) -> SimpleNamespace:
        keys: list[str] = []
        self[asset] = SimpleNamespace(extra=None, keys=keys, add_partitions=keys.append)
        return self[asset]  # type: ignore[no-any-return]


def published(dataset: str = "front", run_id: str = "r1") -> dict[str, Any]:
    return publish.publish(dataset, DEFAULT_QUERY, None, "publish_dataset", run_id)


# --- mapper


def test_a_version_fans_out_to_the_other_idcs(idcs: Any) -> None:
    assert FanOutIdc().to_downstream(f"front@{VERSION}") == [f"front@{VERSION}|idc-b"]


def test_the_mapper_survives_serialization(idcs: Any) -> None:
    for mapper in (FanOutIdc(), FanOutIdc(["x", "y"]), FanOutIdc(max_downstream_keys=3)):
        again = FanOutIdc.deserialize(json.loads(json.dumps(mapper.serialize())))
        assert (again.idcs, again.max_downstream_keys) == (mapper.idcs, mapper.max_downstream_keys)
    assert FanOutIdc(["x", "y"]).to_downstream(f"d@{VERSION}") == [f"d@{VERSION}|x", f"d@{VERSION}|y"]


@pytest.mark.parametrize("key", ["", "front", "front@12", f"a@b@{VERSION}", f"a@{VERSION}|idc"])
def test_a_key_that_is_no_version_is_refused(key: str) -> None:
    with pytest.raises(Refused):
        FanOutIdc(["x"]).to_downstream(key)


@given(
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,99}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    st.from_regex(r"[a-z0-9-]{1,20}", fullmatch=True),
)
def test_keys_come_apart_again_and_fit_airflow(dataset: str, version: str, idc: str) -> None:
    key = synced_key(published_key(dataset, version), idc)
    assert parse_synced(key) == (dataset, version, idc)
    assert len(key) <= 250


def test_destinations_and_pools_follow_the_settings(idcs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(pools.pools(load_config())) == ["training", "sync_idc-a_idc-b"]
    file = pools.write_pools_file(load_config(), idcs.home / "pools.json")
    assert json.loads(file.read_text())["sync_idc-a_idc-b"]["slots"] == 2
    monkeypatch.setenv("OUTLAP_AIRFLOW_DESTINATIONS", '["idc-a", "idc-b"]')
    monkeypatch.setenv("OUTLAP_AIRFLOW_LINK_SLOTS", "7")
    assert pools.pools(load_config())["sync_idc-a_idc-a"]["slots"] == 7
    monkeypatch.setenv("OUTLAP_AIRFLOW_DESTINATIONS", '["idc-x"]')
    with pytest.raises(NotFound, match="idc-x"):
        FanOutIdc().to_downstream(f"front@{VERSION}")
    monkeypatch.setenv("OUTLAP_AIRFLOW_DESTINATIONS", "idc-b")
    with pytest.raises(Refused, match="not JSON"):
        airflow_settings(load_config())


# --- publish and sync


def test_publishing_again_is_the_same_version_and_only_news_is_announced(
    idcs: Any, frames: Callable[..., None]
) -> None:
    frames(idcs.a, "d1")
    first, retried, other = published(), published(), published(run_id="r2")
    assert first["version"] == retried["version"] == other["version"]
    assert (first["is_new"], retried["is_new"], other["is_new"]) == (True, False, False)
    # a retry of the run that made it must still announce it, another run need not
    assert publish.worth_announcing(retried, "new")
    assert not publish.worth_announcing(other, "new")
    assert publish.worth_announcing(other, "always")
    assert len(refs.list_refs(idcs.a, "front")) == 2  # v1 and latest
    # a cleared run gives its own version, even when the catalogue has grown; a new run sees the new drive
    frames(idcs.a, "d2")
    assert published()["version"] == first["version"]
    grown = published(run_id="r3")
    assert (grown["version"] != first["version"], grown["tag"], published()["tag"]) == (True, "v2", "v1")
    events = Events()
    assert publish.announce(first, events) == f"front@{first['version']}"
    assert events[dataset_published].keys == [f"front@{first['version']}"]
    assert events[dataset_published].extra["files"] == 6


def test_a_bad_query_fails_without_a_retry(idcs: Any, frames: Callable[..., None]) -> None:
    frames(idcs.a, "d1")
    with pytest.raises(AirflowFailException):
        publish.publish("front", "drop table frames", None, "d", "r")
    with pytest.raises(AirflowFailException, match="small letters"):
        publish.publish("Bad/Name", DEFAULT_QUERY, None, "d", "r")
    assert refs.list_datasets(idcs.a) == []
    assert list((idcs.home / "scratch").iterdir()) == []


def test_sync_follows_the_event_and_can_run_twice(idcs: Any, frames: Callable[..., None]) -> None:
    frames(idcs.a, "d1")
    version = published()["version"]
    key = FanOutIdc().to_downstream(published_key("front", version))[0]
    asked = sync.what_to_sync(key, {"dataset": None, "ref": "latest", "idc": None})
    assert asked == {"dataset": "front", "ref": version, "idcs": ["idc-b"]}
    first = sync.sync_to(asked["dataset"], asked["ref"], "idc-b")
    again = sync.sync_to(asked["dataset"], asked["ref"], "idc-b")
    assert is_available(idcs.b, version)
    assert (first["packs_copied"], again["packs_copied"], again["bytes_copied"]) == (1, 0, 0)
    events = Events()
    assert sync.announce_synced(again, "idc-b", events) == key
    assert events[dataset_synced].extra["tag"] == "v1"
    assert warm.requests("warm", key, {"nodes": None}) == [
        {"idc": "idc-b", "dataset": "front", "ref": version, "nodes": "all"}
    ]


def test_the_forms_of_sync_and_warm(idcs: Any) -> None:
    form = {"dataset": "front", "ref": "v1", "idc": None, "nodes": "role=gpu", "files": ["a"], "pin": True}
    assert sync.what_to_sync(None, form)["idcs"] == ["idc-b"]
    assert warm.requests("warm", None, form) == [
        {"idc": "idc-b", "dataset": "front", "ref": "v1", "nodes": "role=gpu", "files": ["a"], "pin": True}
    ]
    assert "pin" not in warm.requests("free", None, form)[0]
    for bad in ({"idc": "idc-x"}, {"dataset": None}):
        with pytest.raises(AirflowFailException, match="Next:"):
            sync.what_to_sync(None, {**form, **bad})
        with pytest.raises(AirflowFailException, match="Next:"):
            warm.requests("warm", None, {**form, **bad})
    with pytest.raises(AirflowFailException, match="no control service"):
        warm.requests("warm", None, {**form, "idc": "idc-a"})
    with pytest.raises(AirflowSkipException):
        warm.requests("warm", f"front@{VERSION}|idc-a", {"nodes": None})


def test_objects_that_cannot_be_copied_are_listed_and_tried_again(
    idcs: Any, frames: Callable[..., None], tmp_path: Path
) -> None:
    frames(idcs.a, "d1")
    version = published()["version"]
    pack = next((tmp_path / "lake-a" / "packs").rglob("*.tar"))
    right = pack.read_bytes()
    pack.write_bytes(b"x" * len(right))
    with pytest.raises(AirflowException, match="could not be copied"):
        sync.sync_to("front", version, "idc-b")
    assert not is_available(idcs.b, version)
    pack.write_bytes(right)
    assert sync.sync_to("front", version, "idc-b")["packs_copied"] == 1
    assert is_available(idcs.b, version)


def test_only_what_may_pass_is_tried_again() -> None:
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(AirflowException) as passing:
        told()(fail)(StoreDown("the store", "it sleeps", "wake it"))
    assert not isinstance(passing.value, AirflowFailException)
    assert "it sleeps. Next: wake it" in str(passing.value)
    with pytest.raises(AirflowFailException):
        told()(fail)(NotFound("the drive"))
    with pytest.raises(AirflowException) as chosen:
        told(NotFound)(fail)(NotFound("the drive"))
    assert not isinstance(chosen.value, AirflowFailException)


# --- ingest and nightly


def upload(folder: Path, drive: str, text: str = "not a video", complete: bool = True) -> landing.Drive:
    source = folder / f"{drive}-{text}"
    source.mkdir(exist_ok=True)
    (source / "CAM_FRONT.mp4").write_text(text)
    store = landing_store(load_config())
    made = landing.upload_drive(store, source, "car1", drive)
    if not complete:
        (folder / "landing-a" / "landing" / "car1" / drive / landing.COMPLETE).unlink()
    return made


def found(**fields: Any) -> dict[str, Any]:
    form = {
        "vehicle": None,
        "drive": None,
        "cut": "keyframes",
        "rate_hz": None,
        "retry_quarantined": False,
        **fields,
    }
    return ingest.find_drives(**form)


def names(pairs: list[dict[str, str]]) -> list[str]:
    return [pair["drive"] for pair in pairs]


def test_drives_are_sorted_by_what_is_to_do(idcs: Any, tmp_path: Path) -> None:
    upload(tmp_path, "new")
    upload(tmp_path, "half", complete=False)
    refused = upload(tmp_path, "refused")
    quarantine.add(
        idcs.a,
        "car1",
        "refused",
        [Finding("mp4.open", "error", "CAM_FRONT.mp4", "no moov")],
        refused.fingerprint,
    )
    seen = found()
    assert names(seen["to_ingest"]) == ["new"]
    assert names(seen["not_ready"]) == ["half"]
    assert names(seen["quarantined"]) == ["refused"]
    assert names(found(retry_quarantined=True)["to_ingest"]) == ["new", "refused"]
    # a corrected upload under the same name is looked at again
    upload(tmp_path, "refused", "other")
    assert names(found(drive="refused")["to_ingest"]) == ["refused"]
    assert found(vehicle="car2")["to_ingest"] == []
    with pytest.raises(AirflowFailException, match="no such upload"):
        found(drive="nosuch")
    with pytest.raises(AirflowFailException, match="rate_hz"):
        found(cut="rate")


def test_a_run_takes_a_bounded_number_and_says_what_is_left(
    idcs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ingest.MOST_DRIVES == 200
    monkeypatch.setattr(ingest, "MOST_DRIVES", 2)
    for at in range(3):
        upload(tmp_path, f"d{at}")
    seen = found()
    assert (names(seen["to_ingest"]), names(seen["left"])) == (["d0", "d1"], ["d2"])


def test_a_bad_drive_is_quarantined_and_reported_without_stopping_the_batch(
    idcs: Any, tmp_path: Path
) -> None:
    upload(tmp_path, "bad")
    seen = found()
    report = json.loads(json.dumps(ingest.ingest_one(seen["to_ingest"][0], "keyframes", None)))
    assert report["outcome"] == "quarantined"
    assert report["findings"][0]["rule"]
    summary = ingest.report_batch(seen, [report])
    assert names(summary["quarantined"]) == ["bad"]
    assert (summary["ingested"], summary["failed"]) == (0, [])
    assert names(found()["quarantined"]) == ["bad"]
    with pytest.raises(AirflowFailException, match="car1/bad"):
        ingest.report_batch(seen, [])


# --- training


def test_an_epoch_reads_what_was_published_and_any_other_byte_shows(
    idcs: Any, frames: Callable[..., None], tmp_path: Path
) -> None:
    frames(idcs.a, "d1")
    version = published()["version"]
    sync.sync_to("front", version, "idc-b")
    mount = tmp_path / "mount"
    for part in rows(idcs.b, version):
        for path in part["path"].to_pylist():
            (mount / path).parent.mkdir(parents=True, exist_ok=True)
            (mount / path).write_bytes(f"{path} bytes".encode() * 50)
    planned = {"dataset": "front", "tag": "v1", "version": version, "idc": "idc-b"}
    command = "python -m outlap_airflow.train {mount} --readers 2"
    result = training.train(planned, {"target": str(mount)}, command)
    assert (result["frames"], result["verified"]) == (6, True)
    assert result["frames_per_s"] > 0
    next(mount.rglob("*.jpg")).write_bytes(b"wrong")
    with pytest.raises(AirflowFailException, match="not what was published"):
        training.train(planned, {"target": str(mount)}, command)


def test_an_epoch_tells_frames_bytes_and_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "b").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1" * 10)
    one, two = read_epoch(tmp_path, seed=1), read_epoch(tmp_path, readers=1, seed=2)
    assert (one["frames"], one["bytes"], one["digest"]) == (2, 11, two["digest"])
    assert one["digest"] != digest_of([])
    assert main([str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 2
    assert main([str(tmp_path / "nosuch")]) == 1
    assert "Next:" in capsys.readouterr().err


def test_a_command_is_no_shell_line_and_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "secret")
    monkeypatch.setenv("OUTLAP_TOKEN", "secret")
    assert training.command_line("run '{mount}/a b' ; rm", "/m") == ["run", "/m/a b", ";", "rm"]
    for bad in ("", "'open"):
        with pytest.raises(Refused):
            training.command_line(bad, "/m")
    environment = training.clean_environment({"dataset": "d", "version": "v"}, "/m")
    assert environment["OUTLAP_MOUNT"] == "/m"
    assert "secret" not in environment.values()
    code = "import os,json; print('{'); print(json.dumps(dict(os.environ)))"
    assert training.run_command(["python", "-c", code], environment)["OUTLAP_DATASET"] == "d"  # type: ignore[index]
    with pytest.raises(AirflowException, match="exit code 3"):
        training.run_command([sys.executable, "-c", "raise SystemExit(3)"], environment)
    with pytest.raises(AirflowFailException, match="no-such-program"):
        training.run_command(["no-such-program"], environment)
