"""`outlap ingest`: recordings → frames, without Airflow."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlap import batch, show
from outlap.errors import NotHere
from outlap.options import AsJson, RateHz

if TYPE_CHECKING:
    from outlap.ingest_worker import DriveTask


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
    drive: Annotated[
        str | None,
        typer.Option(
            "--drive", metavar="NAME", help="The drive's name; default: that of the file or folder."
        ),
    ] = None,
    rate_hz: RateHz = None,
    as_json: AsJson = False,
) -> None:
    """Check recordings, cut frames, make 4K and 720P JPEGs, pack them, and fill the catalogue.

    Local recordings are uploaded to the landing first, each PATH as one drive of the name of the file or folder; corrected recordings
    take the place of refused ones. A bad drive goes to quarantine, one that fails for another reason is told at the end, and the others
    go on: exit code 3 when some were not taken, 1 when all were not.
    """
    from lake.config import load_config
    from lake.stores import lake_store, landing_store
    from outlap.ingest_worker import ingest_each
    from outlap.scratch import scratch
    from transforms.recipe import recipe_at

    if drive is not None and len(uri) > 1:
        raise typer.BadParameter("--drive names one drive: give one URI")
    config = load_config()
    landing_store(config), lake_store(config)  # raises where there is nothing to ingest into
    recipe = recipe_at(rate_hz)
    reports, tasks = _find(uri, vehicle, drive)
    with show.progress(_unit) as progress, scratch() as folder:
        for task, report in ingest_each(tasks, recipe, folder, progress):
            reports[f"{task.vehicle}/{task.drive}"] = {"uri": f"{task.vehicle}/{report['drive']}", **report}
    _show(list(reports.values()), as_json)
    raise typer.Exit(
        batch.exit_code(report["outcome"] in ("ingested", "already") for report in reports.values())
    )


def _find(
    uris: list[str], vehicle: str, name: str | None
) -> tuple[dict[str, dict[str, Any]], list[DriveTask]]:
    """A report for each drive or URI, in order, empty where it is to be ingested; and what is to be ingested."""
    from outlap.ingest_worker import DriveTask
    from outlap.recordings import LocalDrive, find_drive

    reports: dict[str, dict[str, Any]] = {}
    tasks: list[DriveTask] = []
    for uri in uris:

        def find(uri: str = uri) -> DriveTask:
            found = find_drive(uri, vehicle, name)
            if not isinstance(found, LocalDrive):
                return DriveTask(*found)
            if f"{found.vehicle}/{found.name}" in reports:
                raise NotHere(
                    f"the recording {uri}",
                    f"another URI of this command is the drive {found.vehicle}/{found.name} too",
                    "rename one of them, or ingest it apart with --drive NAME",
                )
            return DriveTask(found.vehicle, found.name, found)

        task = batch.attempt(uri, find)
        if isinstance(task, batch.Failure):
            failed = {"outcome": "failed", "error": str(task), "failure": asdict(task)}
            reports[f"uri {uri}"] = {"uri": uri, **failed}
        elif f"{task.vehicle}/{task.drive}" not in reports:
            reports[f"{task.vehicle}/{task.drive}"] = {}
            tasks.append(task)
    return reports, tasks


def _unit(what: str) -> str:
    """What ingest counts in each of its steps."""
    return (
        "bytes" if what.endswith((": fetch", ": pack")) else "frames" if what.endswith(": cut") else "files"
    )


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
    batch.report_failures(reports)
