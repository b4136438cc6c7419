"""The benchmark of manifests measures what it says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import lakerows


def test_phases_do_what_they_count(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path / "no-home"))
    rows = 8 * lakerows.DRIVE_ROWS
    found = {
        name: lakerows.measure(name, tmp_path, rows)
        for name in (
            "build",
            "change",
            "grow",
            "verify",
            "diff",
            "diff-grown",
            "catalog",
            "query",
            "query-day",
        )
    }
    assert found["build"]["rows"] == found["verify"]["rows"] == found["query"]["rows"] == rows
    assert found["diff"]["changed"] == found["diff-grown"]["changed"] == lakerows.DRIVE_ROWS
    assert (found["query"]["files"], found["query-day"]["files"]) == (8, 1)
    assert all(one["seconds"] > 0 and one["peak_mib"] > 1 for one in found.values())


def measured(phase, folder, rows):
    command = [sys.executable, "-m", "benchmarks.lakerows", phase, str(folder), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(1500)  # two minutes on a machine that does nothing else
def test_ten_million_rows_fit_a_gibibyte(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path / "no-home"))
    for phase in ("build", "build-other", "verify", "diff-all", "catalog", "query"):
        found = measured(phase, tmp_path, 10_000_000)
        assert found["rows"] > 9_900_000
        assert found["peak_mib"] <= 1024, (phase, found)
