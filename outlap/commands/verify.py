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
    from lake.repair import Repaired
    from lake.stores import Store
    from lake.versions import CheckAssembly, Verified


def verify(
    version: Version,
    rerun: Annotated[
        bool,
        typer.Option(
            "--rerun", help="Run its query again on the same catalogue files; the id must come out the same."
        ),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Bring what is missing or damaged from another store that has it."),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="IDC", help="With --repair: take from this IDC only; default: from any."
        ),
    ] = None,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte of a version from the IDC's store and check it; a sync believes a young verification (`[sync] verified_hours`).

    Exit code 1 when anything is wrong (still); with --repair 3 when something was healed and all is right now.
    """
    from lake.config import load_config
    from lake.refs import parse, resolve
    from lake.stores import lake_store

    config = load_config()
    store = lake_store(config, idc)
    ref = resolve(store, *parse(version))
    if rerun:
        _rerun(store, ref, as_json)
        return
    from lake.verified import keep_verified

    if source is not None and not repair:
        raise typer.BadParameter("--from goes with --repair")
    found = _repair(config, store, ref.version, source) if repair else _read(config, store, ref.version)
    healed = getattr(found, "healed", ())
    if not found.problems:
        keep_verified(store, ref.dataset, ref.version)
    if as_json:
        show.json_line({"version": ref.version, "store": store.name, **asdict(found)})
    else:
        show.line(f"{version} in {store.name}: {found.files:,} files, {show.size(found.bytes)}")
        for line in healed:
            show.line(f"healed: {line}")
        for problem in found.problems:
            show.line(f"wrong: {problem}")
        show.line("every byte is right" if not found.problems else f"{len(found.problems)} problems")
    raise typer.Exit(1 if found.problems else 3 if healed else 0)


def _read(config: Config, store: Store, version: str) -> Verified:
    from lake import versions
    from outlap.scratch import scratch

    with scratch() as folder:
        return versions.verify(store, version, folder, _assemblies(config, store, version))


def _repair(config: Config, store: Store, version: str, source: str | None) -> Repaired:
    from lake.repair import repair
    from lake.stores import lake_store
    from outlap.errors import NotHere
    from outlap.scratch import scratch

    names = [source] if source is not None else [name for name in config.idcs if name != store.idc]
    if names == [store.idc] or not names:
        raise NotHere("a store to take from", f"the settings name none but that of {store.idc}", "add an IDC")
    sources = [lake_store(config, name) for name in names]
    with scratch() as folder:
        return repair(store, version, sources, folder, _assemblies(config, store, version))


def _assemblies(config: Config, store: Store, version: str) -> CheckAssembly:
    """Checks objects that were published in place."""
    from lake.assemblies import verify_assembly
    from lake.manifests import read_root
    from lake.stores import open_store

    def opened(name: str) -> Store:
        return open_store(config.store_named(name), config.idc)

    return lambda pack, rows: verify_assembly(store, pack, rows, opened, read_root(store, version).identity)


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
