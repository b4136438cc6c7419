"""Work in progress: the JPEGs of a channel that was cut, kept in the lake until all of its drive is.

    work/<recipe, 16 digits>/<fingerprint of the drive>/<name of the cut>.tar     its JPEGs, as a pack
    work/…/<name of the cut>.json                                                 {"tries": n, "last": why} or {"undecodable": why}

The name of a cut is a hash of the file, the channel and the very frames: what was kept for other frames is not found. So a killed
task goes on after the last channel that it ended, and a drive may be cut by many machines. Nothing refers to these objects;
they go when the drive is in the catalogue.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from lake import packs, stores
from lake.canonical import blake3_hex, canonical_json, read_json
from lake.errors import Corrupt, LakeError, NotFound
from lake.landing import Drive
from lake.packs import PackWriter
from lake.stores import Store
from transforms.cut import Piece
from transforms.recipe import Recipe, recipe_id
from transforms.seen import Seen
from transforms.times import Int64

log = logging.getLogger(__name__)

# A clip that ended so many tries without an answer (killed, out of memory) is given up.
MOST_TRIES = 3


@dataclass(frozen=True)
class Bench:
    """Where the cuts of a drive by a recipe are kept. prefix: of their keys."""

    store: Store
    prefix: str


def bench_of(lake: Store, drive: Drive, recipe: Recipe) -> Bench:
    return Bench(lake, f"work/{recipe_id(recipe)[:16]}/{drive.fingerprint}/")


def cut_name(seen: Seen, wanted: Int64) -> str:
    """Name of the cut of these frames (places in the index) of a channel."""
    what = canonical_json({"file": seen.file.path, "channel": seen.channel, "number": seen.number})
    return blake3_hex(what + wanted.astype("<i8").tobytes())[:32]


def save(bench: Bench, name: str, pieces: Sequence[Piece], folder: Path) -> None:
    """Keep the JPEGs of a cut; the same again is fine. folder: scratch."""
    path = folder / f"{name}.tar"
    writer = PackWriter(path)
    try:
        for piece in sorted(pieces, key=_member):
            with piece.spool.open("rb") as file:
                file.seek(piece.offset)
                writer.add(_member(piece), file.read(piece.size))
        writer.finish()
    except BaseException:
        writer.abandon()
        raise
    stores.put_file(bench.store, f"{bench.prefix}{name}.tar", path)
    path.unlink()


def _member(piece: Piece) -> str:
    return f"{piece.place:012d}/{piece.output}/{piece.width}x{piece.height}.jpg"


def load(bench: Bench, name: str, folder: Path) -> list[Piece] | None:
    """The kept JPEGs, by place and output, in a file under `folder`; None where there are none, or damaged ones."""
    path = folder / f"kept-{name}.tar"
    try:
        with path.open("wb") as out:
            for chunk in stores.stream(bench.store, f"{bench.prefix}{name}.tar"):
                out.write(chunk)
        members = packs.members_of(path)
    except (NotFound, Corrupt):
        path.unlink(missing_ok=True)
        return None
    pieces = []
    with path.open("rb") as file:
        for row in members.to_pylist():
            file.seek(row["offset"])
            if blake3(file.read(row["size"])).hexdigest() != row["content_id"]:
                return None
            place, output, size = row["name"].removesuffix(".jpg").split("/")
            width, height = (int(side) for side in size.split("x"))
            pieces.append(Piece(int(place), output, width, height, path, row["offset"], row["size"]))
    return sorted(pieces, key=lambda piece: (piece.place, piece.output))


def _tries(bench: Bench, name: str) -> dict[str, object]:
    key = f"{bench.prefix}{name}.json"
    try:
        return dict(read_json(stores.get(bench.store, key), key))
    except NotFound:
        return {}


def begin(bench: Bench, name: str) -> str | None:
    """Count one more try; why there is none to make (it does not decode, or was tried too often), None where there is."""
    known = _tries(bench, name)
    if "undecodable" in known:
        return str(known["undecodable"])
    tries = int(str(known.get("tries", 0)))
    if tries >= MOST_TRIES:
        last = known.get("last") or "it ended without a word (killed, or out of memory)"
        return f"given up after {tries} tries; of the last one is known: {last}"
    stores.put(bench.store, f"{bench.prefix}{name}.json", canonical_json({"tries": tries + 1}))
    return None


def failed(bench: Bench, name: str, why: str) -> None:
    """Remember how the try that was begun ended."""
    known = {**_tries(bench, name), "last": why[:300]}
    stores.put(bench.store, f"{bench.prefix}{name}.json", canonical_json(known))


def excuse(bench: Bench, name: str, why: str) -> None:
    """The try that was begun does not count: the machine or a store failed it, not the recording. Fails for nothing."""
    try:
        known = _tries(bench, name)
        tries = max(0, int(str(known.get("tries", 0))) - 1)
        value = canonical_json({**known, "tries": tries, "last": why[:300]})
        stores.put(bench.store, f"{bench.prefix}{name}.json", value)
    except LakeError:
        log.warning("the try of %s%s counts: the store is away", bench.prefix, name)


def refuse(bench: Bench, name: str, why: str) -> None:
    """Remember that the channel does not decode."""
    stores.put(bench.store, f"{bench.prefix}{name}.json", canonical_json({"undecodable": why}))


def clear(bench: Bench) -> None:
    """Remove all that is kept of the drive."""
    for info in list(stores.list_objects(bench.store, bench.prefix)):
        stores.delete(bench.store, info.key)
