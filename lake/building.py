"""Rows → the parts of a version, streamed: a part is checked while the four before it are hashed, compressed and written.

Memory is that of six parts (mean 8,192 rows, 1 M at most), whatever the number of rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from lake.errors import Refused
from lake.manifests import PartRef, check_rows, cut_parts, put_locations, put_part
from lake.paths import check_folders
from lake.stores import Store

WRITERS = 4
BATCH_ROWS = 65_536
SORT_MEMORY = "512MB"


@dataclass(frozen=True)
class BuiltPart:
    """part: as the root lists it; locations: their id; is_new: its rows were not in the store."""

    part: PartRef
    locations: str
    is_new: bool


def checked_parts(batches: Iterable[pa.Table], what: str) -> Iterator[pa.Table]:
    """Sorted rows in any batches → parts whose rows are all legal, also across parts. Raises Refused, naming the row."""
    above, last = set[str](), ""
    for cut in cut_parts(batches):
        part = cut.combine_chunks()
        check_rows(
            part.drop_columns([name for name in ("pack", "offset") if name in part.schema.names]), what
        )
        first = part["path"][0].as_py()
        if first <= last:
            raise Refused(
                f"{what}: the path {first!r}", "it stands twice, or the rows are not sorted by path"
            )
        above = check_folders(part["path"], above, what)
        last = part["path"][-1].as_py()
        yield part


def put_parts(store: Store, parts: Iterable[pa.Table], names: Sequence[str]) -> Iterator[BuiltPart]:
    """Write parts and their locations, in order. names: the columns of the manifest (the others are pack and offset)."""

    def put(part: pa.Table) -> BuiltPart:
        reference, is_new = put_part(store, part.select(list(names)))
        return BuiltPart(reference, put_locations(store, part), is_new)

    running: deque[Future[BuiltPart]] = deque()
    with ThreadPoolExecutor(WRITERS) as pool:
        for part in parts:
            running.append(pool.submit(put, part))
            if len(running) > WRITERS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def in_order(batches: Iterable[pa.Table], schema: Any, scratch: Path) -> Iterator[pa.Table]:
    """Rows in any order → the same rows by ascending path (bytes), sorted on disk when they are many.

    Raises Refused when the rows cannot be sorted (no column `path`, no room in scratch).
    """
    scratch.mkdir(parents=True, exist_ok=True)
    reader = pa.RecordBatchReader.from_batches(
        schema, (piece for batch in batches for piece in batch.cast(schema).to_batches())
    )
    connection = duckdb.connect(
        config={"threads": "2", "temp_directory": str(scratch / "sort"), "memory_limit": SORT_MEMORY}
    )
    try:
        connection.register("rows_in", reader)
        ordered = connection.sql("select * from rows_in order by path").to_arrow_reader(BATCH_ROWS)
        for batch in ordered:
            yield pa.Table.from_batches([batch]).cast(schema)
    except duckdb.Error as error:
        raise Refused("the rows to sort", str(error).splitlines()[0]) from error
    finally:
        connection.close()
