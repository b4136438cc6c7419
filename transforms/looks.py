"""Looks: what the cut pictures of a drive look like, measured once, for the rules and for the tags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from transforms.cut import Piece
from transforms.cutting import Cut
from transforms.recipe import Recipe
from transforms.seen import Looks, Seen
from transforms.signals import joined
from transforms.tags import picture, tag_columns
from transforms.tags.tagger import Frames
from transforms.telemetry import Positions
from transforms.times import Int64


def read_piece(piece: Piece) -> bytes:
    """Its JPEG."""
    with piece.spool.open("rb") as file:
        file.seek(piece.offset)
        return file.read(piece.size)


def _smallest(pieces: Sequence[Piece]) -> dict[int, Piece]:
    """By place in the index, ascending."""
    found: dict[int, Piece] = {}
    for piece in sorted(pieces, key=lambda piece: (piece.place, -piece.width * piece.height, piece.output)):
        found[piece.place] = piece
    return found


def look_at(cuts: Sequence[Cut], drive: Sequence[Seen], recipe: Recipe) -> tuple[list[Cut], list[Seen]]:
    """The same with looks, where the recipe tags pictures."""
    if picture.TAGGER.name not in {tag.name for tag in recipe.tags}:
        return list(cuts), list(drive)
    looked: dict[tuple[str, str, int], Looks] = {}
    for cut in cuts:
        pieces = list(_smallest(cut.pieces).values())
        assert cut.seen.times_ns is not None
        places = np.array([piece.place for piece in pieces], np.int64)
        order = np.argsort(cut.seen.times_ns[places], kind="stable").tolist()
        found = picture.measure([partial(read_piece, piece) for piece in pieces], order)
        looked[_key(cut.seen)] = Looks(places, found)

    def seen_with(seen: Seen) -> Seen:
        return (
            dataclasses.replace(seen, looks=looked[_key(seen)])
            if seen.stream and _key(seen) in looked
            else seen
        )

    return [dataclasses.replace(cut, seen=seen_with(cut.seen)) for cut in cuts], [
        seen_with(seen) for seen in drive
    ]


def _key(seen: Seen) -> tuple[str, str, int]:
    return seen.file.path, seen.channel, seen.number


def further_columns(
    cuts: Sequence[Cut],
    drive: Sequence[Seen],
    named: tuple[str, str],
    times_ns: Int64,
    positions: Positions,
    recipe: Recipe,
) -> dict[str, pa.Array]:
    """Columns of the catalogue beside its own: `partial`, and those of the recipe's tags.

    Rows: the frames of one cut after the other, each ascending in place. named: vehicle and drive. Raises TransformError.
    """
    pieces: list[Piece] = []
    channels: list[str] = []
    cut_off: list[bool] = []
    measured: list[dict[str, np.ndarray]] = []
    for cut in cuts:
        own = list(_smallest(cut.pieces).values())
        pieces += own
        channels += [cut.seen.channel] * len(own)
        cut_off += [any(problem.kind == "partial" for problem in cut.seen.problems)] * len(own)
        if cut.seen.looks is not None:
            measured.append(cut.seen.looks.measured)
    looks = {
        name: np.concatenate([one[name] for one in measured]) for name in (measured[0] if measured else ())
    }
    tracks = [seen.track for seen in drive if seen.track is not None]
    signals = joined(seen.signals for seen in drive)
    frames = Frames(
        *named, channels, times_ns, positions, tracks, lambda row: read_piece(pieces[row]), looks, signals
    )
    if not cuts or not looks:
        empty = np.full(len(pieces), np.nan)
        frames = dataclasses.replace(frames, looks=dict.fromkeys(picture.MEASURES, empty))
    return {"partial": pa.array(cut_off, pa.bool_()), **tag_columns(frames, recipe.tags)}
