"""What a version uses of each pack, found while its rows pass by, and checked against what each pack says of itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lake import stores
from lake.assemblies import assembly_size, read_assembly
from lake.before import Before
from lake.errors import Corrupt, NotFound
from lake.packs import pack_key, read_members
from lake.stores import Store
from lake.versions import PackUse

KEPT = 64  # member lists in memory: the packs of neighbouring parts are mostly the same


@dataclass(frozen=True)
class _Listed:
    """size of the pack; members: offset, size, content_id; assembled: its bytes are objects elsewhere."""

    size: int
    members: pa.Table
    assembled: bool


class PackCheck:
    """Collects what a version uses of each pack; a row whose bytes are not where it says is refused.

    before: the version before, whose rows were checked when it was published.
    """

    def __init__(self, store: Store, before: Before | None = None) -> None:
        self._store, self._before = store, before
        self._sizes: dict[str, int] = dict(before.sizes) if before is not None else {}
        self._lists: OrderedDict[str, _Listed] = OrderedDict()
        self._uses: dict[str, tuple[int, int, int]] = {}
        self._assembled: set[str] = set(before.assembled) if before is not None else set()

    def _listed(self, pack: str) -> _Listed:
        if pack in self._lists:
            self._lists.move_to_end(pack)
            return self._lists[pack]
        info = stores.head(self._store, pack_key(pack))
        if info is not None:
            found = _Listed(info.size, read_members(self._store, pack, info.size), False)
        else:
            try:
                table = read_assembly(self._store, pack)
            except NotFound as error:
                raise NotFound(
                    pack_key(pack), f"it is not in store {self._store.name}", "ingest the drive again"
                ) from error
            found = _Listed(assembly_size(table), table, True)
            self._assembled.add(pack)
        self._lists[pack] = found
        if len(self._lists) > KEPT:
            self._lists.popitem(last=False)
        return found

    def add(self, part: pa.Table, is_known: bool = False) -> None:
        """is_known: the version before has exactly these rows. Raises NotFound, Corrupt when a row's bytes are not where it says."""
        if not is_known:
            self._check(part if self._before is None else self._before.unknown(part))
        for pack, mine in by_pack(part):
            _, files, size = self._uses.get(pack, (0, 0, 0))
            total = size + int(pc.sum(mine["size"]).as_py())
            self._uses[pack] = (self._sizes[pack], files + mine.num_rows, total)

    def _check(self, rows: pa.Table) -> None:
        """Packs stay in no memory."""
        for pack, mine in by_pack(rows):
            listed = self._listed(pack)
            self._sizes[pack] = listed.size
            at = pc.index_in(mine["offset"], listed.members["offset"].combine_chunks())
            same = pc.and_(
                pc.equal(pc.take(listed.members["size"], at), mine["size"]),
                pc.equal(pc.take(listed.members["content_id"], at), mine["content_id"]),
            )
            if not pc.all(pc.fill_null(same, False)).as_py():
                path = pc.filter(mine["path"], pc.invert(pc.fill_null(same, False)))[0].as_py()
                raise Corrupt(
                    f"{path} in {pack_key(pack)}", "the pack does not list it so", "ingest the drive again"
                )

    def uses(self) -> tuple[PackUse, ...]:
        return tuple(PackUse(pack, *self._uses[pack]) for pack in sorted(self._uses))

    def assembled(self) -> tuple[str, ...]:
        return tuple(sorted(self._assembled & set(self._uses)))


def by_pack(table: pa.Table) -> Iterator[tuple[str, Any]]:
    """(pack, its rows: path, size, content_id, offset) one after the other, by one sort of the table."""
    if not table.num_rows:
        return
    encoded = pc.dictionary_encode(table["pack"].combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    ends = [*(np.flatnonzero(np.diff(codes[order])) + 1).tolist(), len(order)]
    chosen = table.select(["path", "size", "content_id", "offset"])
    start = 0
    for end in ends:
        yield encoded.dictionary[int(codes[order[start]])].as_py(), chosen.take(pa.array(order[start:end]))
        start = end
