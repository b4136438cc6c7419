"""`outlap export`: a version for other tools."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outlap import show
from outlap.options import AsJson, Idc, Version

if TYPE_CHECKING:
    from lake.export import Exported
    from lake.reading import Opened
    from lake.refs import Ref

KINDS = ("files", "parquet", "webdataset", "nuscenes", "croissant")


def export(
    version: Version,
    kind: Annotated[str, typer.Option("--to", metavar="FORMAT", help=f"One of {', '.join(KINDS)}.")],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", file_okay=False, help="Where the files are written.")
    ],
    prefix: Annotated[
        str,
        typer.Option(
            "--prefix", help="files: what stands before each path, for example the mount and a slash."
        ),
    ] = "",
    with_bytes: Annotated[
        bool,
        typer.Option("--bytes", help="parquet: with the pictures, as Hugging Face `datasets` reads them."),
    ] = False,
    copy: Annotated[
        bool,
        typer.Option(
            "--copy", help="webdataset: write all shards below FOLDER; default: use packs as they are."
        ),
    ] = False,
    license_url: Annotated[
        str, typer.Option("--license", metavar="URL", help="croissant: the licence of the data.")
    ] = "",
    text: Annotated[str, typer.Option("--description", help="croissant: a sentence about the data.")] = "",
    idc: Idc = None,
    as_json: AsJson = False,
) -> None:
    """Write lists and tables that other tools read: paths, plain Parquet, WebDataset shards, nuScenes JSON, Croissant.

    Example: outlap export front@v3 --to webdataset out/
    """
    from lake.config import load_config
    from lake.reading import open_version
    from lake.refs import parse, resolve
    from lake.stores import lake_store, open_store

    if kind not in KINDS:
        raise typer.BadParameter(f"--to is one of {', '.join(KINDS)}")
    config = load_config()
    store = lake_store(config, idc)
    ref = resolve(store, *parse(version))
    opened = open_version(store, ref.version, lambda name: open_store(config.store_named(name), config.idc))
    base = config.store_named(config.idc_named(idc).store).url
    done = _export(opened, ref, kind, folder, prefix, with_bytes, copy, base, license_url, text)
    if as_json:
        show.json_line({"version": ref.version, **asdict(done)})
        return
    shown = ", ".join(done.outputs[:5]) + (
        f" and {len(done.outputs) - 5:,} more" if len(done.outputs) > 5 else ""
    )
    show.line(f"{ref.dataset}@{ref.tag} as {kind}: {done.files:,} files in {done.folder}: {shown}")
    if done.copied:
        show.line(f"{show.size(done.copied)} of them copied")


def _export(
    opened: Opened,
    ref: Ref,
    kind: str,
    folder: Path,
    prefix: str,
    with_bytes: bool,
    copy: bool,
    base: str,
    license_url: str,
    text: str,
) -> Exported:
    from lake import export as exporting
    from lake.export_croissant import export_croissant
    from lake.export_nuscenes import export_nuscenes

    if kind == "files":
        return exporting.export_files(opened, folder, prefix)
    if kind == "parquet":
        make = exporting.export_parquet_with_bytes if with_bytes else exporting.export_parquet
        return make(opened, folder)
    if kind == "webdataset":
        return exporting.export_webdataset(opened, folder, base, copy)
    if kind == "nuscenes":
        return export_nuscenes(opened, ref, folder)
    return export_croissant(opened, ref, folder, license_url, text)
