"""`outlap demo`: the whole loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson


def demo(
    recordings: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            metavar="PATH",
            exists=True,
            help="A recording or a folder of them, each a drive; more of them may follow.",
        ),
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH", exists=True, help="More for --input.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The whole loop on this machine, through Airflow: a drive comes in, a warm and verified dataset is read.

    Starts the local stack if it is not up; makes a synthetic drive of three 4K cameras unless --input names real recordings.
    Airflow ingests, publishes, syncs, warms and trains; then both nodes mount the version and every byte is compared. Exit
    code 0 only if all are equal. Run it again: it does only what is new. `outlap down` ends the stack.
    """
    from outlap.demo import run
    from outlap.demo_summary import as_pairs

    if more and not recordings:
        raise typer.BadParameter(f"{more[0]} stands alone: recordings come after --input")
    summary = run((*(recordings or ()), *(more or ())), show.say)
    if as_json:
        show.json_line(summary)
    else:
        show.pairs(as_pairs(summary), title="The loop, done")
