"""Labels of Kubernetes nodes, against a small HTTP server that speaks the API's list and merge-patch."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cacheengine.control import nodelabels
from cacheengine.control.settings import ControlSettings
from cacheengine.wire import NodeState
from lake.errors import Explained, Refused
from lake.publish import Published
from tests.cacheengine.played import Serve, beat, lake, published, report, serve, wait_for
from tests.cacheengine.test_affinity import V, node
from tests.cacheengine.test_affinity import report as said

__all__ = ["lake", "published", "serve"]


class Api:
    """Nodes of a cluster and their labels, as the API server has them; pages of two nodes. refused: nodes that it does not patch."""

    def __init__(self, labels: dict[str, dict[str, str]]) -> None:
        self.labels, self.patches, self.refused = labels, 0, set[str]()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def _answer(self, value: Any, status: int = 200) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _allowed(self) -> bool:
                if self.headers["Authorization"] == "Bearer the-token":
                    return True
                self._answer({"kind": "Status", "code": 401}, 401)
                return False

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                if not self._allowed():
                    return
                assert url.path == "/api/v1/nodes"
                start = int(parse_qs(url.query).get("continue", ["0"])[0])
                page = sorted(api.labels)[start : start + 2]
                more = str(start + 2) if start + 2 < len(api.labels) else None
                items = [{"metadata": {"name": name, "labels": api.labels[name]}} for name in page]
                self._answer({"kind": "NodeList", "metadata": {"continue": more}, "items": items})

            def do_PATCH(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self._allowed():
                    return
                assert self.headers["Content-Type"] == "application/merge-patch+json"
                name = urlsplit(self.path).path.removeprefix("/api/v1/nodes/")
                if name in api.refused or name not in api.labels:
                    self._answer({"kind": "Status", "code": 403}, 403)
                    return
                api.patches += 1
                for key, value in body["metadata"]["labels"].items():
                    api.labels[name].pop(key, None)
                    if value is not None:
                        api.labels[name][key] = value
                self._answer({"metadata": {"name": name, "labels": api.labels[name]}})

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


LABEL = f"outlap.dev/{V[:12]}"


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api({"n1": {"zone": "z"}, "n2": {"outlap.dev/0123456789ab": "55"}, "n3": {}})
    yield made
    made.stop()


@pytest.fixture
def settings(api: Api, tmp_path: Path) -> ControlSettings:
    (tmp_path / "token").write_text("the-token\n")
    return ControlSettings(
        kubernetes_labels=True, kubernetes_url=api.url, kubernetes_token_file=tmp_path / "token"
    )


def nodes(**held: int) -> dict[str, NodeState]:
    return {name: node(name, said(done)) for name, done in held.items()}


def total_of(version: str) -> int:
    return 1000


def test_labels_follow_residency_with_few_patches(api: Api, settings: ControlSettings) -> None:
    cluster = nodelabels.connect(settings)
    round_of: Callable[..., int] = nodelabels.round_of
    assert round_of(cluster, nodes(n1=10, n2=3, elsewhere=10), total_of) == 2
    assert api.labels == {"n1": {"zone": "z", LABEL: "100"}, "n2": {LABEL: "30"}, "n3": {}}
    assert round_of(cluster, nodes(n1=10, n2=3), total_of) == 0 and api.patches == 2
    assert round_of(cluster, nodes(n1=9, n2=3), total_of) == 1
    assert api.labels["n1"] == {"zone": "z", LABEL: "90"}
    assert round_of(cluster, {}, total_of) == 2
    assert api.labels == {"n1": {"zone": "z"}, "n2": {}, "n3": {}}


def test_a_node_that_cannot_be_labelled_stops_no_other(api: Api, settings: ControlSettings) -> None:
    cluster = nodelabels.connect(settings)
    api.refused = {"n1"}
    with pytest.raises(Explained, match="n1: 403"):
        nodelabels.round_of(cluster, nodes(n1=10, n2=10, n3=10), total_of)
    assert LABEL not in api.labels["n1"] and api.labels["n3"] == {LABEL: "100"}
    api.refused = set()
    assert nodelabels.round_of(cluster, nodes(n1=10, n2=10, n3=10), total_of) == 1


def test_an_api_that_does_not_answer_is_told(
    api: Api, settings: ControlSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    (tmp_path / "token").write_text("another")
    with pytest.raises(Explained, match="labels of Kubernetes nodes"):
        nodelabels.round_of(nodelabels.connect(settings), nodes(n1=10), total_of)
    with pytest.raises(Refused, match="no pod of a cluster"):
        nodelabels.connect(settings.model_copy(update={"kubernetes_url": None}))


def test_the_service_keeps_labels_current(
    api: Api, settings: ControlSettings, serve: Serve, published: Published
) -> None:
    served = serve(
        kubernetes_labels=True,
        kubernetes_url=api.url,
        kubernetes_token_file=settings.kubernetes_token_file,
        kubernetes_every_s=0.1,
    )
    key = f"outlap.dev/{published.version[:12]}"
    with served.client() as control:
        beat(control, "n1", 0, report(published, 12))
        wait_for(lambda: api.labels["n1"].get(key) == "100", "the label")
        beat(control, "n1", 0)
        wait_for(lambda: key not in api.labels["n1"], "the label to go")
