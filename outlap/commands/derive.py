"""`outlap derive`: the same dataset with its pictures in another size."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from outlap import show
from outlap.options import AsJson, Idc, Version

if TYPE_CHECKING:
    from lake.stores import Store

PARTLY = 3


def derive(
    version: Version,
    resize: Annotated[
        str, typer.Option("--resize", metavar="WxH", help="The size that JPEGs get, for example 1280x720.")
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="The dataset to publish.")],
    aspect: Annotated[
        str,
        typer.Option("--aspect", help="`fit` inside, never enlarged; `fill` and cut off; `exact` stretches."),
    ] = "fit",
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, help="Of the JPEGs.")] = 90,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out pictures that do not decode, and exit with 3.")
    ] = False,
    tag: Annotated[
        str | None, typer.Option("--tag", help="A further tag beside v1, v2 … and `latest`.")
    ] = None,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Publish a version made from another: its JPEGs resized, all else carried over. Killed and run again, it goes on.

    When the parent gains frames, only those are made. Example: outlap derive front@v3 --resize 1280x720 --as front-720
    """
    import getpass

    from lake.config import load_config
    from lake.refs import parse, resolve
    from lake.stores import lake_store, open_store
    from outlap.scratch import scratch
    from transforms import derive as deriving

    config = load_config()
    store = lake_store(config, idc)
    parent = resolve(store, *parse(version))
    output = deriving.parse_size(resize, quality, aspect)
    origin = {"by": "outlap derive", "user": getpass.getuser()}

    def opened(one: str) -> Store:
        return open_store(config.store_named(one), config.idc)

    with scratch() as folder, show.progress("files") as report:
        done = deriving.derive(
            store,
            parent,
            name,
            output,
            folder,
            origin,
            tag,
            skip_bad=skip_bad,
            open_named=opened,
            progress=report,
        )
    made = done.published
    if as_json:
        show.json_line(
            {**asdict(made), **{key: value for key, value in asdict(done).items() if key != "published"}}
        )
    else:
        new = "published" if made.is_new else "nothing new:"
        show.line(
            f"{new} {made.dataset}@{made.tag} ({made.version[:12]}): {made.files:,} files, {show.size(made.bytes)}"
        )
        show.line(f"{done.made:,} made, {done.reused:,} from earlier runs, {done.carried:,} carried over")
        for line in done.bad[:20]:
            show.line(f"left out: {line}")
    raise typer.Exit(PARTLY if done.bad else 0)
