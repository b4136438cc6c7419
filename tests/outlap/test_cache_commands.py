"""Commands of the cache group against a real control service: JSON, tables and exit codes. Nodes are played by the test."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cacheengine.client import Control
from cacheengine.wire import Failure, TokenRequest
from lake.publish import Published
from lake.stores import Store
from outlap import cli
from tests.cacheengine.kubernetes_types import problems
from tests.cacheengine.played import FILES, Serve, Served, beat, lake, published, report, serve

__all__ = ["lake", "published", "serve"]

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def served(
    serve: Serve, lake: Store, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Served:
    """A control service that the settings of this user name, with the nodes b1 and b2."""
    made = serve()
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(made.token)
    (home / "outlap.toml").write_text(
        f'here = "idc-b"\n[idc.idc-b]\nstore = "lake-b"\ncontrol = "{made.url}"\n'
        f'token = {{ file = "{home}/token" }}\n[store.lake-b]\nidc = "idc-b"\nurl = "{lake.where}"\n'
    )
    monkeypatch.setenv("OUTLAP_HOME", str(home))
    for name in ("OUTLAP_IDC", "OUTLAP_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.fixture
def control(served: Served) -> Iterator[Control]:
    with served.client() as made:
        for node in ("b1", "b2"):
            beat(made, node)
        yield made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """run(words…): (exit code, what stands on standard output)."""

    def ran(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.run(list(words))
        return code, capsys.readouterr().out

    return ran


def hold(control: Control, published: Published, done: int, *nodes: str, **changes: Any) -> None:
    """Let nodes (default: both) say that they hold so many files."""
    for node in nodes or ("b1", "b2"):
        beat(control, node, control.desired(node).generation, report(published, done, **changes))


def test_a_job_is_listed_shown_cancelled_and_resumed(
    control: Control, published: Published, run: Run
) -> None:
    code, text = run("warm", "city", "--no-wait", "--priority", "3", "--bandwidth", "5000", "--json")
    job = json.loads(text)
    assert (code, job["state"], job["files_total"]) == (0, "queued", 12)
    assert [(v.priority, v.bandwidth_bps) for v in control.desired("b1").versions] == [(3, 5000)]
    hold(control, published, 6)
    code, text = run("jobs", "show", job["id"], "--json")
    shown = json.loads(text)
    assert (code, shown["state"], shown["files_done"]) == (0, "running", 6)
    assert [node["node"] for node in shown["nodes"]] == ["b1", "b2"]
    code, text = run("jobs")
    assert code == 0 and job["id"] in text and "city@v1" in text and "running" in text
    code, text = run("jobs", "cancel", job["id"], "--json")
    assert (code, json.loads(text)["state"]) == (0, "cancelled")
    assert run("jobs", "cancel", job["id"])[0] == 1
    assert run("jobs", "show", job["id"])[0] == 3  # half of it is there
    code, text = run("jobs", "resume", job["id"], "--no-wait", "--json")
    again = json.loads(text)
    assert code == 0 and again["id"] != job["id"]
    hold(control, published, 12)
    code, text = run("jobs", "ls", "--json", "--limit", "2")
    assert code == 0 and [one["state"] for one in json.loads(text)] == ["done", "cancelled"]
    assert run("jobs", "show", again["id"])[0] == 0
    assert run("jobs", "show", "nothing")[0] == 1 and run("jobs", "nonsense")[0] == 2


def test_a_failure_names_paths_and_the_next_step(control: Control, published: Published, run: Run) -> None:
    job = json.loads(run("warm", "city", "--no-wait", "--json")[1])
    lost = (Failure(path="720p/car/001.jpg", cause="its hash is wrong"),)
    hold(control, published, 11, "b1", state="failed", failures=lost)
    code, text = run("jobs", "show", job["id"])
    assert code == 1 and "720p/car/001.jpg: its hash is wrong" in text
    assert f"outlap jobs resume {job['id']}" in text


def test_an_estimate_says_files_bytes_and_time_with_its_spread(
    control: Control, published: Published, run: Run
) -> None:
    code, text = run("warm", "city", "--estimate", "--json")
    found = json.loads(text)
    assert code == 0 and (found["files"], found["bytes"]) == (12, published.bytes)
    assert found["seconds_low"] < found["seconds"] < found["seconds_high"]
    code, text = run("warm", "city", "--estimate")
    assert code == 0 and "12 files" in text and " to " in text


def test_pins_are_set_and_taken(control: Control, published: Published, run: Run) -> None:
    assert run("pin", "city")[0] == 1  # nobody is to hold any of it
    run("warm", "city", "--no-wait")
    code, text = run("pin", "city@v1", "--nodes", "b1", "--json")
    assert (code, json.loads(text)["pinned"]) == (0, True)
    assert [control.desired(node).versions[0].pinned for node in ("b1", "b2")] == [True, False]
    assert run("unpin", "city@v1")[0] == 0 and not control.desired("b1").versions[0].pinned
    assert run("pin")[0] == 2


def test_free_by_list_and_by_policy(control: Control, published: Published, run: Run, tmp_path: Path) -> None:
    run("warm", "city", "--no-wait")
    (tmp_path / "list").write_text("\n".join(sorted(FILES)[:2]))
    code, text = run("free", "city", "--files-from", str(tmp_path / "list"), "--no-wait", "--json")
    assert (code, json.loads(text)["files_total"]) == (0, 2)
    code, text = run("free", "city", "--policy", "older-than", "--days", "7", "--json")
    assert (code, json.loads(text)["new"]) == (0, {"policy": "older-than", "days": 7.0})
    assert run("free", "city", "--policy", "after-training")[0] == 0
    assert [one.value for one in control.settings() if one.key == "free.city"] == [
        {"policy": "after-training"}
    ]
    assert run("free", "city", "--policy", "none")[0] == 0
    assert [one for one in control.settings() if one.key == "free.city"] == []
    for wrong in (["--policy", "never"], ["--policy", "older-than"], ["--policy", "pressure", "--days", "3"]):
        assert run("free", "city", *wrong)[0] == 2


def test_settings_are_shown_set_and_taken_back(control: Control, run: Run) -> None:
    code, text = run("config", "set", "heartbeat_interval_s", "7", "--dry-run", "--json")
    asked = json.loads(text)
    assert (code, asked["applied"], asked["nodes"]) == (0, False, ["b1", "b2"])
    code, text = run("config", "set", "heartbeat_interval_s", "7")
    assert code == 0 and "default → 7" in text and "2 nodes" in text
    code, text = run("config", "set", "link.idc-a.idc-b", '{"bps": 5}')
    code, text = run("config", "show", "--json")
    found = json.loads(text)
    assert found["heartbeat_interval_s"] == {"value": 7.0, "default": 2.0, "chosen": True}
    assert found["link.idc-a.idc-b"]["value"] == {"bps": 5}
    history = json.loads(run("config", "history", "--json")[1])
    assert [one["key"] for one in history] == ["link.idc-a.idc-b", "heartbeat_interval_s"]
    code, text = run("config", "revert", str(history[1]["number"]))
    assert code == 0 and "7.0 → default" in text
    assert run("config", "history", "heartbeat_interval_s")[0] == 0 and run("config", "show")[0] == 0
    assert run("config", "set", "nothing", "1")[0] == 1 and run("config", "set", "keep_days")[0] == 2
    assert run("config", "revert", "99")[0] == 1


def test_top_shows_rates_between_two_looks(control: Control, published: Published, run: Run) -> None:
    job = json.loads(run("warm", "city", "--no-wait", "--json")[1])
    hold(control, published, 6)
    code, text = run("top", "--json", "--every", "0.2", "--rounds", "2")
    looks = [json.loads(line) for line in text.splitlines()]
    assert code == 0 and len(looks) == 2
    assert [node["node"] for node in looks[0]["nodes"]] == ["b1", "b2"]
    assert [one["id"] for one in looks[0]["jobs"]] == [job["id"]]
    assert looks[0]["nodes"][0]["versions"] == 1 and looks[0]["nodes"][0]["hit_rate"] is None
    code, text = run("top", "--every", "0.2")
    assert code == 0 and "b1" in text and "city@v1" in text


def test_affinity_is_what_kubernetes_takes(control: Control, published: Published, run: Run) -> None:
    assert run("residency", "--affinity", "city")[0] == 1  # nobody holds any
    run("warm", "city", "--no-wait")
    hold(control, published, 12, "b1")
    hold(control, published, 6, "b2")
    code, text = run("residency", "--affinity", "city@v1")
    found = yaml.safe_load(text)
    assert code == 0 and list(problems(found, "V1Affinity", "affinity")) == []
    terms = found["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [term["weight"] for term in terms] == [100, 50]
    code, text = run("residency", "--affinity", "city", "--required", "--json")
    required = json.loads(text)["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] == ["b1"]
    code, text = run("residency", "--affinity", "city", "--by-label")
    assert code == 0 and f"outlap.dev/{published.version[:12]}" in text


def test_who_may_not_is_told_so(control: Control, run: Run) -> None:
    token = control.create_token(TokenRequest(name="reader", verbs=("read",))).token
    (Path(os.environ["OUTLAP_HOME"]) / "token").write_text(str(token))
    assert run("jobs")[0] == 0 and run("config", "show")[0] == 0
    assert run("warm", "city", "--no-wait")[0] == 1 and run("config", "set", "keep_days", "3")[0] == 1


@pytest.mark.fault("C11", "E3")
def test_a_pin_is_shown_and_frees_only_by_force(
    control: Control, published: Published, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("warm", "city", "--no-wait")
    hold(control, published, 12)
    assert run("pin", "city", "--nodes", "b1")[0] == 0
    control.drain("b2")
    code, text = run("residency", "--json")
    said = {one["node"]: (one["pinned"], one["pinned_by"], one["draining"]) for one in json.loads(text)}
    assert code == 0 and said == {"b1": (True, "admin", False), "b2": (False, None, True)}
    code, text = run("residency")
    assert code == 0 and "by admin" in text and "draining" in text
    code, text = run("nodes", "--json")
    (nodes,) = json.loads(text).values()
    assert [(one["pinned_total"], one["draining"]) for one in nodes] == [(1, False), (0, True)]
    code, text = run("nodes")
    assert code == 0 and "draining" in text and "pinned" in text
    capsys.readouterr()
    assert cli.run(["free", "city"]) == 1
    refused = capsys.readouterr().err
    assert "pinned on b1 by admin" in refused and "--force" in refused
    assert control.desired("b1").versions[0].pinned
    assert run("free", "city", "--force", "--no-wait")[0] == 0
    assert control.desired("b1").versions == ()
