"""Assemblies: packs that lie in no store, because their members are single objects that were published in place.

    assemblies/<id>.parquet     name, offset, size, content_id, store, key, etag of each member; the id is the BLAKE3 of its
                                canonical column bytes (lake.manifests)

To a manifest's locations and to a node an assembly is a pack like any other: (pack id, offset, size), members on 4 KiB
boundaries, the next after the last. Only where a member's bytes come from differs: the whole object `key` of the store of that name,
read with If-Match on `etag`. `Available.assembled` lists the ids, so that whoever cannot do this says so before it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from blake3 import blake3

from lake import stores
from lake.canonical import blake3_hex, canonical_json, is_hash
from lake.errors import Conflict, Corrupt, LakeError, NotFound, Refused
from lake.manifests import canonical_columns_id
from lake.packs import ALIGN, PACK_TARGET, parquet_bytes
from lake.paths import path_hashes
from lake.stores import Store
from lake.versions import Available

OpenNamed = Callable[[str], Store]
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("content_id", pa.string()),
        ("store", pa.string()),
        ("key", pa.string()),
        ("etag", pa.string()),
    ]
)
CUT_MASK = np.uint64(0x7FF)  # an assembly ends before one name in 2,048: a new object changes one assembly
PARALLEL = 16


def assembly_key(assembly_id: str) -> str:
    if not is_hash(assembly_id):
        raise Refused(f"the assembly {assembly_id[:80]!r}", "its id is not 64 hex digits")
    return f"assemblies/{assembly_id}.parquet"


def etag_id(store: str, key: str, etag: str, size: int) -> str:
    """The content id of an object under etag identity: which object it is, not what bytes it has."""
    return blake3_hex(canonical_json([store, key, etag, size]))


def _room(sizes: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Whole blocks for each member, one for an empty one: an offset names one member."""
    room: npt.NDArray[np.int64] = np.maximum(-(-sizes.to_numpy() // ALIGN), 1).astype(np.int64) * ALIGN
    return room


def assembly_cuts(names: pa.ChunkedArray, sizes: pa.ChunkedArray) -> list[int]:
    """Places where an assembly ends, the last one len(names): by name hash, or where it would outgrow a pack."""
    room = _room(sizes)
    ends = set(np.flatnonzero((path_hashes(names) & CUT_MASK) == 0).tolist()) | {len(names)}
    cuts, held = [], 0
    for place, size in enumerate(room.tolist()):
        if place and (place in ends or held + size > PACK_TARGET):
            cuts.append(place)
            held = 0
        held += size
    return [*cuts, len(names)]


def with_offsets(members: pa.Table) -> pa.Table:
    """Rows of one assembly: each member on the next 4 KiB boundary."""
    room = _room(members["size"])
    offsets = np.cumsum(room) - room
    return members.append_column("offset", pa.array(offsets, pa.int64())).select(SCHEMA.names).cast(SCHEMA)


def put_assembly(store: Store, table: pa.Table) -> str:
    """Write an assembly unless it is there; its id."""
    table = table.combine_chunks()
    assembly_id = canonical_columns_id(table)
    stores.put_if_absent(store, assembly_key(assembly_id), parquet_bytes(table))
    return assembly_id


def read_assembly(store: Store, assembly_id: str) -> pa.Table:
    """SCHEMA rows, hash checked. Raises NotFound, Corrupt."""
    key = assembly_key(assembly_id)
    data = stores.get(store, key)
    try:
        table = pq.read_table(pa.BufferReader(data))
    except pa.ArrowException as error:
        raise Corrupt(f"{key} in store {store.name}", f"it is not Parquet: {error}") from error
    if table.schema.names != SCHEMA.names or canonical_columns_id(table) != assembly_id:
        raise Corrupt(f"{key} in store {store.name}", "its rows do not have the hash of its name")
    return table


def assembly_size(table: pa.Table) -> int:
    """Size of the pack that it stands for, in bytes, a multiple of 4 KiB."""
    return int(table["offset"][-1].as_py() + _room(table["size"])[-1]) if table.num_rows else 0


def read_member(source: Store, key: str, etag: str, size: int) -> bytes:
    """The bytes of an object published in place. Raises NotFound, Corrupt when it is another object by now."""
    data = b"".join(_matching(source, key, etag, size))
    if len(data) != size:
        raise Corrupt(f"{key} in store {source.name}", f"it has {len(data)} bytes, {size} were published")
    return data


def hash_object(source: Store, key: str, etag: str, size: int) -> str:
    """BLAKE3 of an object, streamed. Raises NotFound, Corrupt when it is another object by now."""
    digest, seen = blake3(), 0
    for piece in _matching(source, key, etag, size):
        digest.update(piece)
        seen += len(piece)
    if seen != size:
        raise Corrupt(
            f"{key} in store {source.name}", f"it gave {seen} bytes, {size} were listed", "publish again"
        )
    return digest.hexdigest()


def _matching(source: Store, key: str, etag: str, size: int) -> Iterator[bytes | memoryview]:
    try:
        yield from stores.stream_matching(source, key, etag, size)
    except Conflict as error:
        raise Corrupt(
            f"{key} in store {source.name}",
            f"it was changed since it was published (its etag is no longer {etag})",
            "publish the prefix again; objects published in place must not be overwritten",
        ) from error


def refuse_assembled(available: Available, verb: str) -> None:
    """For whoever reads packs only. Raises Refused when the version needs single objects that were published in place."""
    if available.assembled:
        raise Refused(
            f"{verb} version {available.version[:12]}",
            f"{len(available.assembled)} of its {len(available.packs)} packs are single objects published in place",
            "publish it packed (`outlap publish NAME --from …` without --in-place): the version id stays the same",
        )


def verify_assembly(
    store: Store, assembly_id: str, rows: pa.Table, open_named: OpenNamed, identity: str
) -> list[str]:
    """Read the objects of one assembly again (content), or look at their etags (etag); one line a problem.

    rows: path, content_id, offset of the version's files in it.
    """
    try:
        table = read_assembly(store, assembly_id)
        opened = {name: open_named(name) for name in pc.unique(table["store"]).to_pylist()}
    except LakeError as error:
        return [str(error)]
    at = pc.index_in(rows["offset"], table["offset"].combine_chunks())
    if at.null_count:
        return [f"{assembly_key(assembly_id)}: {at.null_count} files of the version are not in it"]
    found = table.take(at)

    def check(row: tuple[str, str, str, str, str, int]) -> str | None:
        path, wanted, name, key, etag, size = row
        try:
            if identity == "etag":
                info = stores.head(opened[name], key)
                if info is None:
                    raise NotFound(f"{key} in store {name}", "there is no such object")
                same = etag_id(name, key, info.etag or "", info.size) == wanted
            else:
                same = hash_object(opened[name], key, etag, size) == wanted
        except LakeError as error:
            return f"{path}: {error}"
        return None if same else f"{path}: {key} in store {name} is not what was published"

    columns: Sequence[list[object]] = [rows["path"].to_pylist(), rows["content_id"].to_pylist()]
    columns = [*columns, *(found[name].to_pylist() for name in ("store", "key", "etag", "size"))]
    with ThreadPoolExecutor(PARALLEL) as pool:
        lines = pool.map(check, zip(*columns, strict=True))
        return [line for line in lines if line is not None]
