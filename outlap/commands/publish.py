"""`outlap publish`: frames, a folder, objects or a list of them → an immutable version."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outlap import show
from outlap.options import AsJson, Idc

if TYPE_CHECKING:
    from lake.sources import Done

PARTLY = 3


def publish(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The dataset.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URI", help="A folder, STORE:PREFIX, or s3://BUCKET/PREFIX of a known store."
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option("--query", metavar="SQL", help="A SELECT over the catalogue's view `frames`."),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(
            "--files",
            metavar="LIST",
            exists=True,
            dir_okay=False,
            help="One file a line: paths of frames, STORE:KEY, s3://…, or what --map covers.",
        ),
    ] = None,
    pkl: Annotated[
        Path | None,
        typer.Option(
            "--pkl",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A pickled list of files, read without running it.",
        ),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="PREFIX=STORE:PREFIX",
            help="Where names of a list that begin with PREFIX lie (or =/FOLDER).",
        ),
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place", help="Copy nothing: each object stays where it is and is its own location."
        ),
    ] = False,
    identity: Annotated[
        str,
        typer.Option(
            "--identity", help="With --in-place: `content` reads and hashes each object, `etag` reads none."
        ),
    ] = "content",
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Publish what is there of a list, and exit with 3.")
    ] = False,
    tag: Annotated[
        str | None, typer.Option("--tag", help="A further tag beside v1, v2 … and `latest`.")
    ] = None,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Publish the next version of a dataset. The same content is the same version, and publishing it again writes nothing.

    Example: outlap publish front --query "select * from frames where output = '720p' and channel = 'CAM_FRONT'"
    """
    import getpass

    from lake import sources
    from lake.config import load_config
    from lake.publish import publish_query
    from lake.stores import lake_store, open_store
    from outlap.jobs import read_list
    from outlap.scratch import scratch

    if sum(option is not None for option in (source, query, files, pkl)) != 1:
        raise typer.BadParameter("give exactly one of --from, --query, --files and --pkl")
    if in_place and query is not None:
        raise typer.BadParameter("--query publishes frames where they are already; leave out --in-place")
    if identity not in ("content", "etag") or (identity == "etag" and not in_place):
        raise typer.BadParameter("--identity is `content`, or `etag` together with --in-place")
    config = load_config()
    store = lake_store(config, idc)
    with scratch() as folder, show.progress() as bars:

        def report(done: int, total: int) -> None:
            bars("read" if in_place else "pack", done, total)

        order = sources.Order(
            store=store,
            dataset=name,
            origin={"by": "outlap publish", "user": getpass.getuser()},
            scratch=folder,
            stores=config.stores,
            open_named=lambda named: open_store(config.store_named(named), config.idc),
            tag=tag,
            in_place=in_place,
            identity=identity,
            skip_missing=skip_missing,
            maps=tuple(maps or ()),
            progress=report,
        )
        if query is not None:
            done = sources.Done(publish_query(store, name, query, folder, order.origin, tag))
        elif source is not None and (Path(source).exists() or ":" not in source):
            done = sources.publish_folder(order, Path(source))
        elif source is not None:
            done = sources.publish_prefix(order, source)
        elif pkl is not None:
            done = sources.publish_pickle(order, pkl, pkl.name)
        else:
            done = sources.publish_names(order, read_list(files) or (), files.name if files else "the list")
    _tell(done, as_json)
    if done.missing:
        raise typer.Exit(PARTLY)


def _tell(done: Done, as_json: bool) -> None:
    if as_json:
        show.json_line(
            {**asdict(done.published), "missing": list(done.missing), "duplicates": list(done.duplicates)}
        )
        return
    made = done.published
    new = "published" if made.is_new else "nothing new:"
    show.line(
        f"{new} {made.dataset}@{made.tag} ({made.version[:12]}): {made.files:,} files, {show.size(made.bytes)}"
    )
    for line in made.stays:
        show.line(line)
    show.say(f"parts: {made.parts_written} written, {made.parts_reused} reused")
    for kind, names in (("missing", done.missing), ("twice in the list", done.duplicates)):
        for found in names[:20]:
            show.line(f"{kind}: {found}")
        if len(names) > 20:
            show.line(f"and {len(names) - 20:,} more {kind} (--json lists them all)")
