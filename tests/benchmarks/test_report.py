"""The report of every benchmark: its JSON is the design's, and a goal is met or not by the figure that it is about."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report
from benchmarks.report import Plot, Report, Row, row
from lake.errors import Refused

FIGURES = st.floats(min_value=0.001, max_value=1e9)
SAMPLE = Report(
    title="outlap bench sample",
    machine=report.machine({"juicefs": "1.4"}),
    rows=(row("ours | mine", 1500.0, "files/s", ("ext4", 1000.0), ">= 1.1"), row("memory", 600, "bytes")),
    notes=("said with care",),
    plots=(Plot("reads", "files/s", ("cold", "hot"), {"ours": [1.0, 2.0], "theirs": [None, 1.0]}),),
)


def test_the_json_has_the_form_of_the_design() -> None:
    value = json.loads(report.to_json(SAMPLE))
    assert set(value) == {"machine", "rows"}
    assert {"kernel", "cores", "processor", "memory", "python", "juicefs"} == set(value["machine"])
    assert [list(one) for one in value["rows"]] == [
        ["name", "value", "unit", "against", "ratio", "goal", "met"]
    ] * 2
    assert value["rows"][0] == {
        "name": "ours | mine",
        "value": 1500.0,
        "unit": "files/s",
        "against": "ext4",
        "ratio": 1.5,
        "goal": ">= 1.1",
        "met": True,
    }
    assert value["rows"][1]["against"] is value["rows"][1]["ratio"] is value["rows"][1]["met"] is None


@given(FIGURES, FIGURES, st.floats(min_value=0.01, max_value=100))
def test_a_goal_is_about_the_ratio_where_there_is_one(value: float, base: float, limit: float) -> None:
    limit = float(f"{limit:.4f}")
    least = row("x", value, "s", ("y", base), f">= {limit}")
    most = row("x", value, "s", ("y", base), f"<= {limit}")
    assert least.ratio == most.ratio == value / base
    assert least.met == (value / base >= limit)
    assert most.met == (value / base <= limit)
    assert row("x", value, "s", None, f"<= {limit}").met == (value <= limit)


def test_nothing_is_compared_with_zero() -> None:
    made = row("x", 5, "s", ("y", 0), ">= 1")
    assert (made.ratio, made.met) == (None, None)


@pytest.mark.parametrize("goal", ["1.1", "> 1", ">=1", ">= x", "fast"])
def test_what_is_no_goal_is_refused(goal: str) -> None:
    with pytest.raises(Refused, match="goal"):
        row("x", 1, "s", ("y", 1), goal)


def test_the_page_has_every_row_and_breaks_no_table() -> None:
    page = report.to_markdown(SAMPLE, "sample.svg")
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == 2 * 2 + 1 + len(SAMPLE.rows)  # the one with a goal stands in both tables
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "| 1.50 | >= 1.1 | yes |" in page
    assert "- said with care" in page
    assert "![outlap bench sample](sample.svg)" in page


def test_a_section_takes_the_place_of_its_older_one_alone() -> None:
    page = "# Benchmarks\n\nprose\n"
    for title in ("a", "b", "a"):
        page = report.into_page(page, f"# {title}\n\n## more\n\nold {title}\n")
    assert page == "# Benchmarks\n\nprose\n\n# a\n\n## more\n\nold a\n\n# b\n\n## more\n\nold b\n"
    assert report.into_page(page, "# a\n\nnew\n") == (
        "# Benchmarks\n\nprose\n\n# a\n\nnew\n\n# b\n\n## more\n\nold b\n"
    )
    assert report.into_page("", "# a\n") == "# a\n"


@given(FIGURES)
def test_numbers_keep_their_size(value: float) -> None:
    shown = float(report.number(value).replace(",", ""))
    assert math.isclose(shown, value, rel_tol=0.006, abs_tol=0.51 if value >= 100 else 0)


def test_the_plot_is_a_picture_of_every_group(tmp_path: Path) -> None:
    report.write_plot(SAMPLE, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "<!-- theirs -->" in text


def test_a_row_is_what_it_says() -> None:
    assert report.cells(Row("x", 12345.6, "files/s", "ext4", 0.5, ">= 1", False)) == (
        "x",
        "12,346",
        "files/s",
        "ext4",
        "0.5",
        ">= 1",
        "NO",
    )
