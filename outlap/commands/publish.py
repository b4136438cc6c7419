"""`outlap publish`: frames, a folder, objects or a list of them → an immutable version."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlap import show
from outlap.options import AsJson, Idc

if TYPE_CHECKING:
    import pyarrow as pa

    from lake.config import Config
    from lake.publish import Published
    from lake.stores import Store

PARTLY = 3


@dataclass(frozen=True)
class _Order:
    """What the options of one call ask for."""

    config: Config
    store: Store
    name: str
    origin: dict[str, Any]
    tag: str | None
    in_place: bool
    identity: str
    skip_missing: bool
    maps: tuple[str, ...]


@dataclass(frozen=True)
class _Done:
    """missing: files of the list that are in no store; duplicates: paths that stood in it twice."""

    published: Published
    missing: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()


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

    from lake.config import load_config
    from lake.stores import lake_store

    if sum(option is not None for option in (source, query, files, pkl)) != 1:
        raise typer.BadParameter("give exactly one of --from, --query, --files and --pkl")
    if in_place and query is not None:
        raise typer.BadParameter("--query publishes frames where they are already; leave out --in-place")
    if identity not in ("content", "etag") or (identity == "etag" and not in_place):
        raise typer.BadParameter("--identity is `content`, or `etag` together with --in-place")
    config = load_config()
    origin = {"by": "outlap publish", "user": getpass.getuser()}
    store = lake_store(config, idc)
    order = _Order(config, store, name, origin, tag, in_place, identity, skip_missing, tuple(maps or ()))
    if query is not None:
        done = _query(order, query)
    elif source is not None:
        done = _from(order, source)
    else:
        done = _listed(order, files, pkl)
    _tell(done, as_json)
    if done.missing:
        raise typer.Exit(PARTLY)


def _tell(done: _Done, as_json: bool) -> None:
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
    show.say(f"parts: {made.parts_written} written, {made.parts_reused} reused")
    for kind, names in (("missing", done.missing), ("twice in the list", done.duplicates)):
        for found in names[:20]:
            show.line(f"{kind}: {found}")
        if len(names) > 20:
            show.line(f"and {len(names) - 20:,} more {kind} (--json lists them all)")


def _query(order: _Order, sql: str) -> _Done:
    from lake.publish import publish_query
    from outlap.scratch import scratch

    with scratch() as folder:
        return _Done(publish_query(order.store, order.name, sql, folder, order.origin, order.tag))


def _from(order: _Order, source: str) -> _Done:
    from lake import imports, listed

    if Path(source).exists() or ":" not in source:
        return _Done(_items(order, imports.folder_items(Path(source)), {"from": source}))
    place = listed.prefix_of(source, listed.store_mappings(order.config.stores))
    items = imports.prefix_items(_open(order.config, place.store), place.key)
    return _Done(_items(order, items, {"from": source}))


def _open(config: Config, name: str) -> Store:
    from lake.stores import open_store

    return open_store(config.store_named(name), config.idc)


def _items(order: _Order, items: pa.Table, made_by: dict[str, Any]) -> Published:
    """Publish items packed, or in place."""
    from lake.inplace import publish_in_place
    from lake.publish import publish_items
    from outlap.scratch import scratch

    def opened(name: str) -> Store:
        return _open(order.config, name)

    origin = {**order.origin, **made_by}
    with scratch() as folder, show.progress() as bars:

        def report(done: int, total: int) -> None:
            bars("read" if order.in_place else "pack", done, total)

        if order.in_place:
            origin["in_place"] = order.identity
            return publish_in_place(
                order.store, order.name, items, opened, origin, order.tag, order.identity, report
            )
        return publish_items(order.store, order.name, items, opened, folder, origin, order.tag, report)


def _listed(order: _Order, files: Path | None, pkl: Path | None) -> _Done:
    from lake import imports, listed, pickles
    from outlap.jobs import read_list

    given = [listed.parse_mapping(text, order.config.stores) for text in order.maps]
    mappings = [*listed.store_mappings(order.config.stores), *given]
    if pkl is not None:
        named = list(pickles.read_pickle(pkl))
        made_by: dict[str, Any] = {"pkl": pkl.name, "listed": len(named)}
    else:
        assert files is not None
        lines = read_list(files) or ()
        if not any(listed.place_of(line, mappings) for line in lines):
            return _Done(_frames(order, files, lines))
        named = [pickles.ListedFile(line) for line in lines]
        made_by = {"files": files.name, "listed": len(named)}
    wanted, said = listed.resolve(named, mappings)
    found = imports.listed_items(wanted, lambda name: _open(order.config, name))
    listed.check_found(found, order.skip_missing)
    items = listed.described(found.items, said)
    if found.missing:
        made_by["missing"] = len(found.missing)
    return _Done(_items(order, items, made_by), found.missing, found.duplicates)


def _frames(order: _Order, path: Path, lines: tuple[str, ...]) -> Published:
    """The frames of the catalogue whose paths a list names. Raises NotFound for a path that is not there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from lake import catalog
    from lake.errors import NotFound
    from lake.publish import publish_rows
    from lake.snapshots import keep_snapshot
    from outlap.scratch import scratch

    wanted = pa.array(sorted(set(lines)), pa.string())
    with scratch() as folder, catalog.query(order.store, "select * from frames", folder) as answer:
        chosen = [batch.filter(pc.is_in(batch["path"], wanted)) for batch in answer.rows]
        found = pa.concat_tables(chosen)["path"].combine_chunks() if chosen else pa.array([], pa.string())
        missing = wanted.filter(pc.invert(pc.is_in(wanted, found)))
        if len(missing):
            raise NotFound(
                f"{missing[0].as_py()} of {path}",
                f"{len(missing)} of {len(wanted)} paths are not in the catalogue, and no --map covers them",
                "correct the list; `outlap publish NAME --query` selects by tags",
            )
        made_by = {**order.origin, "files": len(wanted), "catalog": answer.snapshot}
        return publish_rows(
            order.store,
            order.name,
            chosen,
            answer.schema,
            made_by,
            order.tag,
            keep=lambda: keep_snapshot(order.store, answer.files),
        )
