"""Alerts against a real mail server and a real HTTP server: once until it ends, never a secret, never a failure of who tells."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from outlap_airflow import alerts, notifiers, publish, sync, watch
from outlap_airflow.alerts import Alert
from outlap_airflow.faults import RETRIES
from outlap_airflow.pages.alerts import list_open
from outlap_airflow.pages.sources import Memory, Sources
from outlap_airflow.settings import DEFAULT_QUERY, airflow_settings

from cacheengine.wire import DirReport
from lake import quarantine, stores
from lake.config import load_config
from lake.errors import Refused
from lake.quarantine import Finding

SECRET = "hunter2-of-the-tests"
TROUBLE = Alert(
    "disk/idc-b/n1/c", "the disk /c of n1 is down", f"it fell off; token {SECRET} s3://id:key@host/x"
)


class Hook:
    """A webhook. answers: status codes to give, the last one for ever; got: (headers, body) of each request."""

    def __init__(self) -> None:
        self.answers, self.got = [200], list[tuple[dict[str, str], dict[str, Any]]]()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                """Tests have enough to print."""

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.got.append((dict(self.headers), body))
                self.send_response(hook.answers.pop(0) if len(hook.answers) > 1 else hook.answers[0])
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/in/{SECRET}"


@pytest.fixture
def hook(idcs: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """A webhook whose address, token and tries the settings name."""
    made = Hook()
    (idcs.home / "url").write_text(made.url)
    monkeypatch.setenv("HOOK_TOKEN", SECRET)
    text = (idcs.home / "outlap.toml").read_text()
    text += f'[airflow.alerts.webhook]\nurl = {{ file = "{idcs.home / "url"}" }}\ntoken = {{ env = "HOOK_TOKEN" }}\ntimeout_s = 5\n'
    (idcs.home / "outlap.toml").write_text(text)
    monkeypatch.setattr(notifiers, "TRIES", 2)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_the_same_trouble_is_told_once_until_it_ends(hook: Hook) -> None:
    assert [alerts.tell(TROUBLE) for _ in range(3)] == [True, False, False]
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: alerts.tell(Alert("node/x", "silent", "it is")), range(8)))
    assert sum(told) == 1
    assert alerts.open_ids(load_config()) == [TROUBLE.id, "node/x"]
    assert alerts.ended(TROUBLE.id, "it is back") and not alerts.ended(TROUBLE.id)
    assert alerts.tell(TROUBLE), "a trouble that comes back is told again"
    states = [(body["id"], body["state"]) for _, body in hook.got]
    assert states == [(TROUBLE.id, "open"), ("node/x", "open"), (TROUBLE.id, "ended"), (TROUBLE.id, "open")]
    headers, body = hook.got[0]
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert set(body) == {"id", "kind", "state", "title", "text", "idc", "at"}
    assert (body["kind"], body["idc"]) == ("disk", "idc-a")


def test_no_secret_is_told_or_logged(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    alerts.tell(TROUBLE)
    (told,) = [body for _, body in hook.got]
    assert SECRET not in json.dumps(told) and "id:key" not in told["text"]
    assert told["text"] == "it fell off; token *** s3://***@host/x"
    hook.server.shutdown()
    hook.server.server_close()
    assert not alerts.tell(Alert("node/y", "t", SECRET))
    assert "could not be told by webhook" in caplog.text and SECRET not in caplog.text


def test_a_webhook_that_fails_is_tried_again_and_is_no_failure_of_who_tells(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(alerts, "_count", counted.append)
    hook.answers = [503, 200]
    assert alerts.tell(TROUBLE) and len(hook.got) == 2
    hook.answers = [404]
    assert not alerts.tell(Alert("node/z", "t", "t")) and len(hook.got) == 3
    assert counted == ["sent", "failed"]
    hook.answers = [200]
    assert alerts.tell(Alert("node/z", "t", "t")), "nobody was told, so it is told the next time"
    hook.answers = [500]
    assert not alerts.ended("node/z")
    assert "node/z" in alerts.open_ids(load_config()), "an end that nobody heard of is told again"
    (Path(os.environ["OUTLAP_HOME"]) / "url").unlink()
    assert not alerts.tell(Alert("node/w", "t", "t"))


def test_a_lake_that_is_away_keeps_nobody_from_being_told(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lake.errors import StoreDown

    def away(*_: object) -> None:
        raise StoreDown("the lake", "it is away")

    monkeypatch.setattr(alerts, "_lake_put", away)
    assert alerts.tell(TROUBLE) and alerts.tell(TROUBLE)


def test_metrics_of_airflow_are_counted() -> None:
    alerts._count("sent")


@pytest.mark.fault("E13")
def test_without_settings_the_log_and_the_pages_tell(idcs: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert alerts.tell(TROUBLE) and not alerts.tell(TROUBLE)
    (line,) = [record for record in caplog.records if record.message.startswith("ALERT open")]
    assert line.levelname == "ERROR" and "it fell off" in line.message and TROUBLE.title in line.message
    assert "id:key@" not in line.message
    shown = list_open(Sources(load_config(), Memory()))
    (row,) = shown["rows"]
    assert (row["id"], row["title"], row["kind"]) == (TROUBLE.id, TROUBLE.title, "disk")
    assert abs(row["since_ns"] / 1e9 - time.time()) < 60
    assert alerts.ended(TROUBLE.id)
    assert list_open(Sources(load_config(), Memory()))["rows"] == []
    # nothing answers where the settings of the test say that a control service is
    assert watch.look()["told"] == ["control/idc-b"]


class Mail:
    def __init__(self) -> None:
        self.got: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.got.append((envelope.rcpt_tos, message_from_bytes(envelope.content)))
        return "250 OK"


@pytest.mark.parametrize("password", [SECRET, "wrong"])
def test_mail_goes_to_everybody_through_a_server_that_asks_for_a_password(
    idcs: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, port: int, password: str
) -> None:
    mail = Mail()

    def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        right = (data.login, data.password) == (b"outlap", SECRET.encode())
        return AuthResult(success=right, handled=right)

    server = Controller(
        mail, hostname="127.0.0.1", port=port, authenticator=check, auth_required=True, auth_require_tls=False
    )
    server.start()
    try:
        fields = {"host": "127.0.0.1", "port": port, "sender": "lake@x.test", "to": ["a@x.test", "b@x.test"]}
        fields |= {"user": "outlap", "password": {"env": "MAIL_PASSWORD"}}
        monkeypatch.setenv("MAIL_PASSWORD", password)
        monkeypatch.setenv("OUTLAP_AIRFLOW_ALERTS", json.dumps({"email": fields}))
        assert alerts.tell(Alert("sync-lag/idc-b/front", "idc-b lags", "see\nit")) is (password == SECRET)
        if password == SECRET:
            alerts.ended("sync-lag/idc-b/front")
    finally:
        server.stop()
    assert SECRET not in caplog.text
    if password != SECRET:
        assert mail.got == [] and "SMTPAuthenticationError 535" in caplog.text
        return
    (to, first), (_, second) = mail.got
    assert to == ["a@x.test", "b@x.test"]
    assert first["Subject"] == "[outlap] idc-b lags" and second["Subject"] == "[outlap] ended: idc-b lags"
    assert first["X-Outlap-Alert"] == "sync-lag/idc-b/front" and "see\r\nit" in first.get_payload()


def test_settings_that_cannot_be_are_refused(idcs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in (
        {"watch": "now"},
        {"email": {"host": "h", "sender": "s", "to": []}},
        {"webhook": {}},
        {"x": 1},
    ):
        monkeypatch.setenv("OUTLAP_AIRFLOW_ALERTS", json.dumps(bad))
        with pytest.raises(Refused, match="alerts"):
            airflow_settings(load_config())


# --- who tells


def context(task: str = "publish", **more: Any) -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="publish_dataset", task_id=task, run_id="r1", map_index=-1)
    return {"ti": ti, "task": SimpleNamespace(), **more}


def test_a_failed_task_is_told_and_its_next_success_ends_it(hook: Hook) -> None:
    assert (RETRIES["on_failure_callback"], RETRIES["on_success_callback"]) == (
        alerts.task_failed,
        alerts.task_succeeded,
    )
    alerts.task_succeeded(context())
    alerts.task_failed(context(exception=ValueError(f"no {SECRET}")))
    alerts.task_failed(context(exception=ValueError("again")))
    alerts.task_succeeded(context("announce"))
    alerts.task_succeeded(context())
    seen = [(body["id"], body["state"]) for _, body in hook.got]
    assert seen == [
        ("run-failed/publish_dataset/publish", "open"),
        ("run-failed/publish_dataset/publish", "ended"),
    ]
    assert "no ***" in hook.got[0][1]["text"]


def test_a_failed_warm_is_a_trouble_of_its_dataset(hook: Hook) -> None:
    from outlap_airflow.operators import Warm

    task = Warm(task_id="warm", dataset="front", idc="idc-b")
    alerts.task_failed(context("warm") | {"task": task})
    assert hook.got[0][1]["id"] == "warm-failed/idc-b/front"


def test_a_deadline_that_airflow_missed_is_told(hook: Hook) -> None:
    from airflow.api_fastapi.core_api.datamodels.dag_run import DAGRunResponse

    # as the scheduler makes it: DAGRunResponse, by its own names
    assert "dag_run_id" in DAGRunResponse.model_fields
    run = {"dag_id": "train_night", "dag_run_id": "scheduled__1"}
    asyncio.run(alerts.deadline_missed(context={"dag_run": run}, what="It was to end at six."))
    assert hook.got[0][1]["id"] == "deadline/train_night/scheduled__1"


# --- what the DAG watch sees


def test_watch_tells_lag_refusals_and_silence_and_their_end(
    hook: Hook, idcs: Any, frames: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames(idcs.a, "d1")
    publish.publish("front", DEFAULT_QUERY, None, "publish_dataset", "r1")
    now = time.time_ns()
    # the control service of idc-b does not answer; nothing lags yet
    assert watch.look(now)["told"] == ["control/idc-b"]
    later = now + 3 * 3600 * 10**9
    assert watch.look(later)["told"] == ["sync-lag/idc-b/front"]
    assert watch.look(later)["told"] == []
    sync.sync_to("front", "latest", "idc-b")
    for number in range(4):
        finding = Finding("mp4.open", "error", "CAM.mp4", "no moov")
        quarantine.add(idcs.a, "car1", f"bad{number}", [finding], "f" * 64)
    done = watch.look(time.time_ns())
    assert (done["told"], done["ended"]) == (["quarantine/idc-a"], ["sync-lag/idc-b/front"])
    text = next(body["text"] for _, body in hook.got if body["kind"] == "quarantine")
    assert "4 of 5 drives" in text and "mp4.open (4)" in text
    quarantine.clear(idcs.a, "car1", "bad1")
    assert watch.look(time.time_ns())["ended"] == ["quarantine/idc-a"], (
        "four drives are too few to tell a rate"
    )


def test_watch_tells_disks_and_nodes(hook: Hook, idcs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def node(name: str, alive: bool, *states: str) -> Any:
        made = tuple(
            DirReport(path=f"/c{place}", medium="ssd", quota=1, used=0, free_on_disk=1, state=state)  # type: ignore[arg-type]
            for place, state in enumerate(states)
        )
        return SimpleNamespace(node=name, alive=alive, dirs=made)

    nodes = [node("n1", True, "normal", "down"), node("n2", False, "normal"), node("n3", True, "unstable")]

    class Control:
        def __enter__(self) -> Any:
            return SimpleNamespace(nodes=lambda: nodes)

        def __exit__(self, *_: object) -> None:
            """Nothing is open."""

    with monkeypatch.context() as patch:
        patch.setattr("cacheengine.client.control_for", lambda *_: Control())
        assert watch.look()["told"] == ["disk/idc-b/n1/c1", "node/idc-b/n2", "disk/idc-b/n3/c0"]
    # while nobody can say how they are, they have not ended
    done = watch.look()
    assert (done["told"], done["ended"]) == (["control/idc-b"], [])
    nodes[:] = [node("n1", True, "normal", "normal"), node("n2", True), node("n3", True, "unstable")]
    monkeypatch.setattr("cacheengine.client.control_for", lambda *_: Control())
    assert watch.look()["ended"] == ["control/idc-b", "disk/idc-b/n1/c1", "node/idc-b/n2"]
    assert stores.exists(idcs.a, alerts._key("disk/idc-b/n3/c0"))
