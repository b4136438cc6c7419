"""What an import saw: so that importing a prefix again reads only the objects that are new or changed.

    imports/<dataset>.parquet       path, store, key, size, etag of every object of the last import; its metadata names the version

One object a dataset, written over: it is a memory, not a truth. It counts only while `latest` is the version that it speaks of, and
an object only while store, key, size and etag are what they were.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lake import stores, versions
from lake.errors import NotFound
from lake.imports import FILE_SCHEMA, ITEMS, LOCAL
from lake.names import check_dataset
from lake.refs import LATEST, read_ref
from lake.stores import Store

VERSION = b"outlap.version"


def ledger_key(dataset: str) -> str:
    return f"imports/{check_dataset(dataset)}.parquet"


def keep_ledger(store: Store, dataset: str, version: str, items: pa.Table) -> None:
    """Remember the objects of a version that was imported; local files change without a trace and are not remembered."""
    if pc.any(pc.equal(items["store"], LOCAL)).as_py():
        return
    table = items.select(ITEMS.names).cast(ITEMS).replace_schema_metadata({VERSION: version.encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    stores.put(store, ledger_key(dataset), sink.getvalue())


def unchanged(store: Store, dataset: str, items: pa.Table) -> tuple[str, pa.ChunkedArray] | None:
    """(the version of `latest`, for each item whether that version has it as it is now); None when nothing is known."""
    latest = read_ref(store, dataset, LATEST)
    if latest is None or not versions.is_available(store, latest.version):
        return None
    if versions.read_available(store, latest.version).assembled:
        return None
    try:
        table = pq.read_table(pa.BufferReader(stores.get(store, ledger_key(dataset))))
    except (NotFound, pa.ArrowException):
        return None  # a memory that is lost or broken costs reading, nothing else
    if (table.schema.metadata or {}).get(
        VERSION
    ) != latest.version.encode() or table.schema.names != ITEMS.names:
        return None
    at = pc.index_in(items["path"], table["path"].combine_chunks())
    same = pc.is_valid(at)
    for name in ("store", "key", "size", "etag"):
        same = pc.and_(same, pc.fill_null(pc.equal(items[name], pc.take(table[name], at)), False))
    same = pc.and_(same, pc.not_equal(items["etag"], ""))
    return latest.version, same


def merged(store: Store, version: str, kept: pa.Table, made: pa.Table) -> Iterator[pa.Table]:
    """FILE_SCHEMA rows by path: those of `version` whose paths are in kept, and the rows that were made now."""
    wanted = kept["path"].combine_chunks()
    start = 0
    made = made.sort_by("path")
    for part in versions.rows(store, version):
        mine = part.filter(pc.is_in(part["path"], wanted)).select(FILE_SCHEMA.names)
        last = part["path"][-1].as_py()
        count = pc.sum(pc.less_equal(made["path"], last)).as_py() or 0
        yield pa.concat_tables([mine, made.slice(start, count - start)]).sort_by("path")
        start = count
    yield made.slice(start)
