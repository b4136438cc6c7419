"""`outlap retention`: which numbered tags of a dataset are kept."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson, Idc


def retention(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The dataset.")],
    last: Annotated[int | None, typer.Option("--last", min=1, help="Keep at least the last so many.")] = None,
    days: Annotated[float, typer.Option("--days", min=0.0, help="Keep what is younger.")] = 30.0,
    forever: Annotated[bool, typer.Option("--forever", help="Keep all (the default).")] = False,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Show or set which numbered versions `outlap gc` puts into the trash. Versions that another tag names always stay."""
    from lake.config import load_config
    from lake.refs import resolve
    from lake.stores import lake_store
    from lake.trash import Retention, read_retention, set_retention

    if forever and last is not None:
        raise typer.BadParameter("give one of --last and --forever")
    store = lake_store(load_config(), idc)
    resolve(store, name)  # raises NotFound, which names what there is
    if forever or last is not None:
        set_retention(store, name, None if last is None else Retention(last, days))
    rule = read_retention(store, name)
    if as_json:
        show.json_line(None if rule is None else asdict(rule))
    elif rule is None:
        show.line(f"{name}: every version is kept")
    else:
        show.line(f"{name}: the last {rule.last} versions are kept, and all of the last {rule.days:g} days")
