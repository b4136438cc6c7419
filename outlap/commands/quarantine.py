"""`outlap quarantine`: what was refused and why, and another try after the cause was put right."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lake.unreadable import Unreadable
from outlap import show
from outlap.options import AsJson, Idc

if TYPE_CHECKING:
    from lake.quarantine import Entry
    from lake.stores import Store

quarantine = typer.Typer(
    help="Drives that were refused: list them, show why, try them again.", no_args_is_help=True
)
Drive = Annotated[str, typer.Argument(metavar="VEHICLE/DRIVE", help="A drive in quarantine.")]


def _errors(entry: Entry) -> list[str]:
    return list(dict.fromkeys(found.rule for found in entry.findings if found.severity == "error"))


def _refused_by(entries: list[Entry], rule: str | None) -> list[Entry]:
    """The entries of drives that a rule refused. Raises NotFound for a rule that neither we nor the entries know."""
    from lake.errors import NotFound
    from lake.names import near_names
    from transforms.rules import DRIVE_RULES, FILE_RULES, PROFILE_RULES

    known = (
        {one.id for one in FILE_RULES} | {one.id for one in DRIVE_RULES} | {one.id for one in PROFILE_RULES}
    )
    known |= {one for entry in entries for one in _errors(entry)}
    if rule is not None and rule not in known:
        names = near_names(rule, sorted(known), 5)
        raise NotFound(f"the rule {rule!r}", f"there are: {names}", "name one of docs/rules.md")
    return [entry for entry in entries if rule is None or rule in _errors(entry)]


def _named(lake: Store, drive: str) -> Entry:
    """Raises NotFound, Refused."""
    from lake import quarantine as kept
    from lake.errors import NotFound
    from lake.names import near_names

    vehicle, _, name = drive.partition("/")
    entry = kept.read(lake, vehicle, name)
    if entry is None:
        known = near_names(drive, ["/".join(pair) for pair in kept.names(lake)])
        raise NotFound(
            f"the drive {drive}",
            f"it is not in quarantine; there is: {known}",
            "see `outlap quarantine ls`",
        )
    return entry


@quarantine.command("ls")
def ls(
    rule: Annotated[str | None, typer.Option("--rule", help="Only drives that this rule refused.")] = None,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Every refused drive, when it was refused, and by which rules."""
    from lake import quarantine as kept
    from lake.config import load_config
    from lake.stores import lake_store

    bad: list[Unreadable] = []
    every = kept.entries(lake_store(load_config(), idc), bad)
    found = _refused_by(every, rule)
    show.unreadable(bad)
    if as_json:
        show.json_line([asdict(entry) for entry in found])
        raise typer.Exit(3 if bad else 0)
    rows = [
        (
            f"{entry.vehicle}/{entry.drive}",
            show.moment(entry.at_ns),
            ", ".join(_errors(entry)),
            len(entry.findings),
        )
        for entry in found
    ]
    show.table(("drive", "refused at", "rules", "findings"), rows)
    raise typer.Exit(3 if bad else 0)


@quarantine.command("show")
def show_entry(drive: Drive, idc: Idc = None, as_json: AsJson = False) -> None:
    """Everything that was found in a refused drive: rule, file, evidence, and whether it was seen or inferred."""
    from lake.config import load_config
    from lake.stores import lake_store

    entry = _named(lake_store(load_config(), idc), drive)
    if as_json:
        show.json_line(asdict(entry))
        return
    rows = [
        (found.severity, found.rule, found.file, "inferred" if found.inferred else "seen", found.evidence)
        for found in sorted(entry.findings, key=lambda found: found.severity != "error")
    ]
    show.table(
        ("severity", "rule", "file", "how", "evidence"), rows, title=f"{drive}, {show.moment(entry.at_ns)}"
    )


@quarantine.command("retry")
def retry(
    drives: Annotated[
        list[str] | None, typer.Argument(metavar="[VEHICLE/DRIVE]...", help="Drives in quarantine.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every drive in quarantine.")] = False,
    rule: Annotated[
        str | None, typer.Option("--rule", help="With --all: only what this rule refused.")
    ] = None,
    rate_hz: Annotated[
        float | None,
        typer.Option("--rate-hz", min=0.001, max=1000, help="Frames per second; default: key frames."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ingest refused drives again: after a new upload, a new profile of the vehicle, or a new release.

    A drive that is taken now leaves the quarantine; one that is refused again stays, with what was found this time. Exit
    code 3 when some were refused again, 1 when all were.
    """
    from lake import quarantine as kept
    from lake.config import load_config
    from lake.errors import Explained
    from lake.stores import lake_store, landing_store
    from outlap.errors import NotHere
    from outlap.scratch import scratch
    from transforms.ingest import ingest_drive
    from transforms.recipe import Rate, Recipe

    config = load_config()
    landing, lake = landing_store(config), lake_store(config)
    if every == bool(drives):
        raise NotHere("which drives", "name some, or give --all, not both", "see `outlap quarantine ls`")
    bad: list[Unreadable] = []
    entries = (
        _refused_by(kept.entries(lake, bad), rule)
        if every
        else [_named(lake, drive) for drive in drives or ()]
    )
    show.unreadable(bad)
    recipe = Recipe(cut=Rate(rate_mhz=max(1, round(rate_hz * 1000)))) if rate_hz else Recipe()
    reports: list[dict[str, Any]] = []
    with scratch() as folder:
        for entry in entries:
            try:
                done = ingest_drive(landing, lake, entry.vehicle, entry.drive, recipe, folder)
                reports.append(asdict(done))
            except Explained as error:
                show.error(error)
                named = {"vehicle": entry.vehicle, "drive": entry.drive}
                reports.append({**named, "outcome": "failed", "error": str(error)})
    if as_json:
        show.json_line(reports)
    else:
        rows = [(f"{r['vehicle']}/{r['drive']}", r["outcome"], r.get("frames"), _why(r)) for r in reports]
        show.table(("drive", "outcome", "frames", "why"), rows)
    good = sum(report["outcome"] in ("ingested", "already") for report in reports)
    raise typer.Exit(0 if good == len(reports) and not bad else 3 if good or not reports else 1)


def _why(report: dict[str, Any]) -> str:
    errors = [found["rule"] for found in report.get("findings", ()) if found["severity"] == "error"]
    return report.get("error") or ", ".join(dict.fromkeys(errors))
