"""The recipes that drives were cut by: list them, make another one current, drop those that are not.

    catalog/recipes/<recipe id>.json     canonical JSON of a recipe, written before its first drive reaches the catalogue

Dropping removes catalogue files alone: published versions stay whole, and packs that nothing needs any more go with `outlap gc`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lake import catalog, recipe_order, stores
from lake.canonical import read_json
from lake.catalogcache import cache_folder, local_copies
from lake.errors import Conflict, Corrupt, NotFound, Refused
from lake.recipe_order import LAST_CUT, Mark
from lake.stores import Info, Store

PREFIX = "catalog/recipes/"
MIN_DIGITS = 6
RECIPE = re.compile(rf"[0-9a-f]{{{MIN_DIGITS},64}}")


@dataclass(frozen=True)
class CutRecipe:
    """A recipe that a drive was cut by.

    Attributes:
        recipe: First 16 digits of its id.
        cut_ns: When the drive was cut by it.
        files: JPEGs in the catalogue, of all outputs.
        bytes: Of these JPEGs.
        outputs: What it made, by name.
        current: The outputs of which it is the current recipe; all others are hidden from the view `frames`.
        is_chosen: Whether a person chose it.
        settings: Its JSON; None where the store does not have it (cut by release 0.1.0).
    """

    vehicle: str
    drive: str
    date: str
    recipe: str
    cut_ns: int
    files: int
    bytes: int
    outputs: tuple[str, ...]
    current: tuple[str, ...]
    is_chosen: bool
    settings: dict[str, Any] | None


@dataclass(frozen=True)
class _Drive:
    """The catalogue files of a drive by recipe, their recipes in order, and its marks."""

    vehicle: str
    drive: str
    files: dict[str, Info]
    order: tuple[str, ...]
    marks: Sequence[Mark]


def keep_settings(store: Store, recipe: str, settings: bytes) -> None:
    """Keep the JSON of a recipe under its id. Harmless to repeat."""
    stores.put_if_absent(store, f"{PREFIX}{recipe}.json", settings)


def _settings(store: Store) -> dict[str, dict[str, Any]]:
    """First 16 digits of a recipe's id → its JSON."""
    found = {}
    for info in stores.list_objects(store, PREFIX):
        name = info.key.removeprefix(PREFIX).removesuffix(".json")
        if RECIPE.fullmatch(name):
            found[name[: recipe_order.DIGITS]] = read_json(stores.get(store, info.key), info.key)
    return found


def _drives(store: Store, vehicle: str | None, drive: str | None) -> Iterator[_Drive]:
    files: dict[recipe_order.DriveKey, dict[str, Info]] = {}
    for info in stores.list_objects(store, catalog.PREFIX):
        cut = catalog.cut_of(info.key)
        if cut is not None and vehicle in (None, cut.vehicle) and drive in (None, cut.drive):
            files.setdefault((cut.vehicle, cut.drive), {})[cut.recipe] = info
    prefix = (
        recipe_order.PREFIX if drive is None or vehicle is None else recipe_order.folder_of(vehicle, drive)
    )
    marks = recipe_order.read_marks(store, prefix)
    for key, mine in sorted(files.items()):
        said = marks.get(key, [])
        order = recipe_order.order({recipe: info.modified_ns for recipe, info in mine.items()}, said)
        yield _Drive(*key, mine, order, said)


def list_recipes(
    store: Store, scratch: Path, vehicle: str | None = None, drive: str | None = None
) -> list[CutRecipe]:
    """The recipes of every drive, or of one.

    Args:
        store: The lake.
        scratch: A folder for copies of catalogue files; emptied again.
        vehicle: Only its drives.
        drive: Only this one.

    Returns:
        By vehicle and drive, of each drive the current one first.

    Raises:
        NotFound: The catalogue has no such drive.
    """
    drives = list(_drives(store, vehicle, drive))
    if drive is not None and not drives:
        raise _no_drive(store, f"{vehicle}/{drive}" if vehicle else drive)
    settings = _settings(store)
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="recipes-", dir=scratch) as folder:
        return [found for one in drives for found in _of_drive(store, one, settings, scratch, Path(folder))]


def _no_drive(store: Store, name: str) -> NotFound:
    return NotFound(
        f"the drive {name}",
        f"the catalogue of store {store.name} does not have it",
        "`outlap recipes ls` names the drives that were cut",
    )


