"""`outlap up`: start the local stack."""

from __future__ import annotations

from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson


def up(
    airflow: Annotated[
        bool,
        typer.Option(
            "--airflow/--no-airflow", help="Start Airflow too; without it the stack is up in seconds."
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Start the local stack: two IDCs' stores, their control services, two nodes, and Airflow.

    Returns once every program is healthy. Data and logs lie in $OUTLAP_HOME (default ~/.outlap). Ports are free ones, or
    those of `[stack] ports` in outlap.toml. A program that crashes or hangs is restarted, and no other one. A stack that is up already
    is a success. `outlap down` ends it all.
    """
    from lake.config import home
    from outlap.stack.layout import Layout
    from outlap.stack.up import up as start

    done = start(airflow=airflow, say=show.say)
    layout = Layout(home())
    if as_json:
        programs = [{"name": p.name, "address": p.address, "log": str(p.log)} for p in done.programs]
        show.json_line(
            {
                "up": True,
                "was_up": done.was_up,
                "home": str(layout.home),
                "seconds": done.seconds,
                "programs": programs,
            }
        )
        return
    began = "up already" if done.was_up else f"up in {show.seconds(done.seconds)}"
    show.line(f"{began}: {len(done.programs)} programs in {layout.home}, all healthy")
    for page in (p.address for p in done.programs if p.kind == "airflow"):
        show.line(f"Airflow: {page} (user and password: {layout.passwords})")
    show.line("next: `outlap demo`, `outlap status`, `outlap down`")
