"""Files that the version before has already, at the same path with the same bytes: an import takes over where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lake import refs, stores, versions
from lake.errors import NotFound
from lake.packs import pack_key
from lake.stores import Store

COLUMNS = ("path", "content_id", "size", "pack", "offset")


class Place(NamedTuple):
    """A file of the version before, and where its bytes lie."""

    path: str
    content_id: str
    size: int
    pack: str
    offset: int


class Placed:
    """The files of the version that `latest` of a dataset names, asked for in ascending order of paths; memory: a part of it.

    A version that is not (wholly) in the store, or was published in place, has none. A pack is asked for before it is relied on:
    one that is gone, or has another size, is made anew.
    """

    def __init__(self, store: Store, dataset: str) -> None:
        """Begin at the first path.

        Args:
            store: the store of the dataset.
            dataset: name of the dataset.
        """
        self._store = store
        self._sizes: dict[str, int] = {}
        self._is_there: dict[str, bool] = {}
        self._rows: Iterator[Place] = iter(())
        self._now: Place | None = None
        ref = refs.read_ref(store, dataset, refs.LATEST)
        try:
            there = versions.read_available(store, ref.version) if ref is not None else None
        except NotFound:
            there = None
        if there is not None and not there.assembled:
            self._sizes = {use.id: use.size for use in there.packs}
            self._rows = self._read(there.version)
            self._now = next(self._rows, None)

    def _read(self, version: str) -> Iterator[Place]:
        for part in versions.rows(self._store, version):
            columns = (part[name].to_pylist() for name in COLUMNS)
            yield from map(Place._make, zip(*columns, strict=True))

    def find(self, path: str, size: int) -> Place | None:
        """The file of this path, if the version before has one of this size there and its pack is in the store."""
        while self._now is not None and self._now.path < path:
            self._now = next(self._rows, None)
        found = self._now
        if found is None or (found.path, found.size) != (path, size):
            return None
        if found.pack not in self._is_there:
            info = stores.head(self._store, pack_key(found.pack))
            self._is_there[found.pack] = info is not None and info.size == self._sizes.get(found.pack)
        return found if self._is_there[found.pack] else None
