"""Members of packs that lie in no store: each is a whole object that was published in place, and the node puts the pack together.

An object is read with If-Match on its etag, in one request, and written where it belongs in the pack when all of it is there and it
has its content id (its BLAKE3; with etag identity: store, key, etag and size are those of the manifest). See lake/assemblies.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from cacheengine import metrics
from cacheengine.packs import memberwrites
from cacheengine.packs.memberwrites import PackFile, Sink
from cacheengine.wanted import PackWant
from lake import stores
from lake.assemblies import OpenNamed, etag_id, read_assembly
from lake.errors import Conflict, LakeError, StoreDown
from lake.stores import Store

PARALLEL = 8
TRIES = 3
PIECE = 256 << 10  # bytes that come before they are told of
KEPT = 64  # lists of assemblies in memory, of some thousand rows each

Member = tuple[int, str, str, str]  # row of the want, store, key, etag


_kept: dict[str, pa.Table] = {}
_lock = threading.Lock()


def assembly(store: Store, pack: str) -> pa.Table:
    """The list of an assembly, checked; its id is the hash of it. Raises NotFound, Corrupt, StoreDown."""
    with _lock:
        known = _kept.get(pack)
    if known is None:
        metrics.store_requests.inc()
        known = read_assembly(store, pack)
        with _lock:
            _kept[pack] = known
            while len(_kept) > KEPT:
                _kept.pop(next(iter(_kept)))
    return known


def fetch_members(
    store: Store, want: PackWant, rows: Sequence[int], *, pack: PackFile, open_named: OpenNamed
) -> list[tuple[int, str]]:
    """Fetch these rows' objects, check them and write them; (row, cause) of those that are not what was published.

    Raises StoreDown, OSError, and Refused for a store that the settings do not name.
    """
    table = assembly(store, want.pack)
    at = pc.index_in(pa.array(want.offset[list(rows)]), table["offset"].combine_chunks())
    bad = [
        (row, "the assembly does not list it")
        for row, place in zip(rows, at, strict=True)
        if not place.is_valid
    ]
    there = [row for row, place in zip(rows, at, strict=True) if place.is_valid]
    found = table.take(at.drop_null())
    columns = [found[name].to_pylist() for name in ("store", "key", "etag")]
    members: list[Member] = list(zip(there, *columns, strict=True))
    opened = {name: open_named(name) for name in set(columns[0])}

    def one(member: Member) -> tuple[int, str] | None:
        row, name, _, _ = member
        cause = _fetch_one(opened[name], want, member, pack)
        return None if cause is None else (row, cause)

    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="assemble") as pool:
        bad += [failure for failure in pool.map(one, members) if failure is not None]
    metrics.members_bad.inc(len(bad))
    return bad


def _fetch_one(source: Store, want: PackWant, member: Member, pack: PackFile) -> str | None:
    """Why the object is not what was published; None when it is, and is written."""
    row, name, key, etag = member
    size, came = int(want.length[row]), 0
    if not want.hashed and etag_id(name, key, etag, size) != want.content_id[row].tobytes().hex():
        return f"{key} in store {name} does not have its content id"

    def pour(sink: Sink) -> bool:
        nonlocal came
        came = _receive(source, member, size, sink, pack)
        return came == size

    for attempt in range(TRIES):
        try:
            if memberwrites.write_long(want, row, pour, pack):
                return None
            pack.came(-size if came == size else 0)
        except StoreDown:
            if attempt + 1 == TRIES:
                raise
            metrics.store_retries.inc()
            time.sleep(0.2 * 4**attempt)
        except Conflict:
            return f"{key} in store {name} was changed since it was published (its etag is no longer {etag})"
        except LakeError as error:
            return str(error)
        if came > size:
            return f"{key} in store {name} has more than the {size} bytes that were published"
    return f"{key} in store {name} does not have its content id"


def _receive(source: Store, member: Member, size: int, sink: Sink, pack: PackFile) -> int:
    """Read the object once; how many bytes came, and of too many only that they are. Raises Conflict, LakeError."""
    _, _, key, etag = member
    count = told = 0
    metrics.store_requests.inc()
    try:
        for piece in stores.stream_matching(source, key, etag, size, PIECE):
            count += len(piece)
            if count > size:
                break
            told += len(piece)
            pack.came(len(piece))
            sink(memoryview(piece))
    finally:
        if count != size:
            pack.came(-told)
    metrics.store_bytes.inc(count)
    return count
