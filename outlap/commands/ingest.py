"""`outlap ingest`: recordings → frames, without Airflow."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from outlap import show
from outlap.options import AsJson


def ingest(
    uri: Annotated[
        list[str],
        typer.Argument(
            metavar="URI...", help="A recording, a folder of recordings, or VEHICLE/DRIVE of the landing."
        ),
    ],
    vehicle: Annotated[
        str, typer.Option("--vehicle", help="The vehicle that local recordings belong to.")
    ] = "local",
    rate_hz: Annotated[
        float | None,
        typer.Option("--rate-hz", min=0.001, max=1000, help="Frames per second; default: key frames."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check recordings, cut frames, make 4K and 720P JPEGs, pack them, and fill the catalogue.

    Local recordings are uploaded to the landing first, each PATH as one drive. A bad drive goes to quarantine and the others
    go on: exit code 3 when some were refused, 1 when all were.
    """
    from lake.config import load_config
    from lake.errors import Explained
    from lake.stores import lake_store, landing_store
    from outlap.recordings import find_drives, upload
    from outlap.scratch import scratch
    from transforms.ingest import ingest_drive
    from transforms.recipe import Rate, Recipe

    config = load_config()
    landing, lake = landing_store(config), lake_store(config)
    recipe = Recipe(cut=Rate(rate_mhz=max(1, round(rate_hz * 1000)))) if rate_hz else Recipe()
    reports: list[dict[str, Any]] = []
    with show.progress(_unit) as progress, scratch() as folder:
        for name, drive in find_drives(uri, vehicle):
            try:
                if drive is not None:
                    upload(landing, drive, folder)
                pair = (drive.vehicle, drive.name) if drive else tuple(name.split("/"))
                done = ingest_drive(landing, lake, pair[0], pair[1], recipe, folder, _named(progress, name))
                reports.append({"uri": name, **asdict(done)})
            except Explained as error:
                # the other drives go on; the exit code says that this one did not
                show.error(error)
                reports.append({"uri": name, "outcome": "failed", "error": str(error)})
    _show(reports, as_json)
    good = sum(report["outcome"] in ("ingested", "already") for report in reports)
    raise typer.Exit(0 if good == len(reports) else 3 if good else 1)


def _unit(what: str) -> str:
    """What ingest counts in each of its steps."""
    return (
        "bytes" if what.endswith((": fetch", ": pack")) else "frames" if what.endswith(": cut") else "files"
    )


def _named(progress: show.Progress, name: str) -> show.Progress:
    return lambda what, done, total: progress(f"{name}: {what}", done, total)


def _show(reports: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show.json_line(reports)
        return
    rows = [
        (r["uri"], r["outcome"], r.get("frames"), show.size(r.get("bytes", 0)), r.get("packs"))
        for r in reports
    ]
    show.table(("drive", "outcome", "frames", "bytes", "packs"), rows)
    for report in reports:
        for finding in report.get("findings", ()):
            show.line(
                f"{report['uri']}: {finding['severity']} {finding['rule']} in {finding['file']}: {finding['evidence']}"
            )
