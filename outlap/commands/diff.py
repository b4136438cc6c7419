"""`outlap diff`: what changed between two versions."""

from __future__ import annotations

from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson, Idc, Version


def diff(
    old: Version,
    new: Annotated[str, typer.Argument(metavar="NAME@TAG", help="The version to compare with.")],
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Paths that were added, removed or changed from the first version to the second. Equal parts are not opened."""
    from lake import compare
    from lake.config import load_config
    from lake.refs import parse, resolve
    from lake.stores import lake_store

    store = lake_store(load_config(), idc)
    versions = [resolve(store, *parse(name)).version for name in (old, new)]
    counts = {"added": 0, "removed": 0, "changed": 0}
    lists: dict[str, list[str]] = {kind: [] for kind in counts}
    for step in compare.differences(store, *versions):
        for kind, rows in (("added", step.added), ("removed", step.removed), ("changed", step.changed)):
            counts[kind] += rows.num_rows
            if as_json:
                lists[kind] += rows["path"].to_pylist()
                continue
            for path in rows["path"].to_pylist():
                show.line(f"{kind}\t{path}")
    if as_json:
        show.json_line({"old": versions[0], "new": versions[1], **lists})
        return
    said = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    show.say(f"{said} from {versions[0][:12]} to {versions[1][:12]}")
