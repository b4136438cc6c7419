"""Every member of a pack, by the pack's own list: one request to the tail of the object, then kept on the node."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cacheengine import metrics
from cacheengine.assembled import assembly
from cacheengine.have import Ints
from cacheengine.wanted import PackWant
from lake import stores
from lake.assemblies import assembly_size
from lake.errors import Corrupt, NotFound
from lake.packs import pack_key, read_members
from lake.stores import Store


def all_members(store: Store, folder: Path, pack_id: str, believed: Sequence[PackWant] = ()) -> PackWant:
    """Every member of a pack, ascending, each once; where one of `believed` names a member, as that says.

    folder: where lists are kept. Raises NotFound, Corrupt, StoreDown.
    """
    is_assembled = any(one.assembled for one in believed)
    size, table = _listed(store, folder, pack_id, is_assembled)
    columns = [_want_of(pack_id, size, table), *believed]
    offset = np.concatenate([c.offset for c in columns])[::-1]
    unique, at = np.unique(offset, return_index=True)  # of several at one offset the last counts
    merged = np.concatenate([c.length for c in columns])[::-1][at]
    content = np.concatenate([c.content_id for c in columns])[::-1][at]
    return PackWant(pack_id, size, unique, merged, content, is_assembled, all(one.hashed for one in believed))


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
