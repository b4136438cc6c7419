"""Compare: what two versions do not share, streamed from the parts that only one of them has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lake import manifests
from lake.errors import Corrupt
from lake.stores import Store

_NO_ROWS = pa.schema(list(manifests.KEY_COLUMNS)).empty_table()


@dataclass(frozen=True)
class Difference:
    """path, content_id and size of rows that only one side has; `changed`: paths with other bytes (new side's rows)."""

    added: pa.Table
    removed: pa.Table
    changed: pa.Table


def diff(store: Store, old: str, new: str) -> Difference:
    """All rows that differ between two versions, in memory; `differences` streams them."""
    steps = [Difference(_NO_ROWS, _NO_ROWS, _NO_ROWS), *differences(store, old, new)]
    return Difference(
        pa.concat_tables(step.added for step in steps),
        pa.concat_tables(step.removed for step in steps),
        pa.concat_tables(step.changed for step in steps),
    )


def differences(store: Store, old: str, new: str) -> Iterator[Difference]:
    """Rows that differ between two versions, in ascending steps; parts that both share are not opened.

    Memory: a part of each side, and what of it reaches past the other's end.
    """
    before, after = manifests.read_root(store, old), manifests.read_root(store, new)
    shared = {part.id for part in before.parts} & {part.id for part in after.parts}
    waiting = [[part for part in root.parts if part.id not in shared] for root in (before, after)]
    held = [_NO_ROWS, _NO_ROWS]
    while any(waiting) or any(side.num_rows for side in held):
        for side in (0, 1):
            if not held[side].num_rows and waiting[side]:
                held[side] = _key_rows(store, waiting[side].pop(0))
        # all rows up to here are known on both sides: a side that has ended does not hold the other back
        ends = [side["path"][-1].as_py() for side in held if side.num_rows]
        known = [pc.less_equal(side["path"], min(ends)) for side in held]
        ready = [side.filter(upto) for side, upto in zip(held, known, strict=True)]
        held = [side.filter(pc.invert(upto)) for side, upto in zip(held, known, strict=True)]
        step = _compared(*ready)
        if step.added.num_rows or step.removed.num_rows or step.changed.num_rows:
            yield step


def _compared(left: pa.Table, right: pa.Table) -> Difference:
    old_paths, new_paths = left["path"].combine_chunks(), right["path"].combine_chunks()
    removed = left.filter(pc.invert(pc.is_in(left["path"], new_paths)))
    at = pc.index_in(right["path"], old_paths)
    is_old = pc.is_valid(at)
    both = right.filter(is_old)
    was = pc.take(left["content_id"], pc.drop_null(at))
    return Difference(
        right.filter(pc.invert(is_old)), removed, both.filter(pc.not_equal(both["content_id"], was))
    )


def _key_rows(store: Store, part: manifests.PartRef) -> pa.Table:
    table = manifests.read_part(store, part.id)
    if table.num_rows != part.rows:
        raise Corrupt(manifests.part_key(part.id), f"it has {table.num_rows} rows, the root says {part.rows}")
    return table.select(_NO_ROWS.schema.names)
