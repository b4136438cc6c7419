"""`outlap verify`: read every byte of a version in its store."""

from __future__ import annotations

from dataclasses import asdict

import typer

from outlap import show
from outlap.options import AsJson, Idc, Version


def verify(version: Version, idc: Idc = None, as_json: AsJson = False) -> None:
    """Read every byte of a version from the IDC's store and check it. Exit code 1 when anything is wrong."""
    from lake import versions
    from lake.config import load_config
    from lake.refs import parse, resolve
    from lake.stores import lake_store
    from outlap.scratch import scratch

    store = lake_store(load_config(), idc)
    ref = resolve(store, *parse(version))
    with scratch() as folder:
        found = versions.verify(store, ref.version, folder)
    if as_json:
        show.json_line({"version": ref.version, "store": store.name, **asdict(found)})
    else:
        show.line(f"{version} in {store.name}: {found.files:,} files, {show.size(found.bytes)}")
        for problem in found.problems:
            show.line(f"wrong: {problem}")
        show.line("every byte is right" if not found.problems else f"{len(found.problems)} problems")
    raise typer.Exit(1 if found.problems else 0)
