"""`outlap verify`: read every byte of a version in its store."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from outlap import show
from outlap.options import AsJson, Idc, Version

if TYPE_CHECKING:
    from lake.config import Config
    from lake.refs import Ref
    from lake.stores import Store
    from lake.versions import Verified


def verify(
    version: Version,
    rerun: Annotated[
        bool,
        typer.Option(
            "--rerun", help="Run its query again on the same catalogue files; the id must come out the same."
        ),
    ] = False,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte of a version from the IDC's store and check it. Exit code 1 when anything is wrong."""
    from lake.config import load_config
    from lake.refs import parse, resolve
    from lake.stores import lake_store

    config = load_config()
    store = lake_store(config, idc)
    ref = resolve(store, *parse(version))
    if rerun:
        _rerun(store, ref, as_json)
        return
    found = _read(config, store, ref.version)
    if as_json:
        show.json_line({"version": ref.version, "store": store.name, **asdict(found)})
    else:
        show.line(f"{version} in {store.name}: {found.files:,} files, {show.size(found.bytes)}")
        for problem in found.problems:
            show.line(f"wrong: {problem}")
        show.line("every byte is right" if not found.problems else f"{len(found.problems)} problems")
    raise typer.Exit(1 if found.problems else 0)


def _read(config: Config, store: Store, version: str) -> Verified:
    from lake import versions
    from lake.assemblies import verify_assembly
    from lake.manifests import read_root
    from lake.stores import open_store
    from outlap.scratch import scratch

    identity = read_root(store, version).identity

    def opened(name: str) -> Store:
        return open_store(config.store_named(name), config.idc)

    with scratch() as folder:
        return versions.verify(
            store,
            version,
            folder,
            lambda pack, rows: verify_assembly(store, pack, rows, opened, identity),
        )


def _rerun(store: Store, ref: Ref, as_json: bool) -> None:
    from lake.publish import rerun_query
    from outlap.scratch import scratch

    with scratch() as folder:
        again = rerun_query(store, ref, folder)
    same = again == ref.version
    if as_json:
        show.json_line({"version": ref.version, "store": store.name, "rerun": again, "same": same})
    elif same:
        show.line(f"{ref.dataset}@{ref.tag}: its query gives {again[:12]} again")
    else:
        show.line(f"{ref.dataset}@{ref.tag}: its query gives {again}, not {ref.version}")
        show.line("the query itself is not repeatable (random(), now(), a limit without an order)")
    raise typer.Exit(0 if same else 1)
