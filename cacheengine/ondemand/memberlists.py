"""The members of a pack: those that versions name, where nothing else can lie between them; else by the pack's own list, one request to
the tail of the object, then kept on the node.

The first needs no store: a node that reads from peers goes on when the store is away.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cacheengine import metrics
from cacheengine.packs.assembled import assembly
from cacheengine.packs.have import Ints
from cacheengine.wanted import PackWant
from lake import stores
from lake.assemblies import assembly_size
from lake.errors import Corrupt, NotFound
from lake.packs import ALIGN, next_offset, pack_key, read_members
from lake.stores import Store


def all_members(store: Store, folder: Path, pack_id: str, believed: Sequence[PackWant] = ()) -> PackWant:
    """Every member of a pack, ascending, each once; where one of `believed` names a member, as that says.

    folder: where lists are kept. Raises NotFound, Corrupt, StoreDown.
    """
    is_assembled = any(one.assembled for one in believed)
    size, table = _listed(store, folder, pack_id, is_assembled)
    return _merged([_want_of(pack_id, size, table), *believed])


def named_members(folder: Path, believed: Sequence[PackWant]) -> tuple[PackWant, Ints] | None:
    """(members that versions name, ascending, each once; regions [start, end) that may hold others, of which only the pack's own list
    can tell). None where that list is on this node already, or the pack is an assembly, or no version names it.
    """
    if (
        not believed
        or any(one.assembled for one in believed)
        or (folder / f"{believed[0].pack}.parquet").exists()
    ):
        return None
    want = _merged(believed)
    return want, _unknown(want)


def _unknown(want: PackWant) -> Ints:
    """(n, 2): whole blocks between members that are not where the next one must be after the last, and those behind the last."""
    ends = np.concatenate([np.zeros(1, np.int64), want.offset + want.length])
    after = -(-ends // ALIGN) * ALIGN
    before = np.append(want.offset, want.size)
    loose = np.append(want.offset != next_offset(ends[:-1]), True) & (after < before)
    return np.stack([after[loose], before[loose]], axis=1)


def touches(regions: Ints, offset: int, length: int) -> bool:
    """Whether any region has a byte in [offset, offset + length)."""
    return bool(((regions[:, 0] < offset + length) & (regions[:, 1] > offset)).any())


def _merged(columns: Sequence[PackWant]) -> PackWant:
    """Of several members at one offset the last counts."""
    offset = np.concatenate([c.offset for c in columns])[::-1]
    unique, at = np.unique(offset, return_index=True)
    merged = np.concatenate([c.length for c in columns])[::-1][at]
    content = np.concatenate([c.content_id for c in columns])[::-1][at]
    first, believed = columns[0], columns[1:] or columns
    is_assembled = any(one.assembled for one in believed)
    return PackWant(
        first.pack, first.size, unique, merged, content, is_assembled, all(one.hashed for one in believed)
    )


def _listed(store: Store, folder: Path, pack_id: str, is_assembled: bool) -> tuple[int, pa.Table]:
    """(size of the pack, its own list of members), from this node or the store."""
    kept = folder / f"{pack_id}.parquet"
    try:
        table = pq.read_table(kept)
        return int(table.schema.metadata[b"outlap.size"]), table
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        pass
    if is_assembled:
        table = assembly(store, pack_id)
        size = assembly_size(table)
    else:
        info = stores.head(store, pack_key(pack_id))
        if info is None:
            raise NotFound(pack_key(pack_id), f"it is not in store {store.name}", "sync the version again")
        table, size = read_members(store, pack_id), info.size
        metrics.store_requests.inc(3)
    kept_table = table.replace_schema_metadata({b"outlap.size": str(size).encode()})
    with kept.with_name(f".{pack_id}.{os.getpid()}.{threading.get_ident()}.tmp").open("wb") as out:
        pq.write_table(kept_table, out)
    Path(out.name).replace(kept)
    return size, table


def _want_of(pack_id: str, size: int, table: pa.Table) -> PackWant:
    """Raises Corrupt when the list names bytes outside the pack or a content id that is none."""
    offset = table["offset"].to_numpy().astype(np.int64)
    length = table["size"].to_numpy().astype(np.int64)
    if (offset < 0).any() or (length < 0).any() or (offset > size - length).any():
        raise Corrupt(pack_key(pack_id), "its list names bytes outside of it", "ingest the drive again")
    try:
        text = bytes.fromhex("".join(table["content_id"].to_pylist()))
        content = np.frombuffer(text, np.uint8).reshape(table.num_rows, 32)
    except (ValueError, TypeError) as error:
        raise Corrupt(
            pack_key(pack_id), "its list has a content id that is no hash", "ingest the drive again"
        ) from error
    return PackWant(pack_id, size, offset, length, content)


def touching(want: PackWant, offset: int, length: int) -> Ints:
    """Rows of members with a byte in [offset, offset + length). Members are in order and do not overlap, but for wrong ones."""
    last = int(np.searchsorted(want.offset, offset + length, "left"))
    ends = want.offset[:last] + want.length[:last]
    return np.flatnonzero(ends > offset)
