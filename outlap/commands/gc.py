"""`outlap gc`: find what nobody needs any more, and delete it after a grace."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from outlap import show
from outlap.options import AsJson, Idc

if TYPE_CHECKING:
    from lake.config import Config


def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Do it. Without it nothing is changed.")] = False,
    grace_days: Annotated[
        float, typer.Option("--grace-days", min=0.0, help="How long trash and marked garbage are kept.")
    ] = 14.0,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Apply retention, empty the trash of what is past its grace, mark garbage, and delete what was marked a grace ago.

    Needed, and never deleted, is what a tag, the trash, the catalogue or a node (warm, pinned or mounted) needs. Exit code 3 when
    something is being written, so that nothing was deleted, or when something could not be read, so that what it may need is kept.
    """
    from lake import garbage
    from lake.config import load_config
    from lake.stores import lake_store
    from outlap.scratch import scratch

    config = load_config()
    store = lake_store(config, idc)
    with scratch() as folder:
        done = garbage.collect(
            store, folder, wanted_by_nodes(config), dry_run=not delete, grace_days=grace_days
        )
    if as_json:
        show.json_line(asdict(done))
    else:
        would = "would be " if done.dry_run else ""
        show.pairs(
            [
                (f"tags that {would or 'were '}put into the trash", ", ".join(done.tags) or "none"),
                (f"tags that {would or 'were '}removed from the trash", ", ".join(done.expired) or "none"),
                ("garbage in its grace", f"{done.marked:,} objects, {show.size(done.marked_bytes)}"),
                (f"{would}deleted", f"{len(done.deleted):,} objects, {show.size(done.deleted_bytes)}"),
            ]
        )
        show.unreadable(done.unreadable)
        if done.spared:
            show.line(f"so nothing below {', '.join(done.spared)} was collected")
        for what in done.held_by:
            show.line(f"nothing was deleted: {what} is running; run it again")
        if done.dry_run:
            show.say("this was a dry run; `outlap gc --delete` does it")
    raise typer.Exit(3 if done.held_by or done.unreadable else 0)


def wanted_by_nodes(config: Config) -> list[str]:
    """Versions that a node of any IDC shall hold. Raises ControlDown: what is not known to be unneeded is not deleted."""
    from cacheengine.client import control_for

    found: set[str] = set()
    for name, idc in config.idcs.items():
        if idc.control is None:
            continue
        with control_for(config, name) as control:
            for node in control.nodes():
                found |= {wanted.version for wanted in control.desired(node.node).versions}
    return sorted(found)
