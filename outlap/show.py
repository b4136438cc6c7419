"""How commands speak: tables and progress bars for a person, plain lines for a pipe, JSON when asked.

Results go to stdout, everything on the way there to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from lake.errors import Explained
from lake.unreadable import Unreadable


class Progress(Protocol):
    """Shows how far something is. note: what the numbers do not say; left_s: seconds that it still takes, where somebody knows."""

    def __call__(
        self, what: str, done: int, total: int, note: str = "", left_s: float | None = None
    ) -> None: ...


Unit = str | Callable[[str], str]


def json_line(value: Any) -> None:
    """The one JSON document of a command."""
    print(json.dumps(value, indent=2, default=str))


def line(text: str) -> None:
    print(text)


def say(text: str) -> None:
    """A step on the way, for whoever follows."""
    print(text, file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A table on a terminal; in a pipe a line of names and a line for each row, cells apart by a tab."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in ([*columns], *cells):
            print("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for name in columns:
        shown.add_column(name, overflow="fold")
    for row in cells:
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)


def pairs(rows: Sequence[tuple[str, object]], title: str = "") -> None:
    """Names and values, one pair a line."""
    if not sys.stdout.isatty():
        for name, value in rows:
            print(f"{name}\t{value}")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title or None, box=box.SIMPLE, show_header=False, title_justify="left")
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in rows:
        shown.add_row(name, Text(str(value)))
    Console().print(shown)


@contextmanager
def progress(unit: Unit = "bytes") -> Iterator[Progress]:
    """A callback (what, done, total): a bar on a terminal, in a pipe a line at each quarter. unit: of all, or by what."""
    if sys.stderr.isatty():
        with _bars(unit) as bars:
            yield bars
        return
    quarters: dict[str, int] = {}

    def report(what: str, done: int, total: int, note: str = "", left_s: float | None = None) -> None:
        quarter = 4 * done // total if total else 4
        if quarter > quarters.get(what, -1):
            quarters[what] = quarter
            left = f", about {seconds(left_s)} left" if left_s else ""
            say(
                f"{what}: {amount(done, _unit(unit, what))} of {amount(total, _unit(unit, what))}{note}{left}"
            )

    yield report


@contextmanager
def _bars(unit: Unit) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Left(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            left_s = task.fields["left_s"]
            return super().render(task) if left_s is None else Text(f"about {seconds(left_s)} left")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        Left(),
    )
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True), transient=False) as bars:

        def report(what: str, done: int, total: int, note: str = "", left_s: float | None = None) -> None:
            shown = f"{amount(done, _unit(unit, what))} of {amount(total, _unit(unit, what))}{note}"
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, amount=shown, left_s=left_s)
            bars.update(tasks[what], completed=done, total=total, amount=shown, left_s=left_s)

        yield report


def _unit(unit: Unit, what: str) -> str:
    return unit if isinstance(unit, str) else unit(what)


def amount(value: float, unit: str = "bytes") -> str:
    return size(value) if unit == "bytes" else f"{value:,.0f} {unit}"


def size(count: float) -> str:
    """Bytes as a person reads them: 1.5 MiB."""
    for name in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or name == "TiB":
            return f"{count:.0f} {name}" if name == "B" else f"{count:.1f} {name}"
        count /= 1024
    raise AssertionError("not reached")


def seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def moment(at_ns: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def error_fields(found: Explained) -> dict[str, str]:
    """An error as the JSON of a command has it: `kind` is its class, for programs; the rest is for people."""
    return {"kind": type(found).__name__, "what": found.what, "why": found.why, "fix": found.fix}


def unreadable(found: Sequence[Unreadable]) -> None:
    """What was set aside because it cannot be read, on stderr."""
    for one in found:
        say(f"unreadable: {one.key}: {one.why}")


def error(found: Explained) -> None:
    """What failed, why, and what to do next, on stderr."""
    if not sys.stderr.isatty():
        say(f"error: {found.what}")
        if found.why:
            say(f"  why: {found.why}")
        if found.fix:
            say(f"  next: {found.fix}")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), found.what))
    for name, text in (("why", found.why), ("next", found.fix)):
        if text:
            console.print(Text.assemble((f"  {name}: ", "bold"), text))
