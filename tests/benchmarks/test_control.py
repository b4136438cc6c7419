"""The reporting traffic of a group, by simulation over real HTTP: no node is lost, and what is sent is what changed."""

from __future__ import annotations

import pytest

from benchmarks.control import Outcome, run, simulate
from benchmarks.report import cells


def check(found: Outcome, nodes: int) -> None:
    for phase in (found.joining, found.steady, found.warming):
        assert phase.bad == [], phase.bad[:3]
        assert phase.cpu_s > 0
    # all of it once; a node may say it again where its first answer was long in coming
    assert nodes <= found.joining.full <= 2 * nodes
    assert found.steady.full == found.warming.full == 0
    beats = len(found.steady.latencies)
    assert found.steady.sent / beats < 0.1 * found.full_bytes
    # so often and no more: one round more than the seconds hold
    assert 0 < beats <= nodes * (found.steady.seconds / found.interval_s + 1)
    assert found.job.state == "done" and len(found.job.nodes) == nodes
    assert found.job.files_done == found.job.files_total == 30


def test_a_hundred_nodes() -> None:
    check(simulate(100, 20, 1.0, interval_s=0.5), 100)


@pytest.mark.slow
def test_a_thousand_nodes_of_a_hundred_versions() -> None:
    found = simulate(1000, 100, 20.0)
    check(found, 1000)
    assert found.interval_s == 5.0  # so that all of them send 200 a second


@pytest.mark.slow
def test_the_benchmark_shows_what_it_measured() -> None:
    report = run(quick=True)
    assert "100 nodes × 20 versions" in report.title
    assert all(len(cells(row)) == 7 for row in report.rows)
