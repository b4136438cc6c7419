"""`outlap nodes`: who caches, and how full; draining."""

from __future__ import annotations

import typer

from outlap import show
from outlap.commands import drain
from outlap.options import AsJson

app = typer.Typer(help="Every node of every IDC; draining of nodes.", rich_markup_mode=None)
app.command("drain")(drain.drain)
app.command("undrain")(drain.undrain)


@app.callback(invoke_without_command=True)
def nodes(context: typer.Context, as_json: AsJson = False) -> None:
    """Every node of every IDC: whether it is alive, what it holds, and how much came from the store."""
    if context.invoked_subcommand is not None:
        return
    from lake.config import load_config
    from outlap.options import with_nodes

    found = with_nodes(load_config())
    if as_json:
        show.json_line({idc: [node.model_dump() for node in states] for idc, states in found.items()})
        return
    rows = [
        (
            idc,
            node.node,
            node.role,
            ("alive" if node.alive else f"silent since {show.moment(node.seen_ns)}")
            + (", draining" if node.draining else ""),
            node.address,
            f"{show.size(sum(d.used for d in node.dirs))} of {show.size(sum(d.quota for d in node.dirs))}",
            node.versions_total or len(node.versions),
            node.pinned_total or "",
            len(node.mounts),
            show.size(node.store_bytes),
        )
        for idc, states in found.items()
        for node in states
    ]
    columns = (
        "idc",
        "node",
        "role",
        "state",
        "address",
        "cache",
        "versions",
        "pinned",
        "mounts",
        "from store",
    )
    show.table(columns, rows)
