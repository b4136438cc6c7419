"""`outlap down`: end the local stack."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson


def down(
    delete_data: Annotated[
        bool,
        typer.Option(
            "--delete-data", help="Delete stores, caches, logs and secrets too. There is no way back."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """End the local stack: every process, and every mount of its nodes. Data stays for the next `outlap up`."""
    from lake.config import home
    from outlap.stack.down import down as stop

    done = stop(delete_data=delete_data, say=show.say)
    if as_json:
        show.json_line({**asdict(done), "home": str(home())})
        return
    show.line("down" if done.was_up or done.ended else "the stack was not up; nothing of it is left running")
    if not delete_data:
        show.line(f"data stays in {home()} (`outlap down --delete-data` deletes it)")
