"""The main job, as a user runs it: `outlap demo` in a home of its own, with real Airflow, stores, nodes and mounts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from lake import catalog, landing, quarantine, refs, stores, versions
from lake.config import load_config
from outlap import airflow_api as api
from outlap.stack import secrets
from outlap.stack.layout import Layout
from outlap.synthetic import make_drive, read_frame_number

SETTINGS = """
[[airflow.datasets]]
name = "nightly-front"
query = "select * from frames where output = '720p' and channel = 'CAM_FRONT' and vehicle = 'demo-car'"
"""
OUTLAP = str(Path(sys.executable).parent / "outlap")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("loop")
    (folder / "outlap.toml").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTLAP_HOME", str(folder))
        for name in ("OUTLAP_IDC", "OUTLAP_CONFIG"):
            patch.delenv(name, raising=False)
        yield folder
        subprocess.run([OUTLAP, "down"], check=True, capture_output=True, timeout=120)
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(folder) not in mounts, "a mount is left behind"
    left = [pid for pid in _running() if str(folder) in _command(pid)]
    assert left == [], f"processes are left behind: {[_command(pid) for pid in left]}"


def _running() -> list[str]:
    return [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def demo(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [OUTLAP, "demo", "--json", *arguments], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def first(home: Path) -> dict[str, Any]:
    return demo()


def files_of(version: str, idc: str = "idc-b") -> list[dict[str, Any]]:
    store = stores.lake_store(load_config(), idc)
    return [row for part in versions.rows(store, version) for row in part.to_pylist()]


@pytest.mark.timeout(600)
def test_every_published_frame_is_the_one_that_was_to_be_cut(first: dict[str, Any]) -> None:
    rows = files_of(first["publish"]["version"])
    mount = Path(first["read"]["nodes"][0]["target"])
    assert len(rows) == first["publish"]["files"] == 9
    seen = set()
    for row in rows:
        camera, frame = read_frame_number((mount / row["path"]).read_bytes())
        assert camera == ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT").index(row["channel"])
        assert frame == row["frame_index"] and frame % 10 == 0
        assert (row["width"], row["height"]) == (1280, 720)
        seen.add((camera, frame))
    assert seen == {(camera, frame) for camera in range(3) for frame in (0, 10, 20)}
    assert first["ingest"]["frames_4k"] == 9
    assert first["warm"]["files"] == first["warm"]["files_total"] == 9
    assert first["read"]["hit_rate"] == 1.0


@pytest.mark.timeout(600)
def test_again_it_does_nothing_twice(first: dict[str, Any]) -> None:
    config = load_config()

    def objects() -> set[tuple[str, str | None]]:
        return {
            (idc + info.key, info.etag)
            for idc in ("idc-a", "idc-b")
            for info in stores.list_objects(stores.lake_store(config, idc), "")
        }

    before = objects()
    again = demo()
    assert again["publish"]["version"] == first["publish"]["version"] and not again["publish"]["is_new"]
    assert (again["ingest"]["ingested"], again["sync"]["packs_copied"], again["store_bytes"]) == (0, 0, 0)
    assert objects() == before


@pytest.mark.timeout(600)
def test_real_recordings_go_the_same_way_and_bad_ones_are_set_aside(
    first: dict[str, Any], recordings: Path, tmp_path: Path
) -> None:
    (tmp_path / "zero.mp4").touch()
    real = [str(recordings / name) for name in ("solidWhiteRight.mp4", "portrait_4k60.mp4")]
    summary = demo("--input", *real, str(tmp_path / "zero.mp4"))
    assert summary["ingest"]["ingested"] == 2 and len(summary["ingest"]["quarantined"]) == 1
    assert summary["read"]["equal"] and summary["read"]["files"] == 2 * summary["publish"]["files"] > 0
    entries = quarantine.entries(stores.lake_store(load_config(), "idc-a"))
    assert [entry.findings[0].rule for entry in entries] == ["empty-file"]


@pytest.fixture
def airflow(first: dict[str, Any], home: Path) -> Iterator[api.Airflow]:
    layout = Layout(home)
    page = first["airflow"]["page"]
    with api.open_airflow(page, secrets.AIRFLOW_USER, secrets.airflow_password(layout)) as session:
        yield session


@pytest.mark.timeout(600)
def test_the_nightly_run_does_what_is_new(airflow: api.Airflow, tmp_path: Path) -> None:
    config = load_config()
    here, there = stores.lake_store(config, "idc-a"), stores.lake_store(config, "idc-b")

    def night() -> api.Run:
        return api.follow(airflow, api.trigger(airflow, "nightly_incremental", {}), print)

    night()
    one = refs.resolve(here, "nightly-front")
    key = f"nightly-front@{one.version}|idc-b"
    # in the hours after midnight Airflow has begun the night by itself, and ours found nothing new
    api.follow(airflow, api.new_run(airflow, "warm_dataset", set(), key, print), print)
    drives = len(catalog.drives_in(here))
    make_drive(
        tmp_path / "new",
        drive="demo-drive-2",
        cameras=("CAM_FRONT",),
        width=1280,
        height=720,
        seconds=1,
        seed=2,
    )
    landing.upload_drive(stores.landing_store(config, "idc-a"), tmp_path / "new", "demo-car", "demo-drive-2")
    known = {run.id for run in api.runs(airflow, "warm_dataset")}
    night()
    assert len(catalog.drives_in(here)) == drives + 1
    two = refs.resolve(here, "nightly-front")
    key = f"nightly-front@{two.version}|idc-b"
    warm = api.follow(airflow, api.new_run(airflow, "warm_dataset", known, key, print), print)
    assert refs.resolve(there, "nightly-front").version == two.version
    old, new = ({row["path"] for row in files_of(ref.version)} for ref in (one, two))
    assert old < new and all("demo-drive-2" in path for path in new - old)
    report = api.result(airflow, warm, "warm", map_index=0)
    assert report["files_done"] == report["files_total"] == len(new)
    published = {run.id for run in api.runs(airflow, "publish_dataset")}
    night()
    assert refs.resolve(here, "nightly-front").version == two.version
    assert {run.id for run in api.runs(airflow, "warm_dataset")} == known | {warm.id}, (
        "nothing new was warmed again"
    )
    assert len({run.id for run in api.runs(airflow, "publish_dataset")} - published) == 1


@pytest.mark.timeout(600)
def test_the_publish_api_and_a_cleared_run_take_the_same_path(
    airflow: api.Airflow, first: dict[str, Any]
) -> None:
    page, query = (
        first["airflow"]["page"],
        "select * from frames where output = '720p' and vehicle = 'demo-car'",
    )
    body = {"dataset": "by-api", "query": query}
    assert httpx.post(f"{page}/outlap/api/v1/publish", json=body).status_code == 401
    answer = airflow.client.post("/outlap/api/v1/publish", json=body)
    assert answer.status_code == 202, answer.text
    run = next(run for run in api.runs(airflow, "publish_dataset") if run.id == answer.json()["run_id"])
    api.follow(airflow, run, print)
    store = stores.lake_store(load_config(), "idc-a")
    version = refs.resolve(store, "by-api").version
    before = {(info.key, info.etag) for info in stores.list_objects(store, "")}
    path = f"/dags/publish_dataset/dagRuns/{run.id}/clear"
    api.ask(airflow, "POST", path, {"dry_run": False, "only_failed": False})
    api.follow(airflow, run, print)
    assert api.result(airflow, run, "publish")["version"] == version
    assert {(info.key, info.etag) for info in stores.list_objects(store, "")} == before


@pytest.mark.timeout(300)
def test_nothing_of_ours_can_stop_a_reader_of_warm_files(first: dict[str, Any], home: Path) -> None:
    """Last: every process of the stack but its supervisor is killed while all files are read over and over."""
    rows = files_of(first["publish"]["version"])
    mount = Path(first["read"]["nodes"][0]["target"])
    wanted = {row["path"]: row["content_id"] for row in rows}
    from blake3 import blake3

    status = json.loads(subprocess.run([OUTLAP, "status", "--json"], capture_output=True, check=False).stdout)
    pids = [one["pid"] for one in status["processes"] if one["name"].startswith(("node", "control", "store"))]
    ended, epochs = Event(), 0

    def read() -> int:
        nonlocal epochs
        while True:
            last = ended.is_set()
            for path, content_id in wanted.items():
                assert blake3((mount / path).read_bytes()).hexdigest() == content_id
            epochs += 1
            if last:
                return epochs

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        Path("/proc/sys/vm/drop_caches").write_text("3")
        ended.set()
        assert reading.result(60) > 0
    assert len(pids) == 6
