"""Which versions hold a drive: one small summary beside each version, so that nothing else is read to answer.

    drives/<version id>.parquet     vehicle (null where the rows do not say), drive, files, bytes, recipes (ids with commas between)

It is written with the version. One that is missing (a version that was synced, or is older) is made from its parts when it is asked
for, and so is one of release 0.1.0 whose recipes are asked for. Measured against an object for each (drive, part), which an answer
would list: that costs three times the PUTs of every publish and saves one small GET for each version of a question that is asked a few
times a year.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lake import manifests, stores
from lake.canonical import is_hash
from lake.errors import NotFound, Refused
from lake.packs import parquet_bytes
from lake.stores import Store

SCHEMA = pa.schema(
    [("vehicle", pa.string()), ("drive", pa.string()), ("files", pa.int64()), ("bytes", pa.int64())]
)
RECIPES = "recipes"
KEPT = SCHEMA.append(pa.field(RECIPES, pa.string()))
TALLY = SCHEMA.append(pa.field("recipe", pa.string()))
PARALLEL = 8


@dataclass(frozen=True)
class Holding:
    """What a version has of a drive. vehicle: None where the rows do not say."""

    version: str
    vehicle: str | None
    drive: str
    files: int
    bytes: int


def holdings_key(version: str) -> str:
    if not is_hash(version):
        raise Refused(f"the version {version[:80]!r}", "its id is not 64 hex digits")
    return f"drives/{version}.parquet"


def tally(rows: pa.Table) -> pa.Table:
    """TALLY of some rows of a version; rows without a drive are left out."""
    names = rows.schema.names
    if "drive" not in names:
        return TALLY.empty_table()
    vehicle, recipe = (
        rows[name]
        if name in names and pa.types.is_string(rows.schema.field(name).type)
        else pa.nulls(rows.num_rows, pa.string())
        for name in ("vehicle", "recipe")
    )
    ones = pa.repeat(pa.scalar(1, pa.int64()), rows.num_rows)
    table = pa.table([vehicle, rows["drive"], ones, rows["size"], recipe], schema=TALLY)
    return _summed([table.filter(pc.is_valid(table["drive"]))], ("vehicle", "drive", "recipe"))


def _summed(tables: Iterable[pa.Table], keys: tuple[str, ...]) -> pa.Table:
    """TALLY with one row for each value of the keys."""
    table = pa.concat_tables([TALLY.empty_table(), *tables])
    summed = table.group_by(list(keys)).aggregate([("files", "sum"), ("bytes", "sum")])
    summed = summed.rename_columns({"files_sum": "files", "bytes_sum": "bytes"})
    return summed.select([name for name in TALLY.names if name in summed.schema.names])


def _summary(tables: Sequence[pa.Table]) -> pa.Table:
    """KEPT of a version from the tallies of all its rows."""
    recipes: dict[tuple[str | None, str], set[str]] = {}
    for row in _summed(tables, ("vehicle", "drive", "recipe")).to_pylist():
        recipes.setdefault((row["vehicle"], row["drive"]), set()).update({row["recipe"]} - {None})
    summed = _summed(tables, ("vehicle", "drive")).select(SCHEMA.names).cast(SCHEMA)
    summed = summed.sort_by([("vehicle", "ascending"), ("drive", "ascending")])
    pairs = zip(summed["vehicle"].to_pylist(), summed["drive"].to_pylist(), strict=True)
    return summed.append_column(
        RECIPES, pa.array([",".join(sorted(recipes[pair])) for pair in pairs], pa.string())
    )


def write_holdings(store: Store, version: str, tallies: Sequence[pa.Table]) -> None:
    """Write the summary of a version from the tallies of all its rows. Harmless to repeat."""
    stores.put_if_absent(store, holdings_key(version), parquet_bytes(_summary(tallies)))


def read_holdings(store: Store, version: str, *, recipes: bool = False) -> pa.Table:
    """The summary of a version.

    It is made from the version's parts where it is missing or damaged, or lacks recipes that are asked for, and then kept where the
    store may be written.

    Args:
        store: The lake.
        version: Its id.
        recipes: Whether the column `recipes` is needed.

    Returns:
        SCHEMA, or KEPT with recipes.

    Raises:
        NotFound: There is no such version.
        Corrupt: It is made anew, and a part is damaged.
    """
    key, wanted = holdings_key(version), KEPT if recipes else SCHEMA
    try:
        table = pq.read_table(pa.BufferReader(stores.get(store, key)))
        if not recipes or RECIPES in table.schema.names:
            return table.select(wanted.names).cast(wanted)
    except (NotFound, pa.ArrowException, KeyError, OSError):
        pass  # lost or damaged: it says nothing that the parts do not say
    parts = manifests.read_parts(store, manifests.read_root(store, version))
    made = _summary([tally(part) for part in parts])
    if not store.read_only:
        stores.put(store, key, parquet_bytes(made))
    return made.select(wanted.names)


def versions_in(store: Store) -> list[str]:
    """Ids of all versions that are available in a store, sorted."""
    keys = (
        info.key.removeprefix("available/").removesuffix(".json")
        for info in stores.list_objects(store, "available/")
    )
    return sorted(key for key in keys if is_hash(key))


def held_by(store: Store, drive: str, vehicle: str | None = None) -> list[Holding]:
    """What each version of a store has of a drive. Rows that do not name their vehicle may be of any."""

    def one(version: str) -> list[Holding]:
        table = read_holdings(store, version)
        mine = pc.equal(table["drive"], drive)
        if vehicle is not None:
            mine = pc.and_(mine, pc.fill_null(pc.equal(table["vehicle"], vehicle), True))
        return [Holding(version, **row) for row in table.filter(mine).to_pylist()]

    with ThreadPoolExecutor(PARALLEL) as pool:
        return [holding for found in pool.map(one, versions_in(store)) for holding in found]
