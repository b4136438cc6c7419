"""The catalogue: one Parquet file of frames for each drive and recipe, and the queries that make datasets of them.

Queries are SQL over two views, run by DuckDB on local copies of the files, with no way out to files, network or settings:
`frames` has the current recipe of each drive and output (lake/recipe_order.py), `frames_all` has every recipe.

A file has the columns of FRAME_SCHEMA and may have further ones (tags): the view shows the columns of all files that are asked, null
where a file has none of that name. `catalog/columns/<name>.json` keeps the type that the first file gave a further column.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lake import leases, pruning, recipe_order, stores
from lake.canonical import blake3_hex, canonical_json, read_json
from lake.catalogcache import MEND, cache_folder, local_copies
from lake.errors import Conflict, Corrupt, NotFound, Refused
from lake.names import check_part
from lake.packs import pack_key, parquet_bytes
from lake.stores import Store

PREFIX = "catalog/frames/"
COLUMNS_PREFIX = "catalog/columns/"
FRAMES, ALL_FRAMES = "frames", "frames_all"  # the views: current recipes, and all
COLUMN = re.compile(r"[a-z][a-z0-9_]{0,62}")
COLUMN_TYPES = ("string", "bool", "int64", "double")
BATCH_ROWS = 65_536
QUERY_MEMORY = "384MB"  # what is more, a sort of many rows, goes to the disk
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
    """rows: batches in ascending order of path; files: (key, etag) of the catalogue files that were asked, and (key, recipes) of drives
    of which several recipes were (`order_pairs`); snapshot: the id of all that."""

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
    """Write the frames of one drive; the key. The same rows again are fine.

    table: FRAME_SCHEMA and any further columns of the types of tags. Raises Refused for rows of another date, vehicle or drive
    and for other types, NotFound for a pack that is not there, Conflict for other rows under the same names, or for a column that
    has another type in the catalogue.
    """
    key = frames_key(date, vehicle, drive, recipe)
    for name, value in (("date", date), ("vehicle", vehicle), ("drive", drive)):
        if table[name].null_count or not pc.all(pc.equal(table[name], value)).as_py():
            raise Refused(f"the frames of {vehicle}/{drive}", f"not all of them have {name} {value!r}")
    data = parquet_bytes(_typed(store, table))
    with leases.writing(store, f"the frames of {vehicle}/{drive}") as lease:
        _check_packs(store, table, f"the frames of {vehicle}/{drive}")
        _write_once(store, key, data, f"the frames of {vehicle}/{drive}")
        recipe_order.mark_cut(
            store,
            vehicle=vehicle,
            drive=drive,
            recipe=recipe[: recipe_order.DIGITS],
            received=_received(store, date, vehicle, drive),
            outputs=frozenset(pc.unique(table["output"]).to_pylist()),
        )
        while lease.was_broken():  # packs may have been deleted after they were found
            lease.take_again()
            _check_packs(store, table, f"the frames of {vehicle}/{drive}")
    return key


def _received(store: Store, date: str, vehicle: str, drive: str) -> dict[str, int]:
    """The recipes of a drive, and when the store received their files (ns): one listing of a vehicle's day."""
    found = {}
    for info in stores.list_objects(store, f"{PREFIX}date={date}/vehicle={vehicle}/"):
        cut = cut_of(info.key)
        if cut is not None and cut.drive == drive:
            found[cut.recipe] = info.modified_ns
    return found


def _check_packs(store: Store, table: pa.Table, what: str) -> None:
    """One that was there before the lease may have been garbage, and gone by now."""
    for pack in pc.unique(table["pack"]).to_pylist():
        if not stores.exists(store, pack_key(pack)):
            raise NotFound(
                f"{pack_key(pack)} of {what}", f"it is not in store {store.name}", "ingest the drive again"
            )


def _write_once(store: Store, key: str, data: bytes, what: str) -> None:
    if not stores.put_if_absent(store, key, data):
        there = _parquet(store, key, stores.get(store, key))
        if not there.equals(pq.read_table(pa.BufferReader(data))):
            raise Conflict(
                what, f"{key} has other rows for the same recipe", "upload the drive under another name"
            )


