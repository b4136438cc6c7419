"""`outlap publish`: frames, a folder or objects → an immutable version."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlap import show
from outlap.options import AsJson, Idc

if TYPE_CHECKING:
    from lake.config import Config
    from lake.publish import Published
    from lake.stores import Store


def publish(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The dataset.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="URI", help="A folder, or STORE:PREFIX with a store of the settings."),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option("--query", metavar="SQL", help="A SELECT over the catalogue's view `frames`."),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(
            "--files", metavar="LIST", exists=True, dir_okay=False, help="Paths of frames, one a line."
        ),
    ] = None,
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

    if sum(option is not None for option in (source, query, files)) != 1:
        raise typer.BadParameter("give exactly one of --from, --query and --files")
    config = load_config()
    store = lake_store(config, idc)
    origin = {"by": "outlap publish", "user": getpass.getuser()}
    if query is not None:
        done = _query(store, name, query, origin, tag)
    elif files is not None:
        done = _listed(store, name, files, origin, tag)
    else:
        assert source is not None
        done = _from(config, store, name, source, origin, tag)
    if as_json:
        show.json_line(asdict(done))
        return
    new = "published" if done.is_new else "nothing new:"
    show.line(
        f"{new} {done.dataset}@{done.tag} ({done.version[:12]}): {done.files:,} files, {show.size(done.bytes)}"
    )
    show.say(f"parts: {done.parts_written} written, {done.parts_reused} reused")


def _query(store: Store, name: str, sql: str, origin: dict[str, Any], tag: str | None) -> Published:
    from lake.publish import publish_query
    from outlap.scratch import scratch

    with scratch() as folder:
        return publish_query(store, name, sql, folder, origin, tag)


def _listed(store: Store, name: str, path: Path, origin: dict[str, Any], tag: str | None) -> Published:
    """The frames of the catalogue whose paths a list names. Raises NotFound for a path that is not there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from lake import catalog
    from lake.errors import NotFound
    from lake.publish import publish_rows
    from outlap.jobs import read_list
    from outlap.scratch import scratch

    wanted = pa.array(sorted(set(read_list(path) or ())), pa.string())
    with scratch() as folder, catalog.query(store, "select * from frames", folder) as answer:
        chosen = [batch.filter(pc.is_in(batch["path"], wanted)) for batch in answer.rows]
        found = pa.concat_tables(chosen)["path"].combine_chunks() if chosen else pa.array([], pa.string())
        missing = wanted.filter(pc.invert(pc.is_in(wanted, found)))
        if len(missing):
            raise NotFound(
                f"{missing[0].as_py()} of {path}",
                f"{len(missing)} of {len(wanted)} paths are not in the catalogue",
                "correct the list; `outlap publish NAME --query` selects by tags",
            )
        made_by = {**origin, "files": len(wanted), "catalog": answer.snapshot}
        return publish_rows(store, name, chosen, answer.schema, made_by, tag)


def _from(
    config: Config, store: Store, name: str, source: str, origin: dict[str, Any], tag: str | None
) -> Published:
    from lake.publish import publish_folder, publish_objects
    from lake.stores import open_store
    from outlap.scratch import scratch

    made_by = {**origin, "from": source}
    with scratch() as folder:
        if Path(source).exists() or ":" not in source:
            return publish_folder(store, name, Path(source), folder, made_by, tag)
        other, _, prefix = source.partition(":")
        objects = open_store(config.store_named(other), config.idc)
        return publish_objects(store, name, objects, prefix, folder, made_by, tag)
