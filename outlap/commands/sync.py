"""`outlap sync`: copy a version to another IDC."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from outlap import show
from outlap.options import AsJson, Version


def sync(
    version: Version,
    to: Annotated[str, typer.Option("--to", metavar="IDC", help="The IDC to copy to.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="IDC", help="The IDC to copy from; default: the one of this machine."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy what a version needs and the other IDC lacks; packs are hashed on arrival, the tag moves last.

    It keeps to its share of the link's budget (`outlap config set link.FROM.TO`). Killed at any instant, run it again: what has
    arrived stays.
    """
    from cacheengine.fetching import linkshare
    from lake import sync as syncing
    from lake.config import load_config
    from lake.refs import parse
    from lake.stores import lake_store

    config = load_config()
    dataset, ref = parse(version)
    origin, target = lake_store(config, source), lake_store(config, to)
    # the same folder each time, so that a sync that was killed goes on where it was
    folder = config.home / "scratch" / "sync" / f"{origin.idc}-{to}-{dataset}"
    with show.progress() as report:
        done = syncing.sync(
            origin,
            target,
            dataset,
            ref,
            folder,
            progress=lambda copied, total: report(f"sync {version} to {to}", copied, total),
            pace=linkshare.of_sync(config, origin.idc, to, f"{dataset}@{ref}"),
        )
    if as_json:
        show.json_line(asdict(done))
    else:
        show.line(
            f"{done.dataset}@{done.tag} is in {to}: {done.packs_copied} packs copied ({show.size(done.bytes_copied)} in "
            f"{show.seconds(done.seconds)}), {done.packs_present} were there"
            if not done.dead
            else f"{len(done.dead)} objects could not be copied: {', '.join(done.dead[:5])}"
        )
    raise typer.Exit(3 if done.dead else 0)
