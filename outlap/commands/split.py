"""`outlap split`: train and validation parts that share no drive."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson, Idc, Version


def split(
    version: Version,
    shares: Annotated[
        str, typer.Option("--into", metavar="NAME=WEIGHT,…", help="Parts and their weights.")
    ] = "train=80,val=20",
    by: Annotated[
        str, typer.Option("--by", metavar="COLUMN", help="What is never divided: drive, vehicle, …")
    ] = "drive",
    salt: Annotated[str, typer.Option("--salt", help="Another text is another split.")] = "",
    name: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="The parts are NAME-train, …; default: the dataset."),
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", help="A further tag beside v1, v2 … and `latest`.")
    ] = None,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Publish the parts of a version as datasets of their own. No byte is copied, and a drive stays in its part for ever.

    What each part got is printed, with a warning where that is far from what was asked: drives are never divided.

    Example: outlap split front@v3 --into train=80,val=10,test=10
    """
    import getpass

    from lake.config import load_config
    from lake.refs import parse, resolve
    from lake.split import parse_shares, split_measured
    from lake.stores import lake_store

    store = lake_store(load_config(), idc)
    ref = resolve(store, *parse(version))
    origin = {"by": "outlap split", "user": getpass.getuser()}
    made = split_measured(store, ref, parse_shares(shares), origin, by, salt, name, tag)
    if as_json:
        show.json_line(
            [{**asdict(one), "share": {**asdict(share), "warning": share.warning}} for one, share in made]
        )
        return
    for one, share in made:
        new = "published" if one.is_new else "nothing new:"
        show.line(
            f"{new} {one.dataset}@{one.tag} ({one.version[:12]}): {one.files:,} files, {show.size(one.bytes)}; "
            f"{share.got:.1%} of the files ({share.asked:.1%} asked), {share.values:,} of {share.all_values:,} by {by}"
        )
    for _, share in made:
        if share.warning:
            show.line(f"warning: {share.warning}")
