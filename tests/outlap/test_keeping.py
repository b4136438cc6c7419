"""history, rollback, delete, undelete, retention, gc, repack and delete-drive from the command line."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from lake import stores
from lake.config import StoreConfig
from lake.errors import Refused
from outlap import cli
from outlap.commands.history import moment_ns
from tests.lake.frames import cut

SETTINGS = """
here = "idc-a"
[idc.idc-a]
store = "lake"
[store.lake]
idc = "idc-a"
url = "file://{home}/lake"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    for name in ("OUTLAP_CONFIG", "OUTLAP_IDC"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "outlap.toml").write_text(SETTINGS.format(home=tmp_path))
    return tmp_path


def outlap(capsys, *arguments, code=0):
    assert cli.run([*arguments, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def publish(capsys, place, text):
    (place / "files").mkdir(exist_ok=True)
    (place / "files" / "x").write_text(text)
    return outlap(capsys, "publish", "a", "--from", str(place / "files"))["version"]


def test_a_tag_goes_back_and_forth(place, capsys):
    made = [publish(capsys, place, text) for text in ("one", "two", "three")]
    past = outlap(capsys, "history", "a")
    assert [ref["version"] for ref in past] == made
    second = datetime.fromtimestamp(past[1]["moved_ns"] / 1e9 + 1e-3, UTC).isoformat()
    assert outlap(capsys, "history", "a", "--at", second)[0]["version"] == made[1]
    assert outlap(capsys, "rollback", "a", "--at", second)["version"] == made[1]
    assert outlap(capsys, "rollback", "a", "--to", "v1")["was"] == made[1]
    assert cli.run(["rollback", "a"]) == 2
    assert cli.run(["rollback", "a@v1", "--to", "v2"]) == 1
    assert "for ever" in capsys.readouterr().err
    assert outlap(capsys, "delete", "a@v2")["ref"]["version"] == made[1]
    assert [item["ref"]["tag"] for item in outlap(capsys, "undelete")] == ["v2"]
    assert outlap(capsys, "undelete", "a@v2")["version"] == made[1]
    assert cli.run(["delete", "a"]) == cli.run(["undelete", "a@v9"]) == 1
    assert outlap(capsys, "retention", "a") is None
    assert outlap(capsys, "retention", "a", "--last", "1", "--days", "0") == {"last": 1, "days": 0.0}
    dry = outlap(capsys, "gc")
    assert dry["dry_run"] and dry["tags"] == ["a@v2"]
    assert outlap(capsys, "gc", "--delete", "--grace-days", "0")["tags"] == ["a@v2"]
    outlap(capsys, "gc", "--delete", "--grace-days", "0")
    assert outlap(capsys, "gc", "--delete", "--grace-days", "0")["held_by"] == []
    assert outlap(capsys, "verify", "a")["problems"] == outlap(capsys, "verify", "a@v3")["problems"] == []
    assert cli.run(["verify", made[1][:12]]) == 1
    assert outlap(capsys, "repack", "a", "--dry-run")["packs"] == []


def test_a_drive_is_deleted(place, capsys):
    store = stores.open_store(StoreConfig(name="lake", idc="idc-a", url=f"file://{place}/lake"))
    for drive in ("d1", "d2"):
        cut(store, place, drive, 3)
    made = outlap(capsys, "publish", "a", "--query", "select * from frames")
    named = outlap(capsys, "lineage", "car/d1")  # as ingest and quarantine name it
    assert named == outlap(capsys, "lineage", "d1") and named["versions"]
    assert cli.run(["lineage", "bus/d1"]) == 1
    plan = outlap(capsys, "delete-drive", "car", "d1")
    assert plan["dry_run"] and plan["versions"][0]["old"] == made["version"] and plan["rest"]
    assert outlap(capsys, "show", "a@latest")["files"] == 6
    done = outlap(capsys, "delete-drive", "car", "d1", "--delete")
    assert done["versions"][0]["files"] == 3
    assert outlap(capsys, "show", "a@latest")["files"] == 3
    assert outlap(capsys, "verify", "a")["problems"] == []
    assert cli.run(["delete-drive", "car", "../x"]) == 1


def test_moments():
    assert moment_ns("1970-01-02T00:00:00+01:00") == 82_800 * 10**9
    assert moment_ns("1970-01-02T00:00") == 86_400 * 10**9
    assert moment_ns("1970-01-01") == 86_400 * 10**9 - 1000
    with pytest.raises(Refused, match="time"):
        moment_ns("Tuesday")


def test_what_nodes_shall_hold_is_needed(place, capsys, monkeypatch):
    """gc asks the control service of every IDC; one that does not answer is an error, never "nobody needs it"."""
    made = [publish(capsys, place, text) for text in ("one", "two")]
    outlap(capsys, "delete", "a@v1")
    settings = SETTINGS.format(home=place).replace(
        'store = "lake"', 'store = "lake"\ncontrol = "http://127.0.0.1:9"'
    )
    (place / "outlap.toml").write_text(settings)
    assert cli.run(["gc"]) == 1
    control = SimpleNamespace(
        nodes=lambda: [SimpleNamespace(node="n1")],
        desired=lambda node: SimpleNamespace(versions=[SimpleNamespace(version=made[0])]),
    )
    monkeypatch.setattr("cacheengine.client.control_for", lambda config, idc: nullcontext(control))
    for _ in range(3):
        done = outlap(capsys, "gc", "--delete", "--grace-days", "0")
    assert done["marked"] == 0
    monkeypatch.setattr(control, "nodes", lambda: [])
    assert len(outlap(capsys, "gc", "--grace-days", "0")["deleted"]) > 4