def _typed(store: Store, table: pa.Table) -> pa.Table:
    """The columns of the catalogue and then the further ones by name. The first file with a column fixes its type."""
    further = sorted(set(table.schema.names) - set(FRAME_SCHEMA.names))
    for name in further:
        kind = str(table.schema.field(name).type)
        if COLUMN.fullmatch(name) is None or kind not in COLUMN_TYPES:
            raise Refused(
                f"the column {name[:80]!r} of type {kind}",
                f"a further column has a name of small letters, digits and _, and is one of {', '.join(COLUMN_TYPES)}",
                "rename or cast it",
            )
        key = f"{COLUMNS_PREFIX}{name}.json"
        if not stores.put_if_absent(store, key, canonical_json({"type": kind})):
            known = read_json(stores.get(store, key), key).get("type")
            if known != kind:
                raise Conflict(
                    f"the column {name!r}",
                    f"it is {known} in the catalogue, here {kind}",
                    "cast it, or rename it",
                )
    kinds = [*FRAME_SCHEMA, *(table.schema.field(name) for name in further)]
    return table.select([field.name for field in kinds]).cast(pa.schema(kinds))


def read_frames(store: Store, date: str, vehicle: str, drive: str, recipe: str) -> pa.Table:
    """FRAME_SCHEMA rows of one drive. Raises NotFound, Corrupt."""
    key = frames_key(date, vehicle, drive, recipe)
    return _parquet(store, key, stores.get(store, key))


def _parquet(store: Store, key: str, data: bytes) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(f"{key} in store {store.name}", f"it is not Parquet: {error}", MEND) from error


def drives_in(store: Store) -> list[CutDrive]:
    """Everything that the catalogue has, from its keys alone."""
    found = [cut_of(info.key) for info in stores.list_objects(store, PREFIX)]
    return sorted(
        (cut for cut in found if cut is not None),
        key=lambda cut: (cut.date, cut.vehicle, cut.drive, cut.recipe),
    )


def cut_of(key: str) -> CutDrive | None:
    """What the key of a catalogue file says; None for a key that is none."""
    parts = key.removeprefix(PREFIX).split("/")
    if len(parts) != 3 or not parts[0].startswith("date=") or not parts[1].startswith("vehicle="):
        return None
    drive, _, recipe = parts[2].removesuffix(".parquet").rpartition("-")
    return CutDrive(parts[0][5:], parts[1][8:], drive, recipe)


def snapshot_id(files: Sequence[tuple[str, str]]) -> str:
    """BLAKE3 of the canonical JSON of the (key, etag) pairs."""
    return blake3_hex(canonical_json([list(pair) for pair in files]))


def _asked(store: Store, only: Sequence[tuple[str, str]] | None) -> list[stores.Info]:
    """The catalogue files to ask: all, or exactly those of a snapshot. Raises NotFound for one that is gone or another."""
    infos = sorted(stores.list_objects(store, PREFIX), key=lambda info: info.key)
    if only is None:
        return infos
    files = [pair for pair in only if not pair[0].startswith(recipe_order.PREFIX)]
    there = {(info.key, info.etag or ""): info for info in infos}
    gone = [key for key, etag in files if (key, etag) not in there]
    if gone:
        raise NotFound(
            f"{gone[0]} in store {store.name}",
            f"{len(gone)} of the {len(files)} catalogue files of that snapshot are gone or changed",
            "the query cannot be run again as it was; publish it anew",
        )
    return [there[pair] for pair in files]


def _by_drive(infos: Sequence[stores.Info]) -> dict[recipe_order.DriveKey, dict[str, stores.Info]]:
    """(vehicle, drive) → recipe → file, of drives that have several recipes."""
    found: dict[recipe_order.DriveKey, dict[str, stores.Info]] = {}
    for info in infos:
        cut = cut_of(info.key)
        if cut is not None:
            found.setdefault((cut.vehicle, cut.drive), {})[cut.recipe] = info
    return {drive: files for drive, files in found.items() if len(files) > 1}


@dataclass(frozen=True)
class Orders:
    """Of drives with several recipes. first: (vehicle, drive) → recipes, the current one first; outputs: what is known of each file."""

    first: Mapping[recipe_order.DriveKey, tuple[str, ...]]
    outputs: Mapping[str, frozenset[str]]


def orders_of(store: Store, infos: Sequence[stores.Info]) -> Orders:
    """The recipes of each drive of these files that has several, as they are now. One listing, where there is such a drive."""
    several = _by_drive(infos)
    marks = recipe_order.read_marks(store) if several else {}
    first: dict[recipe_order.DriveKey, tuple[str, ...]] = {}
    outputs: dict[str, frozenset[str]] = {}
    for drive, files in several.items():
        mine = marks.get(drive, [])
        first[drive] = recipe_order.order({r: info.modified_ns for r, info in files.items()}, mine)
        known = recipe_order.outputs_by_recipe(mine)
        outputs |= {files[recipe].key: made for recipe, made in known.items() if recipe in files}
    return Orders(first, outputs)


