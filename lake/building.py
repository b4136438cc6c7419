"""Rows → the parts of a version, streamed: a part is checked while the four before it are hashed, compressed and written.

Memory is that of six parts (mean 8,192 rows, 1 M at most), whatever the number of rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from lake.before import Before
from lake.errors import Refused
from lake.manifests import PartRef, check_rows, cut_parts, locations_of, part_of, put_locations, put_part
from lake.paths import check_folders
from lake.stores import Store

WRITERS = 4


@dataclass(frozen=True)
class BuiltPart:
    """part: as the root lists it; locations: their id; is_new: its rows were not in the store.

    is_known: the version before has both, so nothing was written.
    """

    part: PartRef
    locations: str
    is_new: bool
    is_known: bool


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


def put_parts(
    store: Store, parts: Iterable[pa.Table], names: Sequence[str], before: Before | None = None
) -> Iterator[tuple[pa.Table, BuiltPart]]:
    """Write parts and their locations, in order; those that the version before has are not. names: the columns of the manifest
    (the others are pack and offset)."""

    def put(part: pa.Table) -> tuple[pa.Table, BuiltPart]:
        rows = part.select(list(names)).combine_chunks()
        reference, locations = part_of(rows), locations_of(part)
        if before is not None and before.has(reference.id, locations):
            return part, BuiltPart(reference, locations, False, True)
        _, is_new = put_part(store, rows, reference)
        put_locations(store, part, locations)
        return part, BuiltPart(reference, locations, is_new, False)

    running: deque[Future[tuple[pa.Table, BuiltPart]]] = deque()
    with ThreadPoolExecutor(WRITERS) as pool:
        for part in parts:
            running.append(pool.submit(put, part))
            if len(running) > WRITERS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
