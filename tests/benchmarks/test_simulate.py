"""`outlap simulate`: rows, JSON and the plot, from a group small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import simulate
from outlap.cli import run


def test_it_shows_placement_movement_and_warm_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "plot.svg"
    assert run(["simulate", "--nodes", "20", "--frames", "1000000", "--json", "--plot", str(plot)]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["their bytes"]["value"] == pytest.approx(0.11, rel=0.01)
    assert all(row["met"] for name, row in rows.items() if "it is not about" in name)
    assert 0.5 < rows["a node leaves: bytes that move"]["ratio"] < 2
    assert rows[f"warm of 16 nodes: {simulate.ALL}"]["ratio"] < 0.5
    assert rows[f"warm of 1 nodes: {simulate.ALL}"]["ratio"] == pytest.approx(1, rel=0.01)
    assert "<svg" in plot.read_text()


def test_fewer_frames_than_nodes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--nodes", "20", "--frames", "10"]) == 1
    assert "give two nodes" in capsys.readouterr().err
