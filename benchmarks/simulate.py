"""`outlap simulate`: the figures of a large group on paper (cacheengine.simulation), as rows and as a plot."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import report
from benchmarks.report import Report, Row, row
from cacheengine import simulation
from cacheengine.simulation import Floats, Moved, Packs, Rates
from lake.errors import Refused

GBIT = 1e9 / 8
GROUPS = (1, 2, 4, 8, 16, 32, 64, 125, 250, 500, 1000)


@dataclass(frozen=True)
class Setup:
    """copies: of spread. Nodes have unequal disks (1, 1, 2 and 4 units) but for `all`, where each holds everything."""

    nodes: int = 1000
    frames: int = 100_000_000
    copies: int = 2
    rates: Rates = field(default_factory=lambda: Rates(store=100 * GBIT, nic=25 * GBIT, disk=3e9))


@dataclass(frozen=True)
class Figures:
    """even: balance of equal nodes. unequal: of nodes with unequal disks. moves: what changed → what moved.
    warms: nodes → name → seconds.
    """

    setup: Setup
    packs: Packs
    placed_s: float
    even: Floats
    unequal: Floats
    moves: Mapping[str, Moved]
    warms: Mapping[int, Mapping[str, float]]


ALL, ALONE, LEAST = "all, with peers", "all, each node from the store", "all, no order could be faster"
SPREAD, APART = "spread, with peers", "spread, each copy from the store"


def figures(setup: Setup) -> Figures:
    """All of it. Raises Refused for a group of fewer than two nodes or fewer frames than nodes."""
    if setup.nodes < 2 or setup.frames < setup.nodes:
        raise Refused(
            "the simulation",
            f"{setup.nodes} nodes, {setup.frames} frames",
            "give two nodes and a frame for each",
        )
    packs = simulation.make_packs(setup.frames)
    weights = simulation.make_weights(setup.nodes)
    start = time.perf_counter()
    owners = simulation.place(packs, weights, setup.copies)
    placed_s = time.perf_counter() - start
    even = simulation.make_weights(setup.nodes, unequal=False)
    loads = simulation.held(packs, simulation.place(packs, even, setup.copies), setup.nodes)
    some, last = next(iter(weights)), next(reversed(weights))
    changes = {
        "a node joins": (without(weights, last), weights),
        "a node leaves": (weights, without(weights, last)),
        "a node's disks double": (weights, {**weights, some: 2 * weights[some]}),
        "a node is drained": (weights, {**weights, last: 0.0}),
        "a tenth of the nodes leaves": (weights, dict(list(weights.items())[setup.nodes // 10 :])),
    }
    return Figures(
        setup,
        packs,
        placed_s,
        simulation.balance(loads, even),
        simulation.balance(simulation.held(packs, owners, setup.nodes), weights),
        {name: simulation.moved(packs, *pair, setup.copies) for name, pair in changes.items()},
        {count: _warms(packs, count, setup) for count in GROUPS if count <= setup.nodes},
    )


def without(weights: Mapping[str, float], node: str) -> dict[str, float]:
    return {name: weight for name, weight in weights.items() if name != node}


def _warms(packs: Packs, nodes: int, setup: Setup) -> dict[str, float]:
    everywhere = simulation.need_all(packs, nodes)
    spread = simulation.need_spread(packs, simulation.make_weights(nodes), setup.copies)
    return {
        ALONE: simulation.alone_s(everywhere, setup.rates),
        ALL: simulation.warm_s(everywhere, setup.rates),
        LEAST: simulation.least_s(everywhere, setup.rates),
        SPREAD: simulation.warm_s(spread, setup.rates),
        APART: simulation.alone_s(spread, setup.rates),
    }


def _move_rows(moves: Mapping[str, Moved]) -> list[Row]:
    rows = []
    for name, move in moves.items():
        ideal = ("the least that any placement moves", move.ideal / 1e9)
        rows.append(row(f"{name}: bytes that move", move.bytes / 1e9, "GB", ideal))
        rows.append(
            row(f"{name}: between nodes that it is not about", move.elsewhere / 1e9, "GB", None, "<= 0")
        )
    return rows


def to_report(found: Figures) -> Report:
    setup = found.setup
    rows = [
        row("packs", len(found.packs.ids), "packs"),
        row("their bytes", found.packs.bytes / 1e12, "TB"),
        row("placing all packs, from an empty process", found.placed_s, "s"),
        row("fullest node, equal disks", float(found.even.max()), "of its share"),
        row("fullest node, unequal disks", float(found.unequal.max()), "of its share"),
        row("spread of nodes about their share, unequal disks", float(found.unequal.std()), "of its share"),
        *_move_rows(found.moves),
    ]
    for count, warms in found.warms.items():
        for name, other in ((ALL, ALONE), (SPREAD, APART)):
            rows.append(
                row(f"warm of {count} nodes: {name}", warms[name] / 60, "min", (other, warms[other] / 60))
            )
    rates = setup.rates
    notes = (
        f"A model, not a measurement: {setup.nodes} nodes, {setup.frames:,} frames of {simulation.FRAME_BYTES:,} bytes; "
        f"the store sends {rates.store / GBIT:.0f} Gbit/s, a card {rates.nic / GBIT:.0f} Gbit/s each way, "
        f"a disk takes {rates.disk / 1e9:.1f} GB/s.",
        f"Placement is the agents' own function; spread holds each pack on {setup.copies} nodes. "
        "Of every four nodes two have one unit of disk, one has two, one has four.",
        "Nothing fails and nothing is slow in it; hashing and requests cost nothing.",
    )
    return Report("outlap simulate", {}, tuple(rows), notes)


def draw(found: Figures, path: Path) -> None:
    """Balance, movement and warm times as one SVG. Raises Refused where matplotlib is missing."""
    pyplot = report.pyplot(path)
    figure, (balance, moves, warms) = pyplot.subplots(1, 3, figsize=(16, 4.6))
    for name, values in (("equal disks", found.even), ("unequal disks", found.unequal)):
        balance.plot(np.linspace(0, 100, len(values)), np.sort(values), label=name)
    balance.axhline(1, color="grey", linewidth=0.8)
    balance.set(
        title=f"what {found.setup.nodes} nodes hold",
        xlabel="% of nodes, emptiest first",
        ylabel="of its share by weight",
    )
    names, places = list(found.moves), np.arange(len(found.moves))
    for shift, label, amounts in (
        (-0.2, "moved", [float(move.bytes) for move in found.moves.values()]),
        (0.2, "the least possible", [move.ideal for move in found.moves.values()]),
    ):
        moves.barh(places + shift, np.array(amounts) / 1e9, 0.4, label=label)
    moves.set_yticks(places, names)
    moves.set(title="bytes that move", xlabel="GB", xscale="log")
    for name, style in ((ALONE, "-"), (ALL, "-"), (LEAST, ":"), (APART, "-"), (SPREAD, "-")):
        minutes = [warm[name] / 60 for warm in found.warms.values()]
        warms.plot(list(found.warms), minutes, style, marker=".", label=name)
    warms.set(title="time of a warm", xlabel="nodes", ylabel="minutes", xscale="log", yscale="log")
    for axis in (balance, moves, warms):
        axis.legend(fontsize="x-small")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
