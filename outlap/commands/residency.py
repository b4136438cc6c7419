"""`outlap residency`: which versions are on which nodes."""

from __future__ import annotations

from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson


def residency(
    dataset: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this dataset.")] = None,
    as_json: AsJson = False,
) -> None:
    """What every node really holds of each version, checked, and where it is mounted."""
    from lake.config import load_config
    from outlap.options import with_nodes

    found = with_nodes(load_config())
    rows = [
        (node, version)
        for states in found.values()
        for node in states
        for version in node.versions
        if dataset in (None, version.dataset)
    ]
    if as_json:
        listed = [
            {
                "node": node.node,
                **version.model_dump(),
                "mounts": [m.target for m in node.mounts if m.version == version.version],
            }
            for node, version in rows
        ]
        show.json_line(listed)
        return
    show.table(
        ("node", "version", "id", "state", "files", "bytes", "mounted at"),
        [
            (
                node.node,
                f"{v.dataset}@{v.tag}",
                v.version[:12],
                v.state,
                f"{v.files_resident:,} of {v.files_total:,}",
                f"{show.size(v.bytes_resident)} of {show.size(v.bytes_total)}",
                ", ".join(m.target for m in node.mounts if m.version == v.version),
            )
            for node, v in rows
        ],
    )
