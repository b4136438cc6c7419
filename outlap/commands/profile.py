"""`outlap profile`: what the drives of a vehicle must have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson


def profile(
    vehicle: Annotated[
        str, typer.Argument(metavar="VEHICLE", help="A vehicle, or `default` for all without one.")
    ],
    set_to: Annotated[
        Path | None, typer.Option("--set", metavar="FILE", exists=True, help="JSON to take as the profile.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show or set what is required of a vehicle's drives: channels with their sizes and rates, positions, a region."""
    from lake.config import load_config
    from lake.stores import lake_store
    from outlap.errors import NotHere
    from transforms.profiles import has_profile, read_profile, write_profile

    store = lake_store(load_config())
    if set_to is None:
        found = read_profile(store, vehicle)
        if not has_profile(store, vehicle):
            show.say(f"{vehicle} has no profile of its own; this is what holds for it")
    else:
        try:
            value = json.loads(set_to.read_bytes())
        except ValueError as error:
            raise NotHere(f"the profile {set_to}", f"it is no JSON: {error}", "correct it") from error
        found = write_profile(store, vehicle, value)
    if as_json:
        show.json_line(found.model_dump(mode="json"))
        return
    rows = [
        (name, channel.width, channel.height, channel.min_hz)
        for name, channel in sorted(found.channels.items())
    ]
    show.table(("required channel", "width", "height", "least frames a second"), rows)
    region = ", ".join(map(str, found.region)) if found.region else "anywhere"
    show.pairs(
        [
            ("positions", "required" if found.positions else "not required"),
            ("region", region),
            ("cut off", "taken in part" if found.partial else "refused"),
        ]
    )
