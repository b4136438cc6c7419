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
    from lake import manifests
    from lake.config import load_config
    from lake.refs import parse, resolve
    from lake.stores import lake_store

    store = lake_store(load_config(), idc)
    versions = [resolve(store, *parse(name)).version for name in (old, new)]
    found = manifests.diff(store, *versions)
    kinds = {"added": found.added, "removed": found.removed, "changed": found.changed}
    if as_json:
        lists = {kind: rows["path"].to_pylist() for kind, rows in kinds.items()}
        show.json_line({"old": versions[0], "new": versions[1], **lists})
        return
    for kind, rows in kinds.items():
        for path in rows["path"].to_pylist():
            show.line(f"{kind}\t{path}")
    counts = ", ".join(f"{rows.num_rows:,} {kind}" for kind, rows in kinds.items())
    show.say(f"{counts} from {versions[0][:12]} to {versions[1][:12]}")
