"""outlap quarantine and profile, on stores that are directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lake import landing
from lake.config import StoreConfig
from lake.stores import open_store
from outlap import cli
from outlap.synthetic import START_NS, Clip, make_recording

SETTINGS = """
here = "idc-a"
[idc.idc-a]
store = "lake"
landing = "landing"
[store.lake]
idc = "idc-a"
url = "file://{home}/lake"
[store.landing]
idc = "idc-a"
url = "file://{home}/landing"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    monkeypatch.delenv("OUTLAP_CONFIG", raising=False)
    monkeypatch.delenv("OUTLAP_IDC", raising=False)
    (tmp_path / "outlap.toml").write_text(SETTINGS.format(home=tmp_path))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert cli.run([*arguments, "--json"]) == code, capsys.readouterr().err
    said = capsys.readouterr()
    found = json.loads(said.out)
    return said.err if isinstance(found, dict) and "error" in found else found


def land(home: Path, drive: str, data: bytes) -> None:
    source = home / "source" / drive
    source.mkdir(parents=True, exist_ok=True)
    (source / "CAM.mp4").write_bytes(data)
    store = open_store(StoreConfig(name="landing", idc="idc-a", url=f"file://{home}/landing"))
    landing.upload_drive(store, source, "car", drive, start_ns=START_NS)


def test_refused_drives_are_listed_shown_and_tried_again(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / "good.mp4"
    make_recording(
        path, Clip(width=640, height=360, fps=10, frames=5, codec="libx264", gop=5, params="threads=1")
    )
    for drive in ("one", "two"):
        land(home, drive, b"")
        assert run(capsys, "ingest", f"car/{drive}", code=1)[0]["outcome"] == "quarantined"
    found = run(capsys, "quarantine", "ls")
    assert [(e["vehicle"], e["drive"], e["findings"][0]["rule"]) for e in found] == [
        ("car", "one", "empty-file"),
        ("car", "two", "empty-file"),
    ]
    assert run(capsys, "quarantine", "ls", "--rule", "checksum") == []
    assert run(capsys, "quarantine", "show", "car/one")["findings"][0]["evidence"] == "it has 0 bytes"
    assert cli.run(["quarantine", "show", "car/one"]) == 0
    assert "empty-file\tCAM.mp4\tseen\tit has 0 bytes" in capsys.readouterr().out

    land(home, "one", path.read_bytes())
    reports = run(capsys, "quarantine", "retry", "--all", code=3)
    assert [report["outcome"] for report in reports] == ["ingested", "quarantined"]
    assert [entry["drive"] for entry in run(capsys, "quarantine", "ls")] == ["two"]
    run(capsys, "quarantine", "retry", "car/two", code=1)
    assert "not in quarantine" in run(capsys, "quarantine", "retry", "car/one", code=1)[0]["error"]
    assert "--all" in run(capsys, "quarantine", "retry", code=1)
    run(capsys, "quarantine", "retry", "--all", "--rule", "checksum")


def test_a_profile_refuses_and_once_changed_lets_in(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "good.mp4"
    make_recording(
        path, Clip(width=640, height=360, fps=10, frames=5, codec="libx264", gop=5, params="threads=1")
    )
    land(home, "one", path.read_bytes())
    strict = home / "strict.json"
    strict.write_text(json.dumps({"channels": {"CAM": {}, "CAM_LEFT": {}}, "positions": True}))
    run(capsys, "profile", "car", "--set", str(strict))
    rules = [found["rule"] for found in run(capsys, "ingest", "car/one", code=1)[0]["findings"]]
    assert rules == ["missing-channel", "no-positions"]
    strict.write_text(json.dumps({"channels": {"CAM": {"width": 640, "height": 360, "min_hz": 9}}}))
    assert run(capsys, "profile", "car", "--set", str(strict))["channels"]["CAM"]["width"] == 640
    assert run(capsys, "quarantine", "retry", "car/one")[0]["outcome"] == "ingested"
    assert cli.run(["profile", "car"]) == 0
    assert "CAM\t640\t360\t9.0" in capsys.readouterr().out
    strict.write_text('{"cameras": 3}')
    assert "cameras" in run(capsys, "profile", "car", "--set", str(strict), code=1)
    strict.write_text("{")
    assert "no JSON" in run(capsys, "profile", "car", "--set", str(strict), code=1)
