"""`outlap recipes`: which recipes drives were cut by, which of them is current, and dropping the others."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlap import show
from outlap.options import AsJson, Idc

if TYPE_CHECKING:
    from lake.recipes import CutRecipe

app = typer.Typer(
    help="The recipes that drives were cut by: list them, make another one current, drop the others.",
    no_args_is_help=True,
)
Drive = Annotated[str, typer.Argument(metavar="VEHICLE/DRIVE", help="A drive of the catalogue.")]
Digits = Annotated[str, typer.Argument(metavar="RECIPE", help="The first 6 or more digits of its id.")]


def _parts(drive: str) -> tuple[str, str]:
    """(vehicle, drive). Raises Refused."""
    from lake.errors import Refused

    vehicle, _, name = drive.partition("/")
    if not vehicle or not name or "/" in name:
        raise Refused(f"the drive {drive!r}", "it is not VEHICLE/DRIVE", "see `outlap recipes ls`")
    return vehicle, name


@app.command("ls")
def ls(
    drive: Annotated[
        str | None, typer.Argument(metavar="[VEHICLE/DRIVE]", help="Only this drive; default: all of them.")
    ] = None,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """The recipes of each drive: settings, when it was cut, how much it made, and of which outputs it is current.

    Queries see the current recipe in the view `frames`, and every recipe in `frames_all`.
    """
    from lake.config import load_config
    from lake.recipes import list_recipes
    from lake.stores import lake_store
    from outlap.scratch import scratch

    vehicle, name = _parts(drive) if drive is not None else (None, None)
    with scratch() as folder:
        found = list_recipes(lake_store(load_config(), idc), folder, vehicle, name)
    if as_json:
        show.json_line([asdict(one) for one in found])
        return
    rows = [
        (
            f"{one.vehicle}/{one.drive}",
            one.recipe,
            _current(one),
            show.moment(one.cut_ns),
            f"{one.files:,}",
            show.size(one.bytes),
            ", ".join(one.outputs),
            settings_text(one.settings),
        )
        for one in found
    ]
    show.table(("drive", "recipe", "current", "cut at", "files", "bytes", "outputs", "settings"), rows)


def _current(one: CutRecipe) -> str:
    if not one.current:
        return "no"
    what = "yes" if one.current == one.outputs else f"of {', '.join(one.current)}"
    return f"{what}, chosen" if one.is_chosen else what


def settings_text(settings: dict[str, Any] | None) -> str:
    """What a person asks of a recipe: which frames, and how large."""
    if settings is None:
        return "not known (cut by release 0.1.0)"
    cut = settings.get("cut")
    if isinstance(cut, dict) and "rate_mhz" in cut:
        which = f"{cut['rate_mhz'] / 1000:g} Hz"
    elif isinstance(cut, dict) and "every_mm" in cut:
        which = f"every {cut['every_mm'] / 1000:g} m"
    elif isinstance(cut, dict) and "at_ns" in cut:
        which = f"{len(cut['at_ns'])} events"
    else:
        which = {"keyframes": "key frames", "all": "all frames"}.get(str(cut), json.dumps(cut))
    outputs = [f"{one['name']} q{one['quality']}" for one in settings.get("outputs", ())]
    return "; ".join([which, *outputs, f"code {settings.get('code')}"])


@app.command("use")
def use(drive: Drive, recipe: Digits, idc: Idc = None, as_json: AsJson = False) -> None:
    """Make a recipe the current one of a drive, also after later cuts. `last-cut` as RECIPE takes that back.

    Versions that were published stay as they are; the next publish of the view `frames` sees the recipe.
    """
    from lake.config import load_config
    from lake.recipes import use_recipe
    from lake.stores import lake_store

    current = use_recipe(lake_store(load_config(), idc), *_parts(drive), recipe)
    if as_json:
        show.json_line({"drive": drive, "current": current})
    else:
        show.line(f"{drive}: {current} is current")


@app.command("drop")
def drop(drive: Drive, recipe: Digits, idc: Idc = None, as_json: AsJson = False) -> None:
    """Remove a recipe that is not current from the catalogue. Versions that were published of it stay whole.

    Its packs go with `outlap gc`, once no version needs them.
    """
    from lake.config import load_config
    from lake.recipes import drop_recipe
    from lake.stores import lake_store
    from outlap.scratch import scratch

    with scratch() as folder:
        done = drop_recipe(lake_store(load_config(), idc), folder, *_parts(drive), recipe)
    if as_json:
        show.json_line(asdict(done))
    else:
        show.line(f"{drive}: {done.recipe} dropped, {done.files:,} files of it leave the catalogue")
