"""`outlap simulate`: a group of a thousand nodes on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson

GBIT = 1e9 / 8


def simulate(
    nodes: Annotated[int, typer.Option(min=2, max=5000, help="Nodes of the group.")] = 1000,
    frames: Annotated[int, typer.Option(min=2, max=10_000_000_000, help="Frames, in packs.")] = 100_000_000,
    copies: Annotated[int, typer.Option(min=1, max=16, help="Nodes that hold each pack in `spread`.")] = 2,
    store_gbit: Annotated[float, typer.Option(min=0.001, help="What the store sends, Gbit/s.")] = 100,
    nic_gbit: Annotated[float, typer.Option(min=0.001, help="A node's network card, Gbit/s each way.")] = 25,
    disk_gb: Annotated[float, typer.Option(min=0.001, help="What a node's disks take, GB/s.")] = 3,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the figures into this SVG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Who would hold what in a large group, what moves when it changes, and how long a warm could take."""
    from benchmarks import report
    from benchmarks import simulate as simulated
    from cacheengine.simulation import Rates

    rates = Rates(store_gbit * GBIT, nic_gbit * GBIT, disk_gb * 1e9)
    found = simulated.figures(simulated.Setup(nodes, frames, copies, rates))
    told = simulated.to_report(found)
    if plot is not None:
        simulated.draw(found, plot)
    if as_json:
        show.line(report.to_json(told))
        return
    show.table(report.COLUMNS, [report.cells(row) for row in told.rows], title=told.title)
    for note in told.notes:
        show.say(note)
