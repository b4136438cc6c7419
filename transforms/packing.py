"""Packing: spooled JPEGs to packs, and to rows of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from lake.catalog import FRAME_SCHEMA
from lake.packs import MEMBERS_SCHEMA, PACK_TARGET, Pack, PackWriter
from transforms.cut import Piece


@dataclass(frozen=True)
class Item:
    """One JPEG on its way into a pack. path: its name there and in every version; frame: its row in the frames' table."""

    path: str
    frame: int
    piece: Piece


def frame_path(output: str, vehicle: str, drive: str, channel: str, timestamp_ns: int) -> str:
    """`<output>/<vehicle>/<drive>/<channel>/<timestamp, 19 digits>.jpg`"""
    return f"{output}/{vehicle}/{drive}/{channel}/{timestamp_ns:019d}.jpg"


def _read(piece: Piece) -> bytes:
    with piece.spool.open("rb") as file:
        file.seek(piece.offset)
        return file.read(piece.size)


def write_packs(
    items: Sequence[Item], folder: Path, target: int = PACK_TARGET
) -> Iterator[tuple[Pack, Path, Sequence[Item]]]:
    """(pack, its file, its items) one after the other; the file may be removed once it is taken.

    items: ascending in path. Each output has packs of its own, so that 720p can be synced and warmed without 4k; a pack
    ends with the member that brings it to `target` bytes.
    """
    for output, of_output in groupby(items, key=lambda item: item.piece.output):
        waiting = list(of_output)
        start = 0
        while start < len(waiting):
            path = folder / f"{output}-{start}.tar"
            writer = PackWriter(path)
            stop = start
            try:
                while stop < len(waiting) and writer.size < target:
                    writer.add(waiting[stop].path, _read(waiting[stop].piece))
                    stop += 1
                pack = writer.finish()
            except BaseException:
                writer.abandon()
                raise
            yield pack, path, waiting[start:stop]
            start = stop


def catalogue_rows(pack: Pack | None, items: Sequence[Item], frames: pa.Table, recipe: str) -> pa.Table:
    """FRAME_SCHEMA rows of one pack, in its order, and what further columns `frames` has; no rows without a pack.

    frames: the columns that all outputs of a frame share, one row per frame.
    """
    shared = frames.take(pa.array([item.frame for item in items], pa.int64()))
    members = MEMBERS_SCHEMA.empty_table() if pack is None else pack.members
    assert members["name"].to_pylist() == [item.path for item in items]
    own = {
        "path": members["name"],
        "content_id": members["content_id"],
        "size": members["size"],
        "offset": members["offset"],
        "width": pa.array([item.piece.width for item in items], pa.int32()),
        "height": pa.array([item.piece.height for item in items], pa.int32()),
        "output": pa.array([item.piece.output for item in items], pa.string()),
        "pack": pa.array(["" if pack is None else pack.id] * len(items), pa.string()),
        "recipe": pa.array([recipe] * len(items), pa.string()),
    }
    further = [field for field in frames.schema if field.name not in FRAME_SCHEMA.names]
    schema = pa.schema([*FRAME_SCHEMA, *further])
    columns = [own[name] if name in own else shared[name] for name in schema.names]
    return pa.table(columns, schema=schema)
