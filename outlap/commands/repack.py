"""`outlap repack`: give a version packs of its own where it uses little of those it has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson, Idc, Version


def repack(
    version: Version,
    share: Annotated[
        float, typer.Option("--share", min=0.0, max=1.0, help="Repack packs of which less than this is used.")
    ] = 0.5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Copy a version's files out of packs of which it uses little. Its id and tags stay; `outlap gc` removes what nobody uses then.

    Nodes that hold the version go on with the packs they have: free and warm it there within the grace of `outlap gc`.
    """
    from lake import repack as packing
    from lake.config import load_config
    from lake.refs import parse, resolve
    from lake.stores import lake_store
    from lake.versions import read_available
    from outlap.scratch import scratch

    store = lake_store(load_config(), idc)
    ref = resolve(store, *parse(version))
    if dry_run:
        sparse = packing.sparse_packs(read_available(store, ref.version), share)
        if as_json:
            show.json_line({"version": ref.version, "packs": [asdict(use) for use in sparse]})
            return
        rows = [(use.id[:12], show.size(use.size), show.size(use.bytes), use.files) for use in sparse]
        show.table(("pack", "size", "used", "files"), rows, title=f"packs of {version} to repack")
        return
    with scratch() as folder, show.progress() as progress:
        done = packing.repack(
            store, ref.version, folder, share, lambda have, total: progress("repack", have, total)
        )
    if as_json:
        show.json_line(asdict(done))
    else:
        show.line(
            f"{version}: {done.packs_before:,} packs → {done.packs_after:,}; {show.size(done.bytes)} written, "
            f"{show.size(done.bytes_left)} in {len(done.left):,} packs no longer needed by it"
        )
