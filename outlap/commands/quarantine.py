"""`outlap quarantine`: what was refused and why, and another try after the cause was put right."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lake.unreadable import Unreadable
from outlap import batch, show
from outlap.options import AsJson, Idc, RateHz

if TYPE_CHECKING:
    from lake.quarantine import Entry
    from lake.stores import Store

quarantine = typer.Typer(
    help="Drives that were refused: list them, show why, try them again, dismiss them.", no_args_is_help=True
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


def _named(lake: Store, drive: str, *, also_dismissed: bool = False) -> Entry:
    """Raises NotFound, Refused."""
    from lake import quarantine as kept
    from lake.errors import NotFound
    from lake.names import near_names

    vehicle, _, name = drive.partition("/")
    entry = kept.read(lake, vehicle, name)
    if entry is None and also_dismissed:
        entry = kept.read_dismissed(lake, vehicle, name)
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
    dismissed: Annotated[
        bool, typer.Option("--dismissed", help="Those that were dismissed instead.")
    ] = False,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Every refused drive, when it was refused, and by which rules."""
    from lake import quarantine as kept
    from lake.config import load_config
    from lake.stores import lake_store

    lake, bad = lake_store(load_config(), idc), list["Unreadable"]()
    found = _refused_by(kept.dismissed(lake) if dismissed else kept.entries(lake, bad), rule)
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

    entry = _named(lake_store(load_config(), idc), drive, also_dismissed=True)
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
    rate_hz: RateHz = None,
    as_json: AsJson = False,
) -> None:
    """Ingest refused drives again: after a new upload, a new profile of the vehicle, or a new release.

    A drive that is taken now leaves the quarantine; one that is refused again stays, with what was found this time. Exit
    code 3 when some were refused again, 1 when all were.
    """
    from lake import quarantine as kept
    from lake.config import load_config
    from lake.stores import lake_store
    from outlap.errors import NotHere
    from outlap.ingest_worker import DriveTask, ingest_each
    from outlap.scratch import scratch
    from transforms.recipe import recipe_at

    lake = lake_store(load_config())
    if every == bool(drives):
        raise NotHere("which drives", "name some, or give --all, not both", "see `outlap quarantine ls`")
    bad: list[Unreadable] = []
    reports: list[dict[str, Any]] = []
    tasks: list[DriveTask] = []
    if every:
        entries = _refused_by(kept.entries(lake, bad), rule)
        show.unreadable(bad)
        tasks = [DriveTask(entry.vehicle, entry.drive) for entry in entries]
    for name in drives or ():
        entry = batch.attempt(name, lambda name=name: _named(lake, name, also_dismissed=True))  # type: ignore[misc]
        if isinstance(entry, batch.Failure):
            reports.append(_failed(name, entry))
        else:
            tasks.append(DriveTask(entry.vehicle, entry.drive))
    recipe = recipe_at(rate_hz)
    with scratch() as folder:
        for _, report in ingest_each(tasks, recipe, folder, lambda step, done, total: None):
            reports.append(report)
    if as_json:
        show.json_line(reports)
    else:
        rows = [(f"{r['vehicle']}/{r['drive']}", r["outcome"], r.get("frames"), _why(r)) for r in reports]
        show.table(("drive", "outcome", "frames", "why"), rows)
        batch.report_failures([{"uri": f"{r['vehicle']}/{r['drive']}", **r} for r in reports])
    code = batch.exit_code(report["outcome"] in ("ingested", "already") for report in reports)
    raise typer.Exit(3 if bad and code == 0 else code)


def _failed(name: str, failure: batch.Failure) -> dict[str, Any]:
    vehicle, _, drive = name.partition("/")
    told = {"error": str(failure), "failure": asdict(failure)}
    return {"vehicle": vehicle, "drive": drive, "outcome": "failed", **told}


@quarantine.command("dismiss")
def dismiss(
    drives: Annotated[list[str], typer.Argument(metavar="VEHICLE/DRIVE...", help="Drives in quarantine.")],
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Take refused drives out of the quarantine for good: they are no longer listed, and no night tries them again.

    The upload stays; one with other content under the same name is a new try. `ls --dismissed` lists them, `retry` tries one all the
    same, `outlap delete-drive` deletes recordings. Exit code 3 when some could not be dismissed, 1 when none could.
    """
    import getpass

    from lake import quarantine as kept
    from lake.config import load_config
    from lake.errors import Refused
    from lake.stores import lake_store

    lake, by = lake_store(load_config(), idc), getpass.getuser()

    def one(name: str) -> Entry:
        vehicle, slash, drive = name.partition("/")
        if not slash:
            raise Refused(f"the drive {name!r}", "it is not VEHICLE/DRIVE", "see `outlap quarantine ls`")
        return kept.dismiss(lake, vehicle, drive, by)

    reports: list[dict[str, Any]] = []
    for name in drives:
        done = batch.attempt(name, lambda name=name: one(name))  # type: ignore[misc]
        if isinstance(done, batch.Failure):
            reports.append(_failed(name, done))
        else:
            reports.append({"outcome": "dismissed", **asdict(done)})
    if as_json:
        show.json_line(reports)
    else:
        for report in reports:
            if report["outcome"] == "dismissed":
                show.line(f"{report['vehicle']}/{report['drive']}: dismissed")
        batch.report_failures([{"uri": f"{r['vehicle']}/{r['drive']}", **r} for r in reports])
    raise typer.Exit(batch.exit_code(report["outcome"] == "dismissed" for report in reports))


def _why(report: dict[str, Any]) -> str:
    errors = [found["rule"] for found in report.get("findings", ()) if found["severity"] == "error"]
    return report.get("error") or ", ".join(dict.fromkeys(errors))
