"""`outlap show`: datasets, tags and versions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from lake.unreadable import Unreadable
from outlap import show
from outlap.options import AsJson, Idc


def show_version(
    version: Annotated[
        str | None,
        typer.Argument(metavar="[NAME[@TAG]]", help="A dataset or a version; nothing lists all datasets."),
    ] = None,
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """List datasets, or the tags of one, or what stands in a version: files, bytes, packs, and what made it.

    Exit code 3 when a tag cannot be read: it is named, the others are shown.
    """
    from lake.config import load_config
    from lake.refs import list_all_refs, list_refs
    from lake.stores import lake_store

    config = load_config()
    store = lake_store(config, idc)
    if version is not None and "@" in version:
        _one(store, version, as_json)
        return
    bad: list[Unreadable] = []
    refs = list_all_refs(store, bad) if version is None else list_refs(store, version, bad)
    show.unreadable(bad)
    if version is not None and not refs:
        from lake.refs import resolve

        resolve(store, version)  # raises NotFound, which names what there is
    if as_json:
        show.json_line([asdict(ref) for ref in refs])
        raise typer.Exit(3 if bad else 0)
    rows = [(ref.dataset, ref.tag, ref.version[:12], show.moment(ref.at_ns)) for ref in refs]
    show.table(("dataset", "tag", "version", "published"), rows, title=f"datasets in {store.name}")
    raise typer.Exit(3 if bad else 0)


def _one(store: Any, version: str, as_json: bool) -> None:
    from lake.refs import parse, resolve
    from lake.versions import read_available

    dataset, name = parse(version)
    ref = resolve(store, dataset, name)
    available = read_available(store, ref.version)
    if as_json:
        packs = [asdict(pack) for pack in available.packs]
        show.json_line(
            {
                **asdict(ref),
                "files": available.files,
                "bytes": available.bytes,
                "packs": packs,
                "store": store.name,
            }
        )
        return
    show.pairs(
        [
            ("dataset", f"{ref.dataset}@{ref.tag}"),
            ("version", ref.version),
            ("published", show.moment(ref.at_ns)),
            ("files", f"{available.files:,}"),
            ("bytes", f"{available.bytes:,} ({show.size(available.bytes)})"),
            ("packs", len(available.packs)),
            ("store", store.where),
            *((f"made by: {key}", value) for key, value in sorted(ref.origin.items())),
        ]
    )
