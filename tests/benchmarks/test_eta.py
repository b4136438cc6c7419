"""`outlap bench eta`, small: a real node warms over a shaped link, and its figures are those of what was said."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.eta import Case, Look, Size, Watched, measure
from benchmarks.report import cells, to_markdown


@pytest.fixture
def disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="outlap-bench-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.fault("B4")
def test_one_warm_is_watched(disk: Path, tmp_path: Path) -> None:
    case = Case("files", 40, 30_000, 90_000)
    found = measure(disk, tmp_path, Size((case,), 3.0, 1))
    assert [row.name.partition(": ")[2] for row in found.rows] == [
        "time of a warm",
        "until the first bytes are told",
        "worst error of the ETA",
        "longest time without progress",
    ]
    assert all(row.value > 0 and len(cells(row)) == 7 for row in found.rows)
    assert "# outlap bench eta" in to_markdown(found)
    assert list(tmp_path.iterdir()) == []


def test_figures_are_of_what_was_said() -> None:
    looks = (
        Look(0.5, 0, 0, None),  # before a tenth of the time nobody knows
        Look(1.0, 10, 0, 12.0),
        Look(10.0, 20, 0, 10.0),
        Look(13.0, 20, 20, 7.0),
        Look(19.0, 30, 20, 3.0),  # 1 s was left: 2 off, of 5
    )
    found = Watched(looks, 20.0)
    assert found.worst_error() == pytest.approx(2 / 5)
    assert found.moved() == [1.0, 10.0, 19.0]
    assert found.longest_gap() == 9.0
    nobody = Watched((Look(5.0, 1, 0, 5.0), Look(8.0, 2, 0, None)), 10.0)
    assert nobody.worst_error() == pytest.approx(2 / 5)