def order_pairs(orders: Orders, infos: Sequence[stores.Info]) -> list[tuple[str, str]]:
    """What a snapshot keeps of the order of recipes: (`catalog/current/<vehicle>/<drive>`, recipes with commas between), for each drive
    of which several of these files are."""
    return [
        (f"{recipe_order.PREFIX}{drive[0]}/{drive[1]}", ",".join(orders.first[drive]))
        for drive in sorted(_by_drive(infos))
        if drive in orders.first
    ]


def _orders_then(only: Sequence[tuple[str, str]]) -> Orders:
    """The order of recipes that a snapshot kept. One of a release that kept none hides nothing: its queries saw all recipes."""
    kept = [
        (key.removeprefix(recipe_order.PREFIX).split("/"), recipes)
        for key, recipes in only
        if key.startswith(recipe_order.PREFIX)
    ]
    return Orders(
        {(parts[0], parts[1]): tuple(recipes.split(",")) for parts, recipes in kept if len(parts) == 2}, {}
    )


def files_now(store: Store) -> list[tuple[str, str]]:
    """All of the catalogue as a snapshot keeps it (lake/snapshots.py): files, and the order of recipes."""
    infos = sorted(stores.list_objects(store, PREFIX), key=lambda info: info.key)
    return [*((info.key, info.etag or "") for info in infos), *order_pairs(orders_of(store, infos), infos)]


def _select(sql: str) -> str:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise Refused("the query", str(error).splitlines()[0], "correct the SQL") from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise Refused("the query", "it is not one SELECT", "give one SELECT over `frames`")
    return str(statements[0].query).strip().rstrip(";")


def check_query(sql: str) -> None:
    """Refuse SQL that cannot be a query of the catalogue, without reading the catalogue.

    Whether its columns exist is known only when it runs.

    Args:
        sql: What `query` is to run.

    Raises:
        Refused: it does not parse, is not one SELECT, or reads something else than the views of the catalogue.
    """
    with duckdb.connect(config={"threads": "1", "enable_external_access": "false"}) as connection:
        row = connection.execute("select json_serialize_sql(?::varchar)", [_select(sql)]).fetchone()
    tables, defined = set[str](), set[str]()
    _collect_tables(json.loads(row[0]) if row is not None else {}, tables, defined)
    other = sorted(tables - defined - {FRAMES, ALL_FRAMES})
    if other or not tables - defined:
        why = f"it reads {', '.join(other)[:200]}" if other else "it reads no frames"
        raise Refused("the query", why, f"read only the views `{FRAMES}` and `{ALL_FRAMES}`")


def _collect_tables(node: Any, tables: set[str], defined: set[str]) -> None:
    """Names of tables in a parsed statement, and names that its `with` defines; lower case."""
    if isinstance(node, list):
        for item in node:
            _collect_tables(item, tables, defined)
        return
    if not isinstance(node, dict):
        return
    if node.get("type") == "BASE_TABLE":
        tables.add(str(node.get("table_name")).lower())
    defined |= {str(one.get("key")).lower() for one in (node.get("cte_map") or {}).get("map", [])}
    for value in node.values():
        _collect_tables(value, tables, defined)


def _seen(select: str, infos: list[stores.Info]) -> list[stores.Info]:
    """Without the files of partitions that the query excludes."""
    cuts = [cut_of(info.key) or CutDrive("", "", "", "") for info in infos]
    seen = pruning.visible(select, [(cut.date, cut.vehicle, cut.drive) for cut in cuts])
    return [info for info, is_seen in zip(infos, seen, strict=True) if is_seen]


def _shown(infos: list[stores.Info], every: Sequence[stores.Info], orders: Orders) -> list[stores.Info]:
    """Without the files of which another recipe has every output, as far as the marks say what recipes make."""
    hidden: set[str] = set()
    several = _by_drive(every)
    for drive, recipes in orders.first.items():
        made: set[str] = set()
        for recipe in recipes:
            info = several.get(drive, {}).get(recipe)
            outputs = orders.outputs.get(info.key) if info is not None else None
            if info is not None and outputs is not None:
                if outputs <= made:
                    hidden.add(info.key)
                made |= outputs
    return [info for info in infos if info.key not in hidden]


