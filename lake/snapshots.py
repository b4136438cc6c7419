"""Snapshots of the catalogue: which files a query was asked of, so that it can be asked again of the same.

    catalog/snapshots/<snapshot id>.parquet     key, etag of each catalogue file; the id is that of lake.catalog.snapshot_id

Of a drive that has several recipes there is a row more: key `catalog/current/<vehicle>/<drive>`, etag the recipes with commas between,
the current one first. So the query sees the same recipe again, whatever became current since.

A snapshot copies nothing: catalogue files never change, and one that was deleted is told by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from lake import stores
from lake.canonical import is_hash
from lake.catalog import snapshot_id
from lake.errors import Corrupt, NotFound, Refused
from lake.packs import parquet_bytes
from lake.stores import Store

Files = Sequence[tuple[str, str]]


def snapshot_key(snapshot: str) -> str:
    if not is_hash(snapshot):
        raise Refused(f"the catalogue snapshot {snapshot[:80]!r}", "its id is not 64 hex digits")
    return f"catalog/snapshots/{snapshot}.parquet"


def keep_snapshot(store: Store, files: Files) -> str:
    """Write down (key, etag) of the catalogue files; the snapshot's id. Harmless to repeat."""
    snapshot = snapshot_id(files)
    table = pa.table(
        [pa.array([pair[place] for pair in files], pa.string()) for place in (0, 1)], names=["key", "etag"]
    )
    stores.put_if_absent(store, snapshot_key(snapshot), parquet_bytes(table))
    return snapshot


def read_snapshot(store: Store, snapshot: str) -> Files:
    """Raises NotFound, Corrupt when it has not the hash of its name."""
    key = snapshot_key(snapshot)
    try:
        table = pq.read_table(pa.BufferReader(stores.get(store, key)))
        files = list(zip(table["key"].to_pylist(), table["etag"].to_pylist(), strict=True))
    except NotFound as error:
        raise NotFound(
            f"the catalogue snapshot {snapshot[:12]}",
            f"store {store.name} of {store.idc} has not kept it",
            "run the query in the IDC that published the version",
        ) from error
    except (pa.ArrowException, KeyError) as error:
        raise Corrupt(f"{key} in store {store.name}", f"it is no snapshot: {error}") from error
    if snapshot_id(files) != snapshot:
        raise Corrupt(f"{key} in store {store.name}", "it does not have the hash of its name")
    return files
