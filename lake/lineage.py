"""From a drive to versions and back: what a version was made of, what was made of it, which recordings and recipes stand behind it.

Everything is read from what a publish writes anyway: origins of refs, `drives/<version>.parquet`, keys of the catalogue. The recipes of
a version are those of its rows, whatever the drive was cut by since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from lake import catalog, refs, stores
from lake.errors import NotFound
from lake.holdings import held_by, read_holdings
from lake.landing import raw_folder
from lake.recipe_order import DIGITS
from lake.refs import Ref
from lake.stores import Store
from lake.unreadable import Unreadable

DEEPEST = 64  # of a chain of derivations; a loop cannot be, as a version is older than what is made of it


@dataclass(frozen=True)
class Made:
    """A version with every tag that names it now (none: it was deleted, or lies elsewhere), and what made it."""

    dataset: str
    version: str
    tags: tuple[str, ...]
    at_ns: int
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Driven:
    """A drive: what a version has of it (0: not asked), where its recordings are kept, and recipes (16 digits).

    recipes: of a version's drive those of the version's own rows; of a drive alone all in the catalogue, the current one first.
    """

    vehicle: str | None
    drive: str
    files: int = 0
    bytes: int = 0
    raw: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VersionWay:
    """parents: nearest first; children: made of it, directly or not; drives: by name."""

    version: Made
    parents: tuple[Made, ...]
    children: tuple[Made, ...]
    drives: tuple[Driven, ...]


@dataclass(frozen=True)
class DriveWay:
    """drives: of that name (several vehicles may have one); versions: that hold frames of it, with what they hold."""

    drives: tuple[Driven, ...]
    versions: tuple[tuple[Made, int, int], ...]


def versions_of(store: Store, unreadable: list[Unreadable] | None = None) -> list[Made]:
    """List every version that a tag of a store names, by one listing; one that two datasets have is there twice.

    Args:
        store: the lake.
        unreadable: takes the refs that cannot be read; None raises Corrupt for the first one.

    Returns:
        The versions, by dataset.
    """
    every = refs.list_all_refs(store, unreadable)
    return [made for _, mine in groupby(every, lambda ref: ref.dataset) for made in _made(mine)]


def _made(mine: Iterable[Ref]) -> list[Made]:
    by_version: dict[str, list[Ref]] = {}
    for ref in mine:
        by_version.setdefault(ref.version, []).append(ref)
    return [
        Made(same[0].dataset, version, tuple(ref.tag for ref in same), same[0].at_ns, dict(same[0].origin))
        for version, same in by_version.items()
    ]


def way_of(store: Store, dataset: str, ref: str = refs.LATEST) -> VersionWay:
    """Raises NotFound, Refused."""
    found = refs.resolve(store, dataset, ref)
    every = versions_of(store)
    mine = next(made for made in every if (made.dataset, made.version) == (found.dataset, found.version))
    drives = read_holdings(store, found.version, recipes=True).to_pylist()
    return VersionWay(
        mine, tuple(_parents(mine, every)), tuple(_children(mine, every)), tuple(_driven(store, drives))
    )


def _parents(mine: Made, every: Iterable[Made]) -> Iterable[Made]:
    known = {made.version: made for made in every}
    while isinstance(parent := mine.origin.get("parent"), str):
        name = str(mine.origin.get("derived_from") or mine.origin.get("split_of") or "?").partition("@")[0]
        named = [made for made in every if (made.dataset, made.version) == (name, parent)]
        mine = named[0] if named else known.get(parent, Made(name, parent, (), 0))
        yield mine


def _children(mine: Made, every: Iterable[Made]) -> list[Made]:
    found: list[Made] = []
    parents = {mine.version}
    for _ in range(DEEPEST):
        more = [made for made in every if made.origin.get("parent") in parents and made not in found]
        if not more:
            break
        found += more
        parents = {made.version for made in more}
    return sorted(found, key=lambda made: (made.at_ns, made.dataset))


def _driven(store: Store, rows: Iterable[Mapping[str, Any]]) -> list[Driven]:
    """Drives of a version with their recordings, from the keys of the catalogue; rows: KEPT of its summary."""
    cuts: dict[str, list[catalog.CutDrive]] = {}
    for cut in catalog.drives_in(store):
        cuts.setdefault(cut.drive, []).append(cut)
    found = []
    for row in rows:
        vehicle = row["vehicle"]
        same = [cut for cut in cuts.get(row["drive"], ()) if vehicle in (None, cut.vehicle)]
        raw = sorted({raw_folder(cut.vehicle, cut.date, cut.drive) for cut in same})
        recipes = tuple(recipe[:DIGITS] for recipe in row["recipes"].split(",") if recipe)
        found.append(Driven(vehicle, row["drive"], row["files"], row["bytes"], tuple(raw), recipes))
    return found


def _cut_drives(store: Store, infos: Sequence[stores.Info]) -> Iterator[Driven]:
    """The drives of these catalogue files, each with all its recipes, the current one first."""
    orders = catalog.orders_of(store, infos).first
    cuts = sorted((cut for info in infos if (cut := catalog.cut_of(info.key))), key=lambda cut: cut.vehicle)
    for vehicle, same in groupby(cuts, key=lambda cut: cut.vehicle):
        mine = list(same)
        raw = sorted({raw_folder(cut.vehicle, cut.date, cut.drive) for cut in mine})
        recipes = orders.get((vehicle, mine[0].drive), tuple(cut.recipe for cut in mine))
        yield Driven(vehicle, mine[0].drive, raw=tuple(raw), recipes=recipes)


def way_of_drive(store: Store, drive: str, vehicle: str | None = None) -> DriveWay:
    """Raises NotFound when neither the catalogue nor a version has such a drive."""
    infos = [
        info
        for info in stores.list_objects(store, catalog.PREFIX)
        if (cut := catalog.cut_of(info.key)) and cut.drive == drive and vehicle in (None, cut.vehicle)
    ]
    held = held_by(store, drive, vehicle)
    if not infos and not held:
        raise NotFound(
            f"the drive {drive!r}",
            f"neither the catalogue nor a version of store {store.name} has it",
            "check its name; `outlap quarantine ls` shows refused drives",
        )
    every = versions_of(store)
    versions = [(made, one.files, one.bytes) for one in held for made in every if made.version == one.version]
    return DriveWay(
        tuple(_cut_drives(store, infos)) or (Driven(vehicle, drive),),
        tuple(sorted(versions, key=lambda item: (item[0].at_ns, item[0].dataset))),
    )


def made_by_run(store: Store, run: str) -> list[Made]:
    """Versions whose origin names a run of Airflow: RUN, or DAG/RUN."""
    return [
        made
        for made in versions_of(store)
        if run in (made.origin.get("run"), f"{made.origin.get('dag')}/{made.origin.get('run')}")
    ]
