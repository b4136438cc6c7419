"""`outlap delete-drive`: a drive goes from every version of an IDC, as the law may ask."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson, Idc


def delete_drive(
    vehicle: Annotated[str, typer.Argument(metavar="VEHICLE")],
    drive: Annotated[str, typer.Argument(metavar="DRIVE")],
    delete: Annotated[
        bool, typer.Option("--delete", help="Do it, at once and for good. Without it: a dry run.")
    ] = False,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Delete a drive: recordings, frames, its rows in every version, and every pack that holds its bytes.

    Versions that held it are published again without it; their named tags move there, their numbered tags go. The report is kept in the
    store under deletions/, and says what this command cannot reach.
    """
    from lake.config import load_config
    from lake.erasure import erase_drive
    from lake.stores import lake_store, landing_store
    from outlap.scratch import scratch

    config = load_config()
    store = lake_store(config, idc)
    landing = landing_store(config, idc) if config.idc_named(idc).landing is not None else None
    with scratch() as folder:
        report = erase_drive(store, vehicle, drive, folder, landing, dry_run=not delete)
    if as_json:
        show.json_line(asdict(report))
        return
    rows = [
        (one.old[:12], (one.new or "")[:12], f"{one.files:,}", ", ".join(one.tags)) for one in report.versions
    ]
    show.table(
        ("version", "without it", "files", "tags"), rows, title=f"versions that held {vehicle}/{drive}"
    )
    verb = "would be deleted" if report.dry_run else "deleted"
    show.line(f"{len(report.objects):,} objects, {show.size(report.bytes)}, {verb} in {store.name}")
    for line in report.rest:
        show.line(f"not reached: {line}")
    if report.dry_run:
        show.say("this was a dry run; --delete does it")
