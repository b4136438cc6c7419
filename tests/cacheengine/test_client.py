"""Clients: every error of the other side comes back as itself; settings say where the other side is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine import errors as cache_errors
from cacheengine.answers import body_of, error_from, status_of
from cacheengine.client import AgentClient, Control, control_for
from cacheengine.errors import CacheError, ControlDown, NoSpace, Unauthorised
from cacheengine.wire import MountAnswer, MountReport, MountRequest, UmountRequest, VersionReport
from lake import errors as lake_errors
from lake.config import Config, IdcConfig, SecretRef
from lake.errors import Explained, NotFound, StoreDown

KINDS = [
    kind
    for module in (lake_errors, cache_errors)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Explained) and kind is not Explained
]


@given(st.sampled_from(KINDS), st.text(), st.text(), st.text())
def test_an_error_comes_back_as_it_went(kind: type[Explained], what: str, why: str, fix: str) -> None:
    error = kind(what, why, fix)
    body = json.dumps(body_of(error)).encode()
    back = error_from(status_of(error), body, "asked")
    assert type(back) is kind and (back.what, back.why, back.fix) == (what, why, fix)
    assert 400 <= status_of(error) < 600


@given(st.integers(300, 599), st.binary(max_size=60))
def test_an_answer_that_explains_nothing_is_still_an_error(status: int, body: bytes) -> None:
    error = error_from(status, body, "GET /v1/nodes")
    assert "GET /v1/nodes" in str(error) or error.what


def test_a_status_alone_says_the_kind() -> None:
    assert type(error_from(404, b"<html>", "x")) is NotFound
    assert type(error_from(401, b"", "x")) is Unauthorised
    assert type(error_from(507, b'{"what": "w"}', "x")) is NoSpace
    assert type(error_from(502, b"[]", "x")) is ControlDown
    assert type(error_from(400, b'{"what": "w", "kind": "SystemExit"}', "x")).__name__ == "Refused"


class _Agent(BaseHTTPRequestHandler):
    """Plays an agent: answers by route, and keeps what it was asked."""

    answers: dict[tuple[str, str], tuple[int, str]]
    asked: list[tuple[str, str, str, str]]

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.asked.append((self.command, self.path, str(self.headers["Authorization"]), body))
        status, text = self.answers.get((self.command, self.path), (404, ""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_DELETE = _do

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def agent() -> Iterator[tuple[str, type[_Agent]]]:
    handler = type("Handler", (_Agent,), {"answers": {}, "asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_agent_is_asked_as_the_wire_says(agent: tuple[str, type[_Agent]]) -> None:
    address, handler = agent
    mount = MountAnswer(
        dataset="d",
        tag="v1",
        version="a" * 64,
        target="/m/d",
        backend="kernel",
        why="it can",
        files=1,
        bytes=2,
        packs_local=1,
        packs_remote=0,
    )
    view = MountReport(dataset="d", tag="v1", version="a" * 64, target="/m/d", backend="kernel")
    held = VersionReport(
        dataset="d",
        tag="v1",
        version="a" * 64,
        state="resident",
        files_total=1,
        files_resident=1,
        bytes_total=2,
        bytes_resident=2,
    )
    handler.answers = {
        ("POST", "/v1/mounts"): (200, mount.model_dump_json()),
        ("GET", "/v1/mounts"): (200, f"[{view.model_dump_json()}]"),
        ("GET", "/v1/residency"): (200, f"[{held.model_dump_json()}]"),
        ("DELETE", "/v1/mounts"): (204, ""),
        ("GET", "/healthz"): (200, "{}"),
    }
    with AgentClient(address, "secret") as client:
        assert client.mount(MountRequest(dataset="d")) == mount
        assert client.mounts() == [view] and client.residency() == [held] and client.healthy()
        client.umount(UmountRequest(target="/m/d"))
        assert handler.asked[-1] == ("DELETE", "/v1/mounts", "Bearer secret", '{"target":"/m/d"}')
        handler.answers[("DELETE", "/v1/mounts")] = (
            404,
            json.dumps(body_of(NotFound("the mount /m/d", "none"))),
        )
        with pytest.raises(NotFound, match="/m/d"):
            client.umount(UmountRequest(target="/m/d"))
        handler.answers[("GET", "/v1/mounts")] = (200, '[{"surprise": 1}]')
        with pytest.raises(CacheError, match="same Outlap"):
            client.mounts()
    with Control(f"http://{address}/", "secret") as control:
        assert control.mount(address, MountRequest(dataset="d")) == mount


def test_names_stay_inside_their_part_of_the_path(agent: tuple[str, type[_Agent]]) -> None:
    address, handler = agent
    with Control(address, None) as control:
        for name in ("../tokens", "a/b", "a?b=c", "a#b", "%2e%2e", ".."):
            with pytest.raises(NotFound):
                control.job(name)
    for _, path, token, _ in handler.asked:
        assert path.startswith("/v1/jobs/") and path.count("/") == 3 and path.endswith("?wait_s=0.0")
        assert token == "None"


def test_nobody_there_is_said_with_the_address() -> None:
    with Control("http://127.0.0.1:1", "secret-token") as control:
        with pytest.raises(ControlDown, match=r"127\.0\.0\.1:1") as down:
            control.nodes()
        assert "secret-token" not in str(down.value) and not control.healthy()


def test_a_store_that_is_down_behind_control_stays_a_store_that_is_down(
    agent: tuple[str, type[_Agent]],
) -> None:
    address, handler = agent
    handler.answers = {
        ("GET", "/v1/nodes"): (503, json.dumps(body_of(StoreDown("the store", "away", "start it"))))
    }
    with Control(address, None) as control, pytest.raises(StoreDown, match="start it"):
        control.nodes()


def test_settings_name_the_control_service_of_an_idc(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    idcs = {
        "idc-a": IdcConfig(name="idc-a", store="s"),
        "idc-b": IdcConfig(
            name="idc-b", store="s", control="http://127.0.0.1:9", token=SecretRef(file=tmp_path / "token")
        ),
    }
    config = Config(home=tmp_path, idc="idc-b", stores={}, idcs=idcs)
    with control_for(config) as control:
        assert control.url == "http://127.0.0.1:9"
        assert control._http._client.headers["Authorization"] == "Bearer t0ken"
    with pytest.raises(NotFound, match="idc-a"):
        control_for(config, "idc-a")
    with pytest.raises(NotFound):
        control_for(config, "idc-c")
    (tmp_path / "token").unlink()
    with pytest.raises(NotFound, match="secret"):
        control_for(config)
