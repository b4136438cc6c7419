"""`outlap sync`: copy a version to another IDC."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from outlap import show
from outlap.options import AsJson, Version

if TYPE_CHECKING:
    from pathlib import Path

    from lake.stores import Store
    from lake.sync import SyncReport


def sync(
    version: Version,
    to: Annotated[str, typer.Option("--to", metavar="IDC", help="The IDC to copy to.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="IDC", help="The IDC to copy from; default: the one of this machine."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Read what is there by then, too, and heal it: every byte of the version."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy what a version needs and the other IDC lacks; packs are hashed on arrival, tags move last, and forward only.

    The other IDC is asked for each object (its size, not its bytes), unless a verification there is young enough. It keeps to its
    share of the link's budget (`outlap config set link.FROM.TO`) and waits for a link that is away (`[sync] link_wait_minutes`). Killed
    at any instant, run it again: what has arrived stays. Exit code 3 when packs could not be copied, or a tag stays where it is.
    """
    from cacheengine.fetching import linkshare
    from lake import sync as syncing
    from lake.config import load_config
    from lake.refs import parse
    from lake.stores import lake_store
    from lake.sync_settings import SyncSettings

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
            settings=config.section("sync", SyncSettings),
            waiting=lambda line: show.say(f"sync {version} to {to}: {line}"),
        )
    healed, wrong = _verified(origin, target, done, folder) if verify and not done.dead else ((), ())
    if as_json:
        show.json_line({**asdict(done), **({"healed": healed, "problems": wrong} if verify else {})})
    else:
        show.line(
            f"{done.dataset}@{done.tag} is in {to}: {done.packs_copied} packs copied ({show.size(done.bytes_copied)} in "
            f"{show.seconds(done.seconds)}), {_were_there(done)}"
            if not done.dead
            else f"{len(done.dead)} objects could not be copied: {', '.join(done.dead[:5])}"
        )
        for line in (*done.kept, *(f"healed: {one}" for one in healed), *(f"wrong: {one}" for one in wrong)):
            show.line(line)
    raise typer.Exit(1 if wrong else 3 if done.dead or done.kept or healed else 0)


def _were_there(done: SyncReport) -> str:
    asked = done.packs_present - done.packs_vouched
    text = f"{asked} were there with their size"
    if done.packs_vouched:
        text += f", {done.packs_vouched} were verified on {show.moment(done.vouched_at_ns)} and not asked for"
    return text


def _verified(
    origin: Store, target: Store, done: SyncReport, folder: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What was healed at the target, and what is wrong there still."""
    from lake.repair import repair
    from lake.verified import keep_verified

    found = repair(target, done.version, [origin], folder)
    if not found.problems:
        keep_verified(target, done.dataset, done.version)
    return found.healed, found.problems
