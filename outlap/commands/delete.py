"""`outlap delete` and `outlap undelete`: tags into the trash and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from lake.errors import Refused
from lake.unreadable import Unreadable
from outlap import show
from outlap.options import AsJson, Idc

Tag = Annotated[str, typer.Argument(metavar="NAME@TAG", help="Dataset and tag.")]


def delete(version: Tag, idc: Idc = None, as_json: AsJson = False) -> None:
    """Put a tag into the trash. Its version stays whole for the grace of `outlap gc`, and `outlap undelete` brings the tag back."""
    from lake.config import load_config
    from lake.stores import lake_store
    from lake.trash import delete_tag

    dataset, at, tag = version.partition("@")
    if not at:
        raise Refused(
            f"delete {version!r}", "a tag is deleted, never a dataset at once", f"name {version}@TAG"
        )
    done = delete_tag(lake_store(load_config(), idc), dataset, tag)
    if as_json:
        show.json_line(asdict(done))
    else:
        show.line(
            f"{version} ({done.ref.version[:12]}) is in the trash; `outlap undelete {version}` undoes it"
        )


def undelete(
    version: Annotated[
        str | None, typer.Argument(metavar="[NAME@TAG]", help="What to bring back; nothing lists the trash.")
    ] = None,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Bring a tag back from the trash, or list what is there."""
    from lake import trash
    from lake.config import load_config
    from lake.stores import lake_store

    store = lake_store(load_config(), idc)
    if version is None:
        bad: list[Unreadable] = []
        items = trash.trashed(store, unreadable=bad)
        show.unreadable(bad)
        if as_json:
            show.json_line([asdict(item) for item in items])
            raise typer.Exit(3 if bad else 0)
        rows = [
            (f"{item.ref.dataset}@{item.ref.tag}", item.ref.version[:12], show.moment(item.deleted_ns))
            for item in items
        ]
        show.table(("tag", "version", "deleted"), rows, title=f"trash of {store.name}")
        raise typer.Exit(3 if bad else 0)
    dataset, at, tag = version.partition("@")
    if not at:
        raise Refused(f"undelete {version!r}", "it names no tag", "see `outlap undelete` for what there is")
    ref = trash.undelete(store, dataset, tag)
    if as_json:
        show.json_line(asdict(ref))
    else:
        show.line(f"{version} names {ref.version[:12]} again")