def _of_drive(
    store: Store, drive: _Drive, settings: dict[str, dict[str, Any]], scratch: Path, folder: Path
) -> Iterator[CutRecipe]:
    infos = [drive.files[recipe] for recipe in drive.order]
    paths = list(local_copies(store, infos, cache_folder(scratch), folder).values())
    times = recipe_order.cut_times(
        {recipe: info.modified_ns for recipe, info in drive.files.items()}, drive.marks
    )
    chosen = recipe_order.chosen(drive.files, drive.marks)
    taken: set[str] = set()
    for recipe, info, path in zip(drive.order, infos, paths, strict=True):
        cut = catalog.cut_of(info.key)
        assert cut is not None
        files, size, outputs = _counted(path, info.key)
        path.unlink(missing_ok=True)
        current = tuple(name for name in outputs if name not in taken)
        taken |= set(outputs)
        yield CutRecipe(
            vehicle=drive.vehicle,
            drive=drive.drive,
            date=cut.date,
            recipe=recipe,
            cut_ns=times[recipe],
            files=files,
            bytes=size,
            outputs=outputs,
            current=current,
            is_chosen=recipe == chosen,
            settings=settings.get(recipe),
        )


def _counted(path: Path, key: str) -> tuple[int, int, tuple[str, ...]]:
    """(files, bytes, outputs) of a catalogue file."""
    try:
        table = pq.read_table(path, columns=["output", "size"])
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(key, f"it is no catalogue file: {error}", "ingest the drive again") from error
    outputs = sorted(pc.unique(table["output"]).to_pylist())
    return table.num_rows, pc.sum(table["size"]).as_py() or 0, tuple(outputs)


def _one(store: Store, vehicle: str, drive: str) -> _Drive:
    found = next(iter(_drives(store, vehicle, drive)), None)
    if found is None:
        raise _no_drive(store, f"{vehicle}/{drive}")
    return found


def _named(drive: _Drive, recipe: str) -> str:
    """The recipe of a drive that begins with these digits. Raises NotFound, Refused."""
    if RECIPE.fullmatch(recipe) is None:
        raise Refused(
            f"the recipe {recipe[:80]!r}",
            f"a recipe is named by the first {MIN_DIGITS} or more digits of its id",
            f"see `outlap recipes ls {drive.vehicle}/{drive.drive}`",
        )
    digits = recipe[: recipe_order.DIGITS]
    found = [name for name in drive.order if name.startswith(digits)]
    if len(found) != 1:
        raise NotFound(
            f"the recipe {recipe} of {drive.vehicle}/{drive.drive}",
            f"{'several begin' if found else 'none begins'} so; there are {', '.join(drive.order)}",
            "name one of them",
        )
    return found[0]


def use_recipe(store: Store, vehicle: str, drive: str, recipe: str) -> str:
    """Make a recipe current for all that it made of a drive, also after later cuts.

    Args:
        store: The lake.
        vehicle: Of the drive.
        drive: Its name.
        recipe: The first digits of its id; LAST_CUT takes an earlier choice back.

    Returns:
        The first 16 digits of the drive's current recipe.

    Raises:
        NotFound: No such drive, no such recipe, or it was dropped at the same time.
    """
    found = _one(store, vehicle, drive)
    name = LAST_CUT if recipe == LAST_CUT else _named(found, recipe)
    received = {one: info.modified_ns for one, info in found.files.items()}
    mark = Mark(vehicle, drive, recipe_order.after(received, found.marks), recipe_order.USE, name)
    recipe_order.put_mark(store, mark)
    now = _one(store, vehicle, drive)
    if name != LAST_CUT and name not in now.files:
        stores.delete(store, recipe_order.mark_key(mark))
        raise NotFound(
            f"the recipe {name} of {vehicle}/{drive}", "it was dropped meanwhile", "choose another one"
        )
    return now.order[0]


def drop_recipe(store: Store, scratch: Path, vehicle: str, drive: str, recipe: str) -> CutRecipe:
    """Remove the catalogue file of a recipe that is not current. Versions that were published of it stay whole.

    Args:
        store: The lake.
        scratch: As in `list_recipes`.
        vehicle: Of the drive.
        drive: Its name.
        recipe: The first digits of its id.

    Returns:
        What was dropped.

    Raises:
        NotFound: No such drive or recipe.
        Conflict: It is current.
    """
    one = _one(store, vehicle, drive)
    name = _named(one, recipe)
    found = next(item for item in list_recipes(store, scratch, vehicle, drive) if item.recipe == name)
    if found.current or len(one.order) == 1 or one.order[0] == name:
        raise Conflict(
            f"the recipe {name} of {vehicle}/{drive}",
            f"it is the current one of {', '.join(found.current or found.outputs) or 'the drive'}",
            f"`outlap recipes use {vehicle}/{drive} RECIPE` makes another one current; `outlap delete-drive` removes a drive",
        )
    stores.delete(store, one.files[name].key)
    for mark in one.marks:
        if mark.recipe == name:
            stores.delete(store, recipe_order.mark_key(mark))
    return found
