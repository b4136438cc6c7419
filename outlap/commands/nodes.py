"""`outlap nodes`: who caches, and how full."""

from __future__ import annotations

from outlap import show
from outlap.options import AsJson


def nodes(as_json: AsJson = False) -> None:
    """Every node of every IDC: whether it is alive, what it holds, and how much came from the store."""
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
            "alive" if node.alive else f"silent since {show.moment(node.seen_ns)}",
            node.address,
            f"{show.size(sum(d.used for d in node.dirs))} of {show.size(sum(d.quota for d in node.dirs))}",
            node.versions_total or len(node.versions),
            len(node.mounts),
            show.size(node.store_bytes),
        )
        for idc, states in found.items()
        for node in states
    ]
    columns = ("idc", "node", "role", "state", "address", "cache", "versions", "mounts", "from store")
    show.table(columns, rows)
