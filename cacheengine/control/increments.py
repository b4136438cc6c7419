"""What a node lacks of a version when it holds others whole: an estimate that costs what changed, not what exists.

Parts of the manifest that two versions share (with the same locations) name the same bytes, and are not opened. Of the others the rows
are compared by pack and offset. Where those are too many, packs are compared by how much of each is used: then versions that use
other members of the same packs count as held.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from cacheengine.control.totals import Totals
from lake.errors import LakeError
from lake.manifests import Root
from lake.stores import Store
from lake.versions import Available, part_rows, read_whole

MOST_ROWS = 2_000_000
MOST_VERSIONS = 8
_PLACE = ("pack", "offset")


class _Read(NamedTuple):
    root: Root
    available: Available

    def parts(self) -> list[tuple[str, str]]:
        """(part, its locations), in order."""
        return list(zip((part.id for part in self.root.parts), self.available.locations, strict=True))


def _others(store: Store, held: Iterable[str]) -> list[_Read]:
    """Held versions that can be read; one that no store has any more tells nothing."""
    found = []
    for version in list(held)[:MOST_VERSIONS]:
        try:
            found.append(_Read(*read_whole(store, version)))
        except LakeError:
            continue
    return found


def missing(store: Store, version: str, paths: Collection[str] | None, held: Sequence[str]) -> Totals:
    """Files and bytes of a version (or of these paths of it) that are in none of the versions that are held whole.

    An upper bound but for what the module says. Raises NotFound, Corrupt, StoreDown for the version itself.
    """
    wanted, others = _Read(*read_whole(store, version)), _others(store, held)
    known = {part for other in others for part in other.parts()}
    places = [place for place, part in enumerate(wanted.parts()) if part not in known]
    changed = {part for place, part in enumerate(wanted.parts()) if place in set(places)}
    rows = sum(wanted.root.parts[place].rows for place in places)
    shared = set(wanted.parts()) - changed
    beside = [
        (other, [place for place, part in enumerate(other.parts()) if part not in shared]) for other in others
    ]
    rows += sum(other.root.parts[place].rows for other, several in beside for place in several)
    if rows > MOST_ROWS:
        return _by_packs(wanted, others)
    lacking = _rows(store, wanted, places, paths)
    there = [_rows(store, other, several, None) for other, several in beside]
    if there and lacking.num_rows:
        lacking = lacking.join(pa.concat_tables(there).select(_PLACE), list(_PLACE), join_type="left anti")
    return Totals(lacking.num_rows, pc.sum(lacking["size"]).as_py() or 0)


def _rows(store: Store, read: _Read, places: Iterable[int], paths: Collection[str] | None) -> pa.Table:
    schema = pa.schema([("size", pa.int64()), ("pack", pa.string()), ("offset", pa.int64())])
    tables = [schema.empty_table()]
    chosen = None if paths is None else pa.array(sorted(set(paths)), pa.string())
    for place in places:
        table = part_rows(store, read.root, read.available, place)
        if chosen is not None:
            table = table.filter(pc.is_in(table["path"], value_set=chosen))
        tables.append(table.select(schema.names).cast(schema))
    return pa.concat_tables(tables)


def _by_packs(wanted: _Read, others: Iterable[_Read]) -> Totals:
    most: dict[str, tuple[int, int]] = {}
    for other in others:
        for use in other.available.packs:
            files, size = most.get(use.id, (0, 0))
            most[use.id] = (max(files, use.files), max(size, use.bytes))
    files = size = 0
    for use in wanted.available.packs:
        there = most.get(use.id, (0, 0))
        files, size = files + max(0, use.files - there[0]), size + max(0, use.bytes - there[1])
    return Totals(files, size)
