"""Versions as a store has them: available means every byte is there and was checked."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from lake import stores
from lake.canonical import is_hash, read_json
from lake.errors import Corrupt, NotFound
from lake.manifests import Root, read_locations, read_one_part, read_parts, read_root
from lake.packs import ALIGN, pack_key
from lake.stores import Store

ROW_NAMES = ("path", "content_id", "size", "pack", "offset")
ROWS_IN_MEMORY = 500_000
PIECE = 8 << 20


@dataclass(frozen=True)
class PackUse:
    """A pack and what a version takes of it: size of the whole pack, files and bytes that the version needs."""

    id: str
    size: int
    files: int
    bytes: int


@dataclass(frozen=True)
class Available:
    """locations: one id for each part of the root, in its order.

    assembled: ids of those packs that lie in no store as packs, but as single objects elsewhere (lake/inplace.py).
    """

    version: str
    files: int
    bytes: int
    locations: tuple[str, ...]
    packs: tuple[PackUse, ...]
    assembled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verified:
    """problems: one line for each file or pack whose bytes are not what they should be."""

    files: int
    bytes: int
    problems: tuple[str, ...]


def available_key(version: str) -> str:
    return f"available/{version}.json"


def write_available(store: Store, available: Available) -> None:
    """Say that every byte is there. Call it last."""
    value = {
        "outlap": 1,
        "version": available.version,
        "files": available.files,
        "bytes": available.bytes,
        "locations": list(available.locations),
        "packs": [[use.id, use.size, use.files, use.bytes] for use in available.packs],
        **({"assembled": list(available.assembled)} if available.assembled else {}),
    }
    stores.put(store, available_key(available.version), json.dumps(value, separators=(",", ":")).encode())


def is_available(store: Store, version: str) -> bool:
    return stores.exists(store, available_key(version))


def read_available(store: Store, version: str) -> Available:
    """Raises NotFound when the version is not (wholly) in this store, Corrupt."""
    key = available_key(version)
    try:
        value = read_json(stores.get(store, key), key)
    except NotFound as error:
        raise NotFound(
            f"the version {version[:12]}",
            f"it is not available in store {store.name} of {store.idc}",
            f"sync it there: `outlap sync NAME@{version[:12]} --to {store.idc}`",
        ) from error
    try:
        packs = tuple(PackUse(*use) for use in value["packs"])
        found = Available(
            value["version"],
            value["files"],
            value["bytes"],
            tuple(value["locations"]),
            packs,
            tuple(value.get("assembled", ())),
        )
    except (KeyError, TypeError) as error:
        raise Corrupt(key, f"it is no record of availability: {error!r}") from error
    if found.version != version or not all(is_hash(use.id) for use in packs):
        raise Corrupt(key, "it speaks of another version, or of packs that cannot be")
    return found


def rows(store: Store, version: str) -> Iterator[pa.Table]:
    """ROW_NAMES (and the other columns of the version) of each part in turn: all sorted by path, all hashes checked.

    Raises NotFound, Corrupt: root, parts and locations have the hashes of their names, each row has a location of its size that
    lies inside a pack of this version.
    """
    root, available = read_whole(store, version)
    yield from rows_of(store, root, available, range(len(root.parts)))


def rows_of(store: Store, root: Root, available: Available, places: Sequence[int]) -> Iterator[pa.Table]:
    """What `rows` gives of the parts at some places, ascending, checked against each other as far as they are read."""
    some = replace(root, parts=tuple(root.parts[place] for place in places))
    for place, table in zip(places, read_parts(store, some), strict=True):
        yield _located(store, root, available, place, table)


def read_whole(store: Store, version: str) -> tuple[Root, Available]:
    """Root and availability of a version, which fit each other. Raises NotFound, Corrupt."""
    root, available = read_root(store, version), read_available(store, version)
    if len(available.locations) != len(root.parts):
        raise Corrupt(available_key(version), "it has not one list of locations for each part")
    return root, available


def part_rows(store: Store, root: Root, available: Available, place: int) -> pa.Table:
    """What `rows` gives of one part, checked by itself, for readers that look up single paths."""
    return _located(store, root, available, place, read_one_part(store, root, place))


def _located(store: Store, root: Root, available: Available, place: int, table: pa.Table) -> pa.Table:
    """A part with its columns pack and offset."""
    part, location_id = root.parts[place], available.locations[place]
    locations = read_locations(store, location_id)
    what = f"the locations {location_id[:12]}"
    if table.num_rows != locations.num_rows or not table["size"].equals(locations["size"]):
        raise Corrupt(what, f"they do not fit the part {part.id[:12]}")
    sizes = pa.array([use.id for use in available.packs], pa.string())
    ends = pa.array([use.size for use in available.packs], pa.int64())
    end = pc.take(ends, pc.index_in(locations["pack"], sizes))
    inside = pc.less_equal(pc.add(locations["offset"], locations["size"]), end)
    aligned = pc.equal(pc.bit_wise_and(locations["offset"], ALIGN - 1), 0)
    legal = pc.and_(pc.and_(inside, aligned), pc.greater_equal(locations["offset"], 0))
    if not pc.all(pc.fill_null(legal, False)).as_py():
        raise Corrupt(what, "a file lies outside the packs of the version, or off a 4 KiB boundary")
    return table.append_column("pack", locations["pack"]).append_column("offset", locations["offset"])


CheckAssembly = Callable[[str, pa.Table], Sequence[str]]


def verify(
    store: Store, version: str, scratch: Path, check_assembly: CheckAssembly | None = None
) -> Verified:
    """Read every byte of a version in a store again: whole packs, then each file in them.

    Args:
        store: the store.
        version: id of the version.
        scratch: a folder with room for a pack and the rows of the version.
        check_assembly: given an id and rows, it finds the problems of a pack whose members were published in place
            (lake.assemblies.verify_assembly); without it each such pack is a problem, for it was not read.

    Returns:
        What is wrong.

    Raises:
        NotFound: the version, a part or its locations are not there.
        Corrupt: one of these is damaged.
    """
    found = read_available(store, version)
    problems = pack_problems(store, found, scratch, check_assembly)
    return Verified(found.files, found.bytes, tuple(line for lines in problems.values() for line in lines))


def pack_problems(
    store: Store,
    found: Available,
    scratch: Path,
    check_assembly: CheckAssembly | None = None,
    only: Collection[str] | None = None,
) -> dict[str, list[str]]:
    """Read packs of a version as `verify` does.

    Args:
        store: the store.
        found: what it says of the version.
        scratch: as `verify` has it.
        check_assembly: as `verify` has it.
        only: ids of the packs to read; None: all.

    Returns:
        Id of each pack that has problems → one line a problem.
    """
    problems: dict[str, list[str]] = {}
    for use, mine in _by_pack(store, found, scratch):
        if only is not None and use.id not in only:
            continue
        if use.id in found.assembled:
            unread = [f"assemblies {use.id[:12]}: published in place, not read"]
            lines = check_assembly(use.id, mine) if check_assembly is not None else unread
        else:
            lines = _bad_pack(store, use, mine, scratch)
        if lines:
            problems[use.id] = list(lines)
    return problems


def _by_pack(store: Store, found: Available, scratch: Path) -> Iterator[tuple[PackUse, pa.Table]]:
    """ROW_NAMES of each pack in turn. Rows come by path: they go through files of neighbouring packs on the disk."""
    ids = pa.array([use.id for use in found.packs], pa.string())
    count = 1 + found.files // ROWS_IN_MEMORY
    share = -(-len(ids) // count)
    schema = _ROWS.append(pa.field("place", pa.int32()))
    with ExitStack() as files:
        folder = Path(files.enter_context(tempfile.TemporaryDirectory(dir=scratch)))
        paths = [folder / f"{number}.arrow" for number in range(count)]
        writers = [files.enter_context(pa.ipc.new_stream(path, schema)) for path in paths]
        for part in rows(store, found.version):
            place = pc.index_in(part["pack"], ids)
            part = part.select(_ROWS.names).append_column("place", place)
            for number in pc.unique(pc.divide(place, share)).to_pylist():
                writers[number].write_table(part.filter(pc.equal(pc.divide(place, share), number)))
        for number, path in enumerate(paths):
            writers[number].close()
            with pa.ipc.open_stream(path) as reader:
                mine = reader.read_all().sort_by("place")
            path.unlink()
            places = mine["place"].to_numpy()
            for here in range(number * share, min(len(ids), (number + 1) * share)):
                first, end = np.searchsorted(places, [here, here + 1]).tolist()
                yield found.packs[here], mine.slice(first, end - first)


def _bad_pack(store: Store, use: PackUse, mine: pa.Table, scratch: Path) -> Sequence[str]:
    local = scratch / f"verify-{use.id}.tar"
    try:
        digest = blake3()
        with local.open("wb") as out:
            for piece in stores.stream(store, pack_key(use.id)):
                digest.update(piece)
                out.write(piece)
        wrong = f"{pack_key(use.id)}: its bytes do not have the hash of its name"
        return [*([wrong] if digest.hexdigest() != use.id else []), *_bad_members(local, mine)]
    except NotFound as error:
        return [str(error)]
    finally:
        local.unlink(missing_ok=True)


def _bad_members(pack: Path, members: pa.Table) -> Sequence[str]:
    bad = []
    with pack.open("rb") as file:
        for batch in members.to_batches(max_chunksize=10_000):
            columns = (batch[name].to_pylist() for name in ("path", "content_id", "size", "offset"))
            for path, content_id, size, offset in zip(*columns, strict=True):
                file.seek(offset)
                digest = blake3()
                while size > 0 and (piece := file.read(min(size, PIECE))):
                    digest.update(piece)
                    size -= len(piece)
                if digest.hexdigest() != content_id:
                    bad.append(f"{path}: its bytes do not have its content id")
    return bad


_ROWS = pa.schema(
    [
        ("path", pa.string()),
        ("content_id", pa.string()),
        ("size", pa.int64()),
        ("pack", pa.string()),
        ("offset", pa.int64()),
    ]
)
