"""What every benchmark gives back, and how it is shown: the JSON of the design, a table, and Markdown for `docs/`.

A row compares at most once: `value` in `unit`, `ratio` to what stands in `against`, and a goal for the ratio (for the value
where the row is against nothing). A goal is text such as ">= 1.1" or "<= 0.02", so that a person and a program read the same.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lake.errors import Refused

_GOAL = re.compile(r"(>=|<=) ([0-9.]+)")


@dataclass(frozen=True)
class Row:
    """One figure. against: what the ratio is to, in words; met: None where there is no goal."""

    name: str
    value: float
    unit: str
    against: str | None = None
    ratio: float | None = None
    goal: str | None = None
    met: bool | None = None


@dataclass(frozen=True)
class Plot:
    """Bars: a group for each of `groups`, a bar in it for each series (name → a value for each group, None: not measured)."""

    title: str
    unit: str
    groups: tuple[str, ...]
    series: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Report:
    """title, notes: for people, in the table and the Markdown; the JSON is `machine` and `rows` alone."""

    title: str
    machine: Mapping[str, str]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = field(default=())


def is_met(figure: float, goal: str) -> bool:
    """Whether a figure reaches a goal such as ">= 1.1". Raises Refused for what is no goal."""
    found = _GOAL.fullmatch(goal)
    if found is None:
        raise Refused(f"the goal {goal!r}", "a goal reads like >= 1.1 or <= 0.02")
    limit = float(found[2])
    return figure >= limit if found[1] == ">=" else figure <= limit


def row(
    name: str, value: float, unit: str, against: tuple[str, float] | None = None, goal: str | None = None
) -> Row:
    """A row; against: (what it is compared with, that one's value in the same unit). The ratio is value / against."""
    ratio = None if against is None or against[1] == 0 else value / against[1]
    figure = value if against is None else ratio
    met = None if goal is None or figure is None else is_met(figure, goal)
    return Row(name, value, unit, None if against is None else against[0], ratio, goal, met)


def machine(versions: Mapping[str, str] | None = None) -> dict[str, str]:
    """Kernel, processor, memory and Python of this machine; versions: of the programs that were measured."""
    return {
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": _processor(),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
        "python": ".".join(map(str, sys.version_info[:3])),
        **(versions or {}),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def to_json(report: Report) -> str:
    """`{"machine": {…}, "rows": [{"name", "value", "unit", "against", "ratio", "goal", "met"}]}`."""
    value = {"machine": dict(report.machine), "rows": [asdict(row) for row in report.rows]}
    return json.dumps(value, indent=2)


COLUMNS = ("what", "value", "unit", "against", "ratio", "goal", "met")


def number(value: float | None) -> str:
    """Three digits that count; thousands apart."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def cells(row: Row) -> tuple[str, ...]:
    """A row as people read it, under COLUMNS."""
    met = "" if row.met is None else "yes" if row.met else "NO"
    ratio = "" if row.ratio is None else number(row.ratio)
    return (row.name, number(row.value), row.unit, row.against or "", ratio, row.goal or "", met)


def _markdown_table(rows: Sequence[Row]) -> list[str]:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|--:|---|---|--:|---|---|"]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in rows]


def to_markdown(report: Report, picture: str | None = None) -> str:
    """A page: machine, what has a goal, every figure, notes. picture: file name of the plot, beside the page."""
    lines = [f"# {report.title}", ""]
    lines += [f"- {name}: {value}" for name, value in report.machine.items()]
    lines += ["", "## Next to the goals", "", *_markdown_table([row for row in report.rows if row.goal])]
    lines += ["", "## Every figure", "", *_markdown_table(report.rows)]
    lines += ["", "## How it was measured", "", *(f"- {note}" for note in report.notes)]
    if picture is not None:
        lines += ["", f"![{report.title}]({picture})"]
    return "\n".join(lines).rstrip() + "\n"


def into_page(page: str, section: str) -> str:
    """A page with this section in place of the one under the same first heading, or at its end; the rest stays."""
    heading = section.split("\n", 1)[0]
    pieces = re.split(r"^(?=# )", page, flags=re.MULTILINE)
    places = [place for place, piece in enumerate(pieces) if piece.split("\n", 1)[0] == heading]
    if not places:
        return page.rstrip() + "\n\n" + section if page.strip() else section
    after = "\n" if places[0] + 1 < len(pieces) else ""
    pieces[places[0]] = section + after
    return "".join(pieces)


def pyplot(path: Path) -> Any:
    """matplotlib, set to draw the same SVG for the same figures. Raises Refused where it is missing (`make bench` installs it)."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise Refused(
            f"the plot {path}", "matplotlib is not installed", "install outlap[bench] (`make bench`)"
        ) from error
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "outlap"
    from matplotlib import pyplot

    return pyplot


def write_plot(report: Report, path: Path) -> None:
    """All plots of a report as one SVG. Raises Refused where matplotlib is missing."""
    drawing = pyplot(path)
    count = len(report.plots)
    figure, axes = drawing.subplots(count, 1, figsize=(11, 3.6 * count), squeeze=False)
    for axis, plot in zip(axes[:, 0], report.plots, strict=True):
        width = 0.85 / max(1, len(plot.series))
        for place, (name, values) in enumerate(plot.series.items()):
            at = [group + (place - (len(plot.series) - 1) / 2) * width for group in range(len(plot.groups))]
            axis.bar(at, [value or 0 for value in values], width, label=name)
        axis.set_xticks(range(len(plot.groups)), plot.groups)
        axis.set_title(plot.title, loc="left")
        axis.set_ylabel(plot.unit)
        axis.legend(fontsize="x-small", ncols=3)
        axis.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    drawing.close(figure)
