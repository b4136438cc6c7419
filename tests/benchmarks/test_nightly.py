from __future__ import annotations

import pytest

from benchmarks import nightly
from benchmarks.report import is_met


def test_the_cost_of_a_night_follows_what_is_new(tmp_path):
    """8,000 frames, one drive in 40 new. What every night asks whatever it finds is told apart by a night that finds nothing."""
    measured = nightly.measure(tmp_path, 8_000)
    full, new, again = (nightly.total(measured[kind]) for kind in ("full", "1 %", "repeated"))
    assert new.bytes <= 0.06 * full.bytes
    # of one drive, and of a version that is new: however large the lake is
    assert new.requests <= 100 < full.requests / 4
    assert again.requests <= 75 and again.bytes <= 0.01 * full.bytes
    rows = nightly.rows_of(measured, 8_000)
    assert {row.goal for row in rows} == {None, nightly.GOAL}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_night_with_one_percent_new_costs_three_percent(tmp_path):
    """200,000 frames in 1,000 drives; ten more the night after."""
    for row in nightly.rows_of(nightly.measure(tmp_path, 200_000), 200_000):
        if row.goal is not None:
            assert row.ratio is not None and is_met(row.ratio, row.goal), row
