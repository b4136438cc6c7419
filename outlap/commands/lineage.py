"""`outlap lineage`: from a drive to the training runs that saw it, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lake.errors import Explained, NotFound
from outlap import show
from outlap.options import AsJson, Idc

if TYPE_CHECKING:
    from lake.config import Config

SHOWN = 20


def lineage(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME@TAG|DRIVE", help="A version, a dataset, or a drive (VEHICLE/DRIVE too)."
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="DAG/RUN", help="What a run of Airflow published or trained on."),
    ] = None,
    vehicle: Annotated[str | None, typer.Option("--vehicle", help="Of a drive: only this vehicle's.")] = None,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """What a version was made of and what became of it; which versions and trainings have a drive; which drives a run saw.

    The lake tells versions and drives; Airflow tells runs, where it can be reached: the local stack, or what $OUTLAP_AIRFLOW_URL and
    $OUTLAP_AIRFLOW_TOKEN name.

    Examples: outlap lineage front@v3; outlap lineage 2026-01-02-car1; outlap lineage --run scheduled_training/manual__2026-01-02
    """
    from lake.config import load_config

    if (what is None) == (run is None):
        raise typer.BadParameter("give a version or a drive, or --run")
    config = load_config()
    if run is not None:
        found: list[Any] = [_version(config, idc, *key) for key in _of_run(config, idc, run)]
    elif _is_drive(config, idc, str(what)):
        owner, _, drive = str(what).rpartition("/")
        found = [_drive(config, idc, drive, vehicle or owner or None)]
    else:
        from lake.refs import parse

        found = [_version(config, idc, *parse(str(what)))]
    if as_json:
        show.json_line(found if run is not None else found[0])
        return
    for one in found:
        (_show_drive if "drives_named" in one else _show_version)(one)


def _is_drive(config: Config, idc: str | None, what: str) -> bool:
    """Without an @: a drive, unless a dataset has that name."""
    from lake import refs
    from lake.errors import Refused
    from lake.stores import lake_store

    if "@" in what:
        return False
    try:
        return not refs.list_refs(lake_store(config, idc), what)
    except Refused:
        return True


def _of_run(config: Config, idc: str | None, run: str) -> list[tuple[str, str]]:
    """(dataset, version) of a run: from Airflow, or from the refs that it made. Raises NotFound."""
    from lake.lineage import made_by_run
    from lake.stores import lake_store
    from outlap.airflow_runs import versions_of_run

    made = [(one.dataset, one.version) for one in made_by_run(lake_store(config, idc), run)]
    if made or "/" not in run:
        if not made:
            raise NotFound(f"the run {run}", "no version of this store was made by it", "name it as DAG/RUN")
        return made
    dag, _, run_id = run.partition("/")
    told = {(one["dataset"], one["version"]) for one in versions_of_run(dag, run_id)}
    if not told:
        raise NotFound(f"the run {run}", "no event of it names a version", "it published and trained on none")
    return sorted(told)


def _runs(dataset: str, version: str) -> dict[str, Any]:
    """{runs} of Airflow, or {runs: None, why}: lineage of the lake needs no Airflow."""
    from outlap.airflow_runs import runs_of

    try:
        return {"runs": runs_of(dataset, version)}
    except Explained as error:
        return {"runs": None, "why": str(error)}


def _version(config: Config, idc: str | None, dataset: str, ref: str) -> dict[str, Any]:
    from lake.lineage import way_of
    from lake.stores import lake_store
    from lake.versions import is_available

    way = way_of(lake_store(config, idc), dataset, ref)
    available: dict[str, bool | None] = {}
    for name in sorted(config.idcs):
        try:
            available[name] = is_available(lake_store(config, name), way.version.version)
        except Explained:
            available[name] = None
    told = _runs(way.version.dataset, way.version.version)
    return {
        "version": asdict(way.version),
        "parents": [asdict(made) for made in way.parents],
        "children": [asdict(made) for made in way.children],
        "drives": [asdict(drive) for drive in way.drives],
        "available": available,
        **told,
    }


def _drive(config: Config, idc: str | None, drive: str, vehicle: str | None) -> dict[str, Any]:
    from lake.lineage import way_of_drive
    from lake.stores import lake_store

    way = way_of_drive(lake_store(config, idc), drive, vehicle)
    return {
        "drives_named": [asdict(one) for one in way.drives],
        "versions": [
            {**asdict(made), "files": files, "bytes": size, **_runs(made.dataset, made.version)}
            for made, files, size in way.versions
        ],
    }


def _named(made: dict[str, Any]) -> str:
    tags = ", ".join(made["tags"]) or "no tag any more"
    return f"{made['dataset']} {tags} ({made['version'][:12]})"


def _show_version(found: dict[str, Any]) -> None:
    made = found["version"]
    show.line(f"{_named(made)}, published {show.moment(made['at_ns'])}")
    for name, value in sorted(made["origin"].items()):
        show.line(f"  {name}: {' '.join(str(value).split())}")
    for title, others in (("made of", found["parents"]), ("became", found["children"])):
        for other in others:
            show.line(f"{title}: {_named(other)}")
    _show_drives(found["drives"])
    there = ", ".join(
        f"{idc} ({'yes' if is_there else 'nobody could tell' if is_there is None else 'no'})"
        for idc, is_there in found["available"].items()
    )
    show.line(f"available: {there}")
    _show_runs([{**run} for run in found["runs"] or ()], found.get("why"))


def _show_drive(found: dict[str, Any]) -> None:
    _show_drives(found["drives_named"])
    rows = [
        (
            one["dataset"],
            ", ".join(one["tags"]),
            one["version"][:12],
            f"{one['files']:,}",
            show.size(one["bytes"]),
        )
        for one in found["versions"]
    ]
    show.table(("dataset", "tags", "version", "files", "bytes"), rows, title="versions that have it")
    runs = [run for one in found["versions"] for run in one["runs"] or ()]
    _show_runs(runs, next((one["why"] for one in found["versions"] if one.get("why")), None))


def _show_drives(drives: list[dict[str, Any]]) -> None:
    rows = [
        (
            f"{one['vehicle'] or '?'}/{one['drive']}",
            f"{one['files']:,}" if one["files"] else "",
            ", ".join(one["raw"]) or "not in this store",
            ", ".join(one["recipes"]),
        )
        for one in drives[:SHOWN]
    ]
    show.table(("drive", "files", "recordings", "recipes"), rows, title=f"{len(drives):,} drives")
    if len(drives) > SHOWN:
        show.line(f"and {len(drives) - SHOWN:,} more (--json lists them all)")


def _show_runs(runs: list[dict[str, Any]], why: str | None) -> None:
    if why is not None:
        show.say(f"runs of Airflow are not shown: {why}")
        return
    rows = [
        (
            show.moment(run["at_ns"]),
            run["step"],
            run["idc"] or "",
            f"{run['dag']}/{run['run_id']}",
            run["state"],
        )
        for run in runs
    ]
    show.table(("at", "step", "idc", "run", "state"), rows, title="runs of Airflow")
