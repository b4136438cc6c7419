"""`outlap history` and `outlap rollback`: what a tag named when, and back to it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from lake.errors import Corrupt, Refused
from lake.unreadable import Unreadable
from outlap import show
from outlap.options import AsJson, Idc

At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="WHEN",
        help="A day (its end) or a time, as 2026-11-17 or 2026-11-17T08:30+01:00; UTC by default.",
    ),
]
Tag = Annotated[str, typer.Argument(metavar="NAME[@TAG]", help="Dataset and tag; default: `latest`.")]


def moment_ns(text: str) -> int:
    """ns since 1970 UTC of an ISO date (the end of that day) or time. Raises Refused."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(
            f"the time {text!r}", str(error), "write it as 2026-11-17 or 2026-11-17T08:30"
        ) from error
    if len(text) == 10:
        found += timedelta(days=1, microseconds=-1)
    found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return (found - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def history(version: Tag, at: At = None, idc: Idc = None, as_json: AsJson = False) -> None:
    """Every version that a tag has named in this IDC, or (--at) the one that it named then.

    Example: outlap history city@latest --at 2026-11-17
    """
    from lake import refs
    from lake.config import load_config
    from lake.stores import lake_store

    store = lake_store(load_config(), idc)
    dataset, tag = refs.parse(version)
    bad: list[Unreadable] = []
    found = (
        refs.history(store, dataset, tag, bad)
        if at is None
        else [refs.was_at(store, dataset, tag, moment_ns(at))]
    )
    show.unreadable(bad)
    if as_json:
        show.json_line([asdict(ref) for ref in found])
        raise typer.Exit(3 if bad else 0)
    rows = [(show.moment(ref.moved_ns), ref.version[:12], show.moment(ref.at_ns)) for ref in found]
    show.table(("since", "version", "published"), rows, title=f"{dataset}@{tag} in {store.name}")
    raise typer.Exit(3 if bad else 0)


def rollback(
    version: Tag,
    to: Annotated[
        str | None, typer.Option("--to", metavar="TAG", help="A tag or version id of the dataset.")
    ] = None,
    at: At = None,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Let a tag name again what it named at a time (--at), or another version (--to). The history keeps both moves.

    A tag that cannot be read is written anew.
    """
    from lake import leases, refs
    from lake.config import load_config
    from lake.stores import lake_store
    from lake.versions import read_available

    if (to is None) == (at is None):
        raise typer.BadParameter("give exactly one of --to and --at")
    store = lake_store(load_config(), idc)
    dataset, tag = refs.parse(version)
    try:
        now = refs.read_ref(store, dataset, tag)
    except Corrupt as error:
        show.say(f"written anew: {error}")
        now, is_bad = None, True
    else:
        now, is_bad = now or refs.resolve(store, dataset, tag), False
    if refs.NUMBERED.fullmatch(tag) and not is_bad:
        raise Refused(
            f"move {dataset}@{tag}", "a numbered tag names one version for ever", "move `latest` or a name"
        )
    old = refs.resolve(store, dataset, to) if to else refs.was_at(store, dataset, tag, moment_ns(at or ""))
    name, was = (now.tag, now.version) if now is not None else (tag, None)
    moved = refs.Ref(dataset, name, old.version, old.at_ns, old.origin)
    with leases.writing(store, f"the roll back of {dataset}@{name}") as lease:
        read_available(store, old.version)  # raises NotFound when it has been collected
        refs.move_ref(store, moved, over_unreadable=is_bad)
        while lease.was_broken():  # it may have been collected after it was found
            lease.take_again()
            read_available(store, old.version)
    if as_json:
        show.json_line({"dataset": dataset, "tag": name, "was": was, "version": old.version})
    else:
        show.line(f"{dataset}@{name} names {old.version[:12]} (was {was[:12] if was else 'unreadable'})")