@contextmanager
def query(
    store: Store, sql: str, scratch: Path, only: Sequence[tuple[str, str]] | None = None
) -> Iterator[Answer]:
    """Run a SELECT over `frames` or `frames_all`; rows come as they are read, ordered by path. only: the files of an earlier snapshot.

    Files of dates, vehicles and drives that the query excludes are not fetched (lake/pruning.py), nor, for `frames`, those of recipes
    that are not current. Raises NotFound when the catalogue is empty or has lost a file of `only`, Refused for SQL that is wrong,
    or reaches out.
    """
    select = _select(sql)
    infos = _asked(store, only)
    if not infos:
        raise NotFound(f"the catalogue of store {store.name}", "it has no frames yet", "ingest a drive first")
    orders = orders_of(store, infos) if only is None else _orders_then(only)
    is_of_all = ALL_FRAMES in select.lower()
    every = infos if is_of_all else _shown(infos, infos, orders)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="query-", dir=scratch) as folder:

        def bound(files: list[stores.Info]) -> Any:
            return _bound(store, select, files, orders, scratch, Path(folder))

        seen = _seen(select, every)
        try:
            connection, asked = bound(seen or every[:1]), seen
        except duckdb.BinderException as error:
            if len(seen) == len(every):
                raise _refusal(error) from error
            # a column that only the excluded files have: nulls here, but then the others must say its type
            try:
                connection, asked = bound(every), every
            except duckdb.Error as second:
                raise _refusal(second) from second
        except duckdb.Error as error:
            raise _refusal(error) from error
        asked = asked or every[:1]
        files = (*((info.key, info.etag or "") for info in asked), *order_pairs(orders, asked))
        try:
            ordered = connection.sql(f"select * from ({select}) order by path")  # noqa: S608
            reader = ordered.to_arrow_reader(BATCH_ROWS)
            rows = (pa.Table.from_batches([batch]) for batch in reader)
            yield Answer(reader.schema, rows, snapshot_id(files), files)
        except duckdb.Error as error:
            raise _refusal(error) from error
        finally:
            connection.close()


def _refusal(error: duckdb.Error) -> Refused:
    return Refused(
        "the query",
        str(error).splitlines()[0],
        f"correct the SQL: it reads only the views `{FRAMES}` and `{ALL_FRAMES}`",
    )


def _bound(
    store: Store, select: str, infos: list[stores.Info], orders: Orders, scratch: Path, folder: Path
) -> Any:
    """A connection on which the query binds, shut in: it reads the copies of these files and nothing else."""
    links = folder / "files"
    paths = list(local_copies(store, infos, cache_folder(scratch), links).values())
    connection = duckdb.connect(
        config={"threads": "2", "temp_directory": str(folder / "spill"), "memory_limit": QUERY_MEMORY}
    )
    try:
        if ALL_FRAMES in select.lower():
            connection.execute(f"create view {ALL_FRAMES} as select * from {_files(paths)}")  # noqa: S608
        _create_frames(connection, paths, _hidden_outputs(infos, paths, orders))
        connection.execute(f"set allowed_directories = [{_quoted(links)}]")
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        connection.sql(f"select * from ({select}) order by path")  # noqa: S608
    except BaseException:
        connection.close()
        raise
    return connection


def _hidden_outputs(
    infos: Sequence[stores.Info], paths: Sequence[Path], orders: Orders
) -> dict[Path, set[str]]:
    """Local file → its outputs that an earlier recipe of the drive's order has too. Reads one column of drives with several files."""
    local = dict(zip((info.key for info in infos), paths, strict=True))
    hidden: dict[Path, set[str]] = {}
    for drive, files in _by_drive(infos).items():
        made: set[str] = set()
        for recipe in orders.first.get(drive, ()):
            if recipe not in files:
                continue
            path = local[files[recipe].key]
            outputs = set(pc.unique(pq.read_table(path, columns=["output"])["output"]).to_pylist())
            if outputs & made:
                hidden[path] = outputs & made
            made |= outputs
    return hidden


def _create_frames(connection: Any, paths: Sequence[Path], hidden: Mapping[Path, set[str]]) -> None:
    """The view of the current recipes: whole files, and rows of the outputs of the others that are not hidden."""
    whole = [path for path in paths if path not in hidden]
    parts = [f"select * from {_files(whole)}"] if whole else []  # noqa: S608
    if hidden:
        rows = [(str(path), output) for path, outputs in hidden.items() for output in sorted(outputs)]
        table = pa.table(
            [pa.array(column, pa.string()) for column in zip(*rows, strict=True)], names=["file", "output"]
        )
        connection.register("__rows", table)
        connection.execute("create table __hidden as select * from __rows")
        connection.unregister("__rows")
        parts.append(
            f"select * exclude (__file) from {_files(list(hidden), ', filename = __file')} seen where not exists "  # noqa: S608
            "(select 1 from __hidden where __hidden.file = seen.__file and __hidden.output = seen.output)"
        )
    connection.execute(f"create view {FRAMES} as {' union all by name '.join(parts)}")


def _files(paths: Sequence[Path], more: str = "") -> str:
    return f"read_parquet([{', '.join(_quoted(path) for path in paths)}], union_by_name = true{more})"


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
