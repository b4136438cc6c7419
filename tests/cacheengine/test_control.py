"""The control service over real HTTP, with a real lake; nodes are played by their heartbeats."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cacheengine.client import Control
from cacheengine.errors import ControlDown, Unauthorised
from cacheengine.wire import (
    Failure,
    FreeRequest,
    Heartbeat,
    MountReport,
    PinRequest,
    TokenRequest,
    WarmRequest,
)
from lake import refs
from lake.errors import Conflict, NotFound, Refused, StoreDown
from lake.publish import Published
from lake.stores import Store
from tests.cacheengine.played import (
    FILES,
    TOTAL,
    Serve,
    Served,
    beat,
    control,
    lake,
    publish_files,
    published,
    report,
    serve,
    wait_for,
)

__all__ = ["Served", "control", "lake", "published", "serve"]


def test_a_warm_is_done_only_when_both_nodes_hold_all(control: Control, published: Published) -> None:
    seen = {node: beat(control, node) for node in ("b1", "b2")}
    before = control.estimate(WarmRequest(dataset="city"))
    assert (before.files, before.bytes) == (12, TOTAL) and before.seconds == TOTAL / 1e6
    assert [(n.node, n.files_missing, n.fits) for n in before.nodes] == [("b1", 12, True), ("b2", 12, True)]
    job = control.warm(WarmRequest(dataset="city"))
    assert (job.state, job.tag, job.version) == ("queued", "v1", published.version)
    assert (job.files_total, job.bytes_total, job.files_done) == (12, TOTAL, 0) and job.eta_s
    wanted = control.desired("b1", seen["b1"])
    assert [(v.version, v.tag, v.list_id, v.job) for v in wanted.versions] == [
        (job.version, "v1", None, job.id)
    ]
    assert wanted.generation > seen["b1"]
    beat(control, "b1", seen["b1"], report(published, 12))
    assert control.job(job.id).state == "queued"
    beat(control, "b1", wanted.generation, report(published, 12))
    beat(control, "b2", control.desired("b2").generation, report(published, 5))
    running = control.job(job.id)
    assert (running.state, running.files_done) == ("running", 5)
    assert [(n.node, n.state, n.files_done) for n in running.nodes] == [
        ("b1", "resident", 12),
        ("b2", "fetching", 5),
    ]
    beat(control, "b2", control.desired("b2").generation, report(published, 12))
    done = control.job(job.id)
    assert (done.state, done.files_done, done.bytes_done) == ("done", 12, TOTAL) and done.ended_ns
    beat(control, "b2", 99)  # what comes later does not unsay it
    assert control.job(job.id) == done == control.jobs()[0]


def test_waiting_for_a_job_ends_with_it(control: Control, published: Published) -> None:
    beat(control, "b1")
    job = control.warm(WarmRequest(dataset="city", ref=published.version[:8]))
    told: list[int] = []
    waiting: list[Any] = []
    with Control(control.url, control._token) as other:
        thread = threading.Thread(
            target=lambda: waiting.append(other.wait(job.id, lambda j: told.append(j.files_done), step_s=0.1))
        )
        thread.start()
        generation = control.desired("b1").generation
        beat(control, "b1", generation, report(published, 3))
        wait_for(lambda: 3 in told, "progress")
        beat(control, "b1", generation, report(published, 12))
        thread.join()
    assert waiting[0].state == "done" and told[-1] == 12


def test_a_failed_node_fails_the_job_and_lists_the_paths(control: Control, published: Published) -> None:
    beat(control, "b1")
    job = control.warm(WarmRequest(dataset="city"))
    lost = (Failure(path="720p/car/001.jpg", cause="its bytes have another hash"),)
    beat(control, "b1", control.desired("b1").generation, report(published, 11, "failed", failures=lost))
    failed = control.job(job.id, wait_s=20)
    assert (failed.state, failed.failures, failed.files_done) == ("failed", lost, 11)
    assert "720p/car/001.jpg" in str(failed.error)
    again = control.warm(WarmRequest(dataset="city"))
    assert again.id != job.id and control.desired("b1").versions[0].job == again.id


def test_a_job_whose_node_dies_fails_and_says_so(serve: Serve, published: Published) -> None:
    with serve(dead_after_s=0.3, dead_grace_s=0.2).client() as control:
        beat(control, "b1")
        job = control.wait(control.warm(WarmRequest(dataset="city")).id, timeout_s=20)
        assert job.state == "failed" and "b1" in str(job.error) and "no heartbeat" in str(job.error)
        assert [node.alive for node in control.nodes()] == [False]
        none = control.warm(WarmRequest(dataset="city"))
        assert none.state == "failed" and "no node" in str(none.error)
        named = control.warm(WarmRequest(dataset="city", nodes="b1"))
        assert [node.node for node in named.nodes] == ["b1"]


def test_the_same_request_is_the_same_job(control: Control, published: Published) -> None:
    beat(control, "b1")
    request = WarmRequest(dataset="city", request_id="dag/run/" + "x" * 300)
    job = control.warm(request)
    generation = control.desired("b1").generation
    made: list[str] = []
    with Control(control.url, control._token) as other:
        threads = [threading.Thread(target=lambda: made.append(other.warm(request).id)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert made == [job.id] * 6 and control.desired("b1").generation == generation
    with pytest.raises(Conflict):
        control.warm(request.model_copy(update={"nodes": "b1"}))
    with pytest.raises(Conflict):
        control.free(FreeRequest(dataset="city", request_id=request.request_id))


def test_what_there_is_not_is_said_with_a_next_step(control: Control, published: Published) -> None:
    beat(control, "b1")
    with pytest.raises(NotFound, match="city") as unknown:
        control.warm(WarmRequest(dataset="town"))
    assert unknown.value.fix
    with pytest.raises(NotFound, match="v9"):
        control.warm(WarmRequest(dataset="city", ref="v9"))
    with pytest.raises(NotFound, match="has no nowhere"):
        control.warm(WarmRequest(dataset="city", files=("nowhere.jpg", "720p/car/001.jpg")))
    with pytest.raises(NotFound):
        control.free(FreeRequest(dataset="town"))
    with pytest.raises(NotFound):
        control.job("none")
    with pytest.raises(NotFound):
        control.pin(PinRequest(dataset="city"))
    for bad in (
        WarmRequest(dataset="../etc"),
        WarmRequest(dataset="city", nodes="role=boss"),
        WarmRequest(dataset="city", files=()),
        WarmRequest(dataset="city", files=("../x",)),
        WarmRequest(dataset="city", request_id=""),
    ):
        with pytest.raises(Refused):
            control.warm(bad)
    assert control.jobs() == [] and control.desired("b1").versions == ()


def test_a_version_that_is_not_wholly_here_cannot_be_warmed(
    control: Control, lake: Store, published: Published
) -> None:
    beat(control, "b1")
    refs.write_ref(lake, refs.Ref("city", "v7", "e" * 64, 1))
    with pytest.raises(NotFound, match="not available"):
        control.warm(WarmRequest(dataset="city", ref="v7"))


def test_file_lists_narrow_warm_and_free(control: Control, published: Published) -> None:
    beat(control, "b1")
    paths = sorted(FILES)
    job = control.warm(WarmRequest(dataset="city", files=(paths[3], paths[1], paths[1])))
    assert (job.files_total, job.bytes_total) == (2, len(FILES[paths[1]]) + len(FILES[paths[3]]))
    (narrow,) = control.desired("b1").versions
    assert control.file_list(narrow) == [paths[1], paths[3]]
    control.warm(WarmRequest(dataset="city", files=(paths[1], paths[3])))
    assert [v.list_id for v in control.desired("b1").versions] == [narrow.list_id]
    control.warm(WarmRequest(dataset="city", pin=True))
    freed = control.free(FreeRequest(dataset="city", files=(paths[1],), force=True))
    assert freed.files_total == 1
    left = {tuple(control.file_list(v) or ["whole"]): v.pinned for v in control.desired("b1").versions}
    assert left == {(paths[3],): False, tuple(p for p in paths if p != paths[1]): True}
    rest = next(v for v in control.desired("b1").versions if v.pinned)
    kept = report(published, 11, "resident", list_id=rest.list_id, files_total=11)
    beat(control, "b1", control.desired("b1").generation, kept)
    assert control.job(freed.id).state == "done"
    whole = control.free(FreeRequest(dataset="city", force=True))
    assert control.desired("b1").versions == () and control.job(whole.id).state == "queued"
    with pytest.raises(NotFound):
        control._http.ask("GET", "/v1/lists/" + "f" * 64)


def test_free_ends_a_warm_and_reports_what_a_mount_keeps(control: Control, published: Published) -> None:
    beat(control, "b1")
    warm = control.warm(WarmRequest(dataset="city"))
    freed = control.free(FreeRequest(dataset="city"))
    cancelled = control.job(warm.id)
    assert cancelled.state == "cancelled" and freed.id in str(cancelled.error)
    beat(control, "b1", control.desired("b1").generation, report(published, 4, "freeing"))
    assert control.job(freed.id).state == "running"
    beat(control, "b1", control.desired("b1").generation)
    assert control.job(freed.id).state == "done"
    view = MountReport(
        dataset="city", tag="v1", version=published.version, target="/mnt/city", backend="kernel"
    )
    leased = control.free(FreeRequest(dataset="city"))
    beat(control, "b1", control.desired("b1").generation, report(published, 12), mounts=(view,))
    kept = control.job(leased.id)
    assert kept.state == "done" and "/mnt/city" in str(kept.error)


def test_what_the_store_lost_can_still_be_freed(
    serve: Serve, control: Control, lake: Store, published: Published
) -> None:
    beat(control, "b1")
    control.warm(WarmRequest(dataset="city"))

    def away() -> Store:
        raise StoreDown("the store lake-b", "it does not answer", "start it")

    with serve(open_lake=away).client() as other:
        with pytest.raises(StoreDown):
            other.warm(WarmRequest(dataset="city"))
        assert other.free(FreeRequest(dataset="city", ref="v1")).version == published.version
    assert control.desired("b1").versions == ()


def test_pins_stay_through_a_later_warm(control: Control, published: Published) -> None:
    for node in ("b1", "b2"):
        beat(control, node)
    control.warm(WarmRequest(dataset="city", nodes="b1"))
    (changed,) = control.pin(PinRequest(dataset="city"))
    assert changed.node == "b1" and changed.versions[0].pinned
    control.warm(WarmRequest(dataset="city"))
    assert control.desired("b1").versions[0].pinned and not control.desired("b2").versions[0].pinned
    before = control.desired("b1").generation
    control.unpin(PinRequest(dataset="city", nodes="label.rack=1"))
    after = control.desired("b1")
    assert not after.versions[0].pinned and after.generation > before


def test_a_long_poll_hears_of_a_change_by_another_replica(serve: Serve, published: Published) -> None:
    one, two = serve(), serve()
    with one.client() as here, two.client() as there:
        generation = beat(here, "b1")
        heard: list[Any] = []
        thread = threading.Thread(target=lambda: heard.append(there.desired("b1", generation, wait_s=25)))
        thread.start()
        job = here.warm(WarmRequest(dataset="city"))
        thread.join()
        assert heard[0].versions[0].job == job.id
        beat(there, "b1", heard[0].generation, report(published, 12))
        assert here.job(job.id, wait_s=20).state == "done"


def test_changes_at_once_are_all_kept(serve: Serve, lake: Store, tmp_path: Path) -> None:
    names = [f"set{n}" for n in range(4)]
    for name in names:
        publish_files(lake, tmp_path, {"a.jpg": name.encode()}, name)
    replicas = [serve(), serve()]
    with replicas[0].client() as control:
        start = beat(control, "b1")

        def warm(number: int) -> None:
            with replicas[number % 2].client() as client:
                client.warm(WarmRequest(dataset=names[number % 4], request_id=str(number)))

        threads = [threading.Thread(target=warm, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = control.desired("b1")
    assert found.generation == start + 12 and [v.dataset for v in found.versions] == names


def test_a_node_of_a_lost_database_keeps_what_it_holds(control: Control, published: Published) -> None:
    with pytest.raises(NotFound):  # never an empty answer: the node would drop everything
        control.desired("b1", 7)
    generation = beat(control, "b1", 7, report(published, 12))
    found = control.desired("b1", 7)
    assert found.generation == generation == 8
    assert [(v.dataset, v.version) for v in found.versions] == [("city", published.version)]


def test_a_heartbeat_of_another_idc_or_under_another_name_is_refused(control: Control) -> None:
    with pytest.raises(Refused, match="idc-a"):
        beat(control, "b1", idc="idc-a")
    with pytest.raises(Refused):
        control._http.ask("POST", "/v1/nodes/b2/heartbeat", _heartbeat("b1"))
    assert control.nodes() == []


def _heartbeat(node: str) -> Heartbeat:
    return Heartbeat(
        node=node, idc="idc-b", address="h:1", role="gpu", agent_version="0", boot_id="b", generation=0
    )


def test_a_node_can_be_forgotten(control: Control) -> None:
    beat(control, "b1")
    assert [(n.node, n.alive, n.labels) for n in control.nodes()] == [("b1", True, {"rack": "1"})]
    control.forget_node("b1")
    assert control.nodes() == []
    with pytest.raises(NotFound):
        control.forget_node("b1")


def test_tokens_allow_what_they_say(serve: Serve, published: Published) -> None:
    served = serve()
    with served.client() as admin:
        beat(admin, "b1", 0, report(published, 12))
        job = admin.warm(WarmRequest(dataset="city"))

        def token(name: str, **scope: Any) -> Control:
            made = admin.create_token(TokenRequest(name=name, **scope))
            return served.client(made.token)

        with token("city", verbs=("warm",), datasets=("ci",)) as city:
            assert city.warm(WarmRequest(dataset="city")).version == published.version
            assert city.jobs() and city.nodes()[0].versions
            refused: list[Callable[[], object]] = [
                lambda: city.free(FreeRequest(dataset="city")),
                lambda: city.warm(WarmRequest(dataset="city", pin=True)),
                lambda: city.warm(WarmRequest(dataset="town")),
                lambda: city.pin(PinRequest(dataset="city")),
                lambda: city.tokens(),
                lambda: city.create_token(TokenRequest(name="more", verbs=("admin",))),
                lambda: city.delete_token("city"),
                lambda: city.desired("b1"),
                lambda: city.heartbeat(_heartbeat("b1")),
                lambda: city.forget_node("b1"),
                lambda: city._http.ask("GET", "/v1/lists/" + "f" * 64),
            ]
            for ask in refused:
                with pytest.raises(Unauthorised):
                    ask()
        with token("town", verbs=("read",), datasets=("town",)) as town:
            assert town.jobs() == [] and town.nodes()[0].versions == ()
            with pytest.raises(Unauthorised):
                town.job(job.id)
            with pytest.raises(Unauthorised):
                town.estimate(WarmRequest(dataset="city"))
        with token("node", verbs=("node",)) as node:
            assert node.desired("b1").versions
            with pytest.raises(Unauthorised):
                node.nodes()
        with token("far", verbs=("admin",), cidr="10.0.0.0/8") as far, pytest.raises(Unauthorised):
            far.nodes()
        admin.delete_token("city")
        assert sorted(t.name for t in admin.tokens()) == ["admin", "far", "node", "town"]


def test_every_error_is_json_that_says_what_why_and_fix(serve: Serve, published: Published) -> None:
    served = serve(max_body_bytes=100_000)
    headers = {"Authorization": f"Bearer {served.token}"}
    with httpx.Client(base_url=served.url, trust_env=False) as plain:
        cases = [
            (401, plain.get("/v1/nodes")),
            (401, plain.get("/v1/nodes", headers={"Authorization": "Bearer wrong"})),
            (401, plain.post("/v1/warm", json={"dataset": "city"}, headers={"X-Forwarded-For": "127.0.0.1"})),
            (404, plain.get("/v1/nothing", headers=headers)),
            (405, plain.put("/v1/warm", headers=headers)),
            (422, plain.post("/v1/warm", json={"dataset": "city", "reff": "v1"}, headers=headers)),
            (422, plain.post("/v1/warm", content=b"{", headers=headers)),
            (422, plain.get("/v1/nodes/b1/desired?wait_s=-1", headers=headers)),
            (404, plain.post("/v1/warm", json={"dataset": "town"}, headers=headers)),
            (400, plain.post("/v1/warm", json={"dataset": "Ö"}, headers=headers)),
            (413, plain.post("/v1/warm", content=b" " * 200_000, headers=headers)),
        ]
        for status, answer in cases:
            assert answer.status_code == status, answer.text
            assert {"what", "why", "fix"} <= set(answer.json()) and answer.json()["what"]
            assert served.token not in answer.text
        health = plain.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (200, "ok")
        assert (
            'outlap_control_requests_total{method="GET",route="/v1/nodes",status="401"}'
            in plain.get("/metrics").text
        )


@pytest.fixture
def home(tmp_path: Path, lake: Store) -> dict[str, str]:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "outlap.toml").write_text(
        f'[idc.idc-b]\nstore = "lake-b"\n[store.lake-b]\nidc = "idc-b"\nurl = "{lake.where}"\n'
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OUTLAP_")}
    return {**kept, "OUTLAP_HOME": str(folder), "OUTLAP_CONTROL_STATE_DIR": str(tmp_path / "state")}


def _run(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "cacheengine.control"], env=environment, stdout=out, stderr=out
        )


def test_the_process_can_be_killed_and_knows_its_jobs_again(
    home: dict[str, str], tmp_path: Path, published: Published
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {**home, "OUTLAP_CONTROL_LISTEN": address}
    process = _run(environment, tmp_path / "log")
    try:
        with Control(address, None) as nobody:
            wait_for(nobody.healthy, "the control service")
        token_file = tmp_path / "state" / "admin.token"
        assert token_file.stat().st_mode & 0o777 == 0o600
        token = token_file.read_text().strip()
        with Control(address, token) as control:
            beat(control, "b1")
            job = control.warm(WarmRequest(dataset="city"))
            wanted = control.desired("b1")
            process.send_signal(signal.SIGKILL)
            process.wait()
            with pytest.raises(ControlDown, match=address):
                control.job(job.id)
            process = _run(environment, tmp_path / "log")
            wait_for(control.healthy, "the control service")
            assert control.desired("b1") == wanted
            beat(control, "b1", wanted.generation, report(published, 12))
            assert control.job(job.id).state == "done"
    finally:
        process.terminate()
        process.wait()
    assert token not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OUTLAP_CONTROL_LISTEN", "everywhere"),
        ("OUTLAP_CONTROL_IDC", "idc-z"),
        ("OUTLAP_CONTROL_DATABASE", "nodb://user:hunter2@h/x"),
        ("OUTLAP_CONTROL_DATABASE", "hunter2"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_its_name_and_no_secret(
    home: dict[str, str], tmp_path: Path, name: str, value: str
) -> None:
    process = _run({**home, name: value}, tmp_path / "log")
    assert process.wait(timeout=60) == 2
    said = (tmp_path / "log").read_text()
    assert "Next: " in said and "hunter2" not in said and "Traceback" not in said
