"""`outlap top`: the cache groups as they work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlap import show
from outlap.options import AsJson

if TYPE_CHECKING:
    from outlap.live import Sample


def top(
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 2.0,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, help="How many looks; default: until interrupted, one in a pipe."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Nodes, what each fetches and from where, hit rates and running jobs, again and again. --json: a line for each look."""
    import sys

    from lake.config import load_config
    from outlap import live

    config = load_config()
    person = sys.stdout.isatty() and not as_json
    left = rounds if rounds is not None else None if person else 1
    before = live.look(config)
    while left is None or left > 0:
        time.sleep(every)
        now = live.look(config)
        found = live.between(before, now)
        if as_json:
            show.line(live.to_json(found))
        elif person:
            _draw(found)
        else:
            _tables(found)
        before = now
        left = None if left is None else left - 1


def _tables(found: Sample) -> None:
    show.table(found.node_columns, found.nodes, title=found.title)
    show.table(found.job_columns, found.jobs)


def _draw(found: Sample) -> None:
    from rich.console import Console

    console: Any = Console()
    console.clear()
    _tables(found)
