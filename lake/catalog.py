"""The catalogue: one Parquet file of frames for each drive and recipe, and the queries that make datasets of them.

Queries are SQL over the view `frames` (FRAME_SCHEMA), run by DuckDB on local copies of the files, with no way out to files, network
or settings.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lake import stores
from lake.canonical import blake3_hex, canonical_json
from lake.errors import Conflict, NotFound, Refused
from lake.names import check_part
from lake.packs import parquet_bytes
from lake.stores import Store

PREFIX = "catalog/frames/"
BATCH_ROWS = 65_536
FRAME_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("content_id", pa.string()),
        ("size", pa.int64()),
        ("drive", pa.string()),
        ("channel", pa.string()),
        ("timestamp_ns", pa.int64()),
        ("sample_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("recipe", pa.string()),
        ("pack", pa.string()),
        ("offset", pa.int64()),
        ("vehicle", pa.string()),
        ("date", pa.string()),
        ("output", pa.string()),
        ("frame_index", pa.int64()),
        ("is_key", pa.bool_()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("speed_mps", pa.float64()),
    ]
)


@dataclass(frozen=True)
class CutDrive:
    """A drive that was cut by a recipe (the first 16 digits of its id)."""

    date: str
    vehicle: str
    drive: str
    recipe: str


@dataclass(frozen=True)
class Answer:
    """rows: batches in ascending order of path; files: (key, etag) of the catalogue files that were asked; snapshot: their id."""

    schema: Any
    rows: Iterator[pa.Table]
    snapshot: str
    files: tuple[tuple[str, str], ...] = ()


def frames_key(date: str, vehicle: str, drive: str, recipe: str) -> str:
    check_part("the date", date)
    check_part("the vehicle", vehicle)
    check_part("the drive", drive)
    return f"{PREFIX}date={date}/vehicle={vehicle}/{drive}-{recipe[:16]}.parquet"


def write_frames(store: Store, table: pa.Table, date: str, vehicle: str, drive: str, recipe: str) -> str:
    """Write the frames of one drive; the key. The same rows again are fine; raises Conflict for other rows."""
    key = frames_key(date, vehicle, drive, recipe)
    data = parquet_bytes(table.select(FRAME_SCHEMA.names).cast(FRAME_SCHEMA))
    if not stores.put_if_absent(store, key, data):
        there = pq.read_table(pa.BufferReader(stores.get(store, key)))
        if not there.equals(pq.read_table(pa.BufferReader(data))):
            raise Conflict(
                f"the frames of {vehicle}/{drive}",
                f"{key} has other rows for the same recipe",
                "upload the drive under another name",
            )
    return key


def read_frames(store: Store, date: str, vehicle: str, drive: str, recipe: str) -> pa.Table:
    """FRAME_SCHEMA rows of one drive. Raises NotFound."""
    return pq.read_table(pa.BufferReader(stores.get(store, frames_key(date, vehicle, drive, recipe))))


def drives_in(store: Store) -> list[CutDrive]:
    """Everything that the catalogue has, from its keys alone."""
    found = []
    for info in stores.list_objects(store, PREFIX):
        parts = info.key.removeprefix(PREFIX).split("/")
        if len(parts) == 3 and parts[0].startswith("date=") and parts[1].startswith("vehicle="):
            drive, _, recipe = parts[2].removesuffix(".parquet").rpartition("-")
            found.append(CutDrive(parts[0][5:], parts[1][8:], drive, recipe))
    return sorted(found, key=lambda cut: (cut.date, cut.vehicle, cut.drive, cut.recipe))


def snapshot_id(files: Sequence[tuple[str, str]]) -> str:
    """BLAKE3 of the canonical JSON of the (key, etag) pairs."""
    return blake3_hex(canonical_json([list(pair) for pair in files]))


def _asked(store: Store, only: Sequence[tuple[str, str]] | None) -> list[stores.Info]:
    """The catalogue files to ask: all, or exactly those of a snapshot. Raises NotFound for one that is gone or another."""
    infos = sorted(stores.list_objects(store, PREFIX), key=lambda info: info.key)
    if only is None:
        return infos
    there = {(info.key, info.etag or ""): info for info in infos}
    gone = [key for key, etag in only if (key, etag) not in there]
    if gone:
        raise NotFound(
            f"{gone[0]} in store {store.name}",
            f"{len(gone)} of the {len(only)} catalogue files of that snapshot are gone or changed",
            "the query cannot be run again as it was; publish it anew",
        )
    return [there[pair] for pair in only]


def _local_copies(
    store: Store, folder: Path, only: Sequence[tuple[str, str]] | None
) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    """Download what is new; (paths, (key, etag) of each)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, names = [], []
    for info in _asked(store, only):
        name = blake3_hex(f"{store.name} {info.key} {info.etag} {info.size}".encode())[:32]
        local = folder / f"{name}.parquet"
        if not local.exists():
            partial = local.with_suffix(f".{id(info)}.partial")
            partial.write_bytes(stores.get(store, info.key))
            partial.rename(local)
        paths.append(str(local))
        names.append((info.key, info.etag or ""))
    return paths, tuple(names)


def _select(sql: str) -> str:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise Refused("the query", str(error).splitlines()[0], "correct the SQL") from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise Refused("the query", "it is not one SELECT", "give one SELECT over `frames`")
    return str(statements[0].query).strip().rstrip(";")


@contextmanager
def query(
    store: Store, sql: str, scratch: Path, only: Sequence[tuple[str, str]] | None = None
) -> Iterator[Answer]:
    """Run a SELECT over `frames`; rows come as they are read, ordered by path. only: the files of an earlier snapshot.

    Raises NotFound when the catalogue is empty or has lost a file of `only`, Refused for SQL that is wrong, or reaches out.
    """
    select = _select(sql)
    paths, files = _local_copies(store, scratch / "catalog", only)
    if not paths:
        raise NotFound(f"the catalogue of store {store.name}", "it has no frames yet", "ingest a drive first")
    spill = scratch / f"duckdb-{blake3_hex(select.encode())[:12]}"
    connection = duckdb.connect(config={"threads": "2", "temp_directory": str(spill)})
    try:
        quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        connection.execute(
            f"create view frames as select * from read_parquet([{quoted}], union_by_name = true)"  # noqa: S608
        )
        connection.execute(
            f"set allowed_directories = ['{str(scratch / 'catalog').replace(chr(39), chr(39) * 2)}']"
        )
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        reader = connection.sql(f"select * from ({select}) order by path").to_arrow_reader(BATCH_ROWS)  # noqa: S608
        rows = (pa.Table.from_batches([batch]) for batch in reader)
        yield Answer(reader.schema, rows, snapshot_id(files), files)
    except duckdb.Error as error:
        raise Refused(
            "the query", str(error).splitlines()[0], "correct the SQL: it reads only the view `frames`"
        ) from error
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)
