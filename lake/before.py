"""What the version before has that a publish need not write or look at again: cost follows the change.

The version that `latest` names is available, so its parts, locations and packs are there and were checked, and while a publish holds
its lease nothing is deleted. A part of the same rows at the same places is taken over as it is; of any other part only the rows that
the version before has not in the same place are held against their packs.
"""

from __future__ import annotations

import bisect

import pyarrow as pa
import pyarrow.compute as pc

from lake import refs
from lake.errors import NotFound
from lake.manifests import Root
from lake.stores import Store
from lake.versions import Available, part_rows, read_whole

CHECKED = ("path", "content_id", "size", "pack", "offset")
_NOTHING = pa.schema(
    [(name, pa.int64() if name in ("size", "offset") else pa.string()) for name in CHECKED]
).empty_table()


class Before:
    """The version that `latest` of a dataset names in a store, or none. sizes: of its packs; assembled: those that are no tar."""

    def __init__(self, store: Store, root: Root | None, available: Available | None) -> None:
        self._store, self._root, self._available = store, root, available
        self._read: dict[int, pa.Table] = {}
        self.sizes: dict[str, int] = {}
        self.assembled: frozenset[str] = frozenset()
        self._pairs: frozenset[tuple[str, str]] = frozenset()
        self._firsts: list[str] = []
        if root is not None and available is not None:
            self.sizes = {use.id: use.size for use in available.packs}
            self.assembled = frozenset(available.assembled)
            ids = (part.id for part in root.parts)
            self._pairs = frozenset(zip(ids, available.locations, strict=True))
            self._firsts = [part.first for part in root.parts]

    def has(self, part: str, locations: str) -> bool:
        """Whether the version has this part at these locations."""
        return (part, locations) in self._pairs

    def unknown(self, rows: pa.Table) -> pa.Table:
        """Those of some rows (one part, ascending paths) that the version has not with the same content in the same place."""
        if not pc.any(pc.is_in(rows["pack"], pa.array(sorted(self.sizes), pa.string()))).as_py():
            return rows
        old = self._overlapping(rows["path"][0].as_py(), rows["path"][-1].as_py())
        at = pc.index_in(rows["path"], old["path"].combine_chunks())
        same = pc.is_valid(at)
        for name in CHECKED[1:]:
            same = pc.and_(same, pc.fill_null(pc.equal(pc.take(old[name], at), rows[name]), False))
        return rows.filter(pc.invert(same))

    def _overlapping(self, first: str, last: str) -> pa.Table:
        """Rows of the parts that reach into [first, last]; parts before it are forgotten, for nobody asks for them again."""
        if self._root is None or self._available is None:
            return _NOTHING
        start = max(bisect.bisect_right(self._firsts, first) - 1, 0)
        end = bisect.bisect_right(self._firsts, last)
        for place in [place for place in self._read if place < start]:
            del self._read[place]
        for place in range(start, end):
            if self._root.parts[place].last >= first and place not in self._read:
                table = part_rows(self._store, self._root, self._available, place)
                self._read[place] = table.select(CHECKED)
        return pa.concat_tables([_NOTHING, *(self._read[place] for place in sorted(self._read))])


def version_before(store: Store, dataset: str) -> Before:
    """What `latest` of the dataset names. Nothing is known where there is no such tag, or the version is not wholly there."""
    ref = refs.read_ref(store, dataset, refs.LATEST)
    if ref is None:
        return Before(store, None, None)
    try:
        return Before(store, *read_whole(store, ref.version))
    except NotFound:
        return Before(store, None, None)
