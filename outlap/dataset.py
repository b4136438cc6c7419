"""A version in Python: its files as typed rows, their bytes checked. `outlap.open_dataset` is the way in."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

import pyarrow as pa
import pyarrow.compute as pc

from lake import refs
from lake.config import Config, load_config
from lake.errors import NotFound
from lake.manifests import FRAME_COLUMNS, KEY_COLUMNS, Root
from lake.reading import Opened, open_version, read_rows
from lake.stores import Store, lake_store, open_store
from lake.versions import Available, part_rows, read_whole

PARTS_KEPT = 4
Tag = str | bool | int | float | None
_FIXED = {name for name, _ in (*KEY_COLUMNS, *FRAME_COLUMNS)}
_LOCATION = ("pack", "offset")


@dataclass(frozen=True)
class File:
    """A file of a version. size in bytes; timestamp_ns since 1970 UTC; content_id: BLAKE3 of its bytes (or as the root says)."""

    path: str
    size: int
    content_id: str
    drive: str | None = None
    channel: str | None = None
    timestamp_ns: int | None = None
    sample_id: str | None = None
    width: int | None = None
    height: int | None = None
    recipe: str | None = None
    tags: Mapping[str, Tag] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """A version that can be read. Immutable, and safe to use from several threads; pickling it opens it again elsewhere.

    files, total_bytes: totals. columns: names of frame columns and tags.
    """

    name: str
    tag: str
    version: str
    files: int
    total_bytes: int
    columns: tuple[str, ...]
    _opened: Opened = field(repr=False)
    _root: Root = field(repr=False)
    _available: Available = field(repr=False)
    _parts: OrderedDict[int, pa.Table] = field(default_factory=OrderedDict, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)
    _again: tuple[str | None, Config | None] = field(default=(None, None), repr=False, compare=False)

    def __len__(self) -> int:
        return self.files

    def __iter__(self) -> Iterator[File]:
        """Every file, by path."""
        for table in self.tables():
            yield from _files(table)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._row(path) is not None

    def __reduce__(self) -> tuple[object, ...]:
        # loaders hand it to their workers: there it opens the same version, whatever `latest` is by then
        idc, config = self._again
        return (open_dataset, (f"{self.name}@{self.version}", idc, config))

    def tables(self) -> Iterator[pa.Table]:
        """The rows as Arrow tables in ascending order of path, one in memory at a time; all columns, no locations."""
        for place in range(len(self._root.parts)):
            yield part_rows(self._opened.store, self._root, self._available, place).drop_columns(
                list(_LOCATION)
            )

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows (and only these columns) as one Arrow table: `.to_pandas()`, `polars.from_arrow(…)`."""
        kept = [table.select(list(columns)) if columns is not None else table for table in self.tables()]
        return pa.concat_tables(kept)

    def file(self, path: str) -> File:
        """Raises NotFound when the version has no such file."""
        return next(_files(self._needed(path)))

    def read(self, path: str) -> bytes:
        """The bytes of a file, checked against its content id. Raises NotFound, Corrupt, StoreDown."""
        ((_, data),) = read_rows(self._opened, self._needed(path))
        return data

    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """(path, bytes) of many files, in the order in which they lie: near ones cost one request. Raises as `read`."""
        rows = [self._needed(path) for path in sorted(set(paths), key=str.encode)]
        if rows:
            yield from read_rows(self._opened, pa.concat_tables(rows))

    def below(self, folder: str) -> Iterator[pa.Table]:
        """Rows of the files below a folder (`a/b`, "" for all), by path; only parts that can have one are read."""
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        for place, part in enumerate(self._root.parts):
            # paths below are those from prefix on, up to the one after its slash
            if prefix and not (part.last >= prefix and part.first < f"{prefix[:-1]}0"):
                continue
            table = self._part(place)
            yield table.filter(pc.starts_with(table["path"], prefix)) if prefix else table

    def _part(self, place: int) -> pa.Table:
        with self._lock:
            if place in self._parts:
                self._parts.move_to_end(place)
                return self._parts[place]
        table = part_rows(self._opened.store, self._root, self._available, place).combine_chunks()
        with self._lock:
            self._parts[place] = table
            while len(self._parts) > PARTS_KEPT:
                self._parts.popitem(last=False)
        return table

    def _row(self, path: str) -> pa.Table | None:
        raw = path.encode("utf-8", "surrogatepass")
        place = bisect_right(self._root.parts, raw, key=lambda part: part.first.encode()) - 1
        if place < 0:
            return None
        table = self._part(place)
        row = bisect_right(range(table.num_rows), raw, key=lambda at: table["path"][at].as_py().encode()) - 1
        return table.slice(row, 1) if row >= 0 and table["path"][row].as_py() == path else None

    def _needed(self, path: str) -> pa.Table:
        found = self._row(path)
        if found is None:
            raise NotFound(
                f"{path!r} in {self.name}@{self.tag}",
                "the version has no such file",
                "`outlap export --to files` lists all",
            )
        return found


def _files(table: pa.Table) -> Iterator[File]:
    tags = [name for name in table.schema.names if name not in _FIXED and name not in _LOCATION]
    fixed = [name for name in table.schema.names if name in _FIXED]
    for batch in table.to_batches(max_chunksize=8192):
        for row in batch.to_pylist():
            yield File(**{name: row[name] for name in fixed}, tags={name: row[name] for name in tags})


def open_dataset(name: str, idc: str | None = None, config: Config | None = None) -> Dataset:
    """See outlap.open_dataset."""
    settings = config or load_config()

    def opened(one: str) -> Store:
        return open_store(settings.store_named(one), settings.idc)

    store = lake_store(settings, idc)
    ref = refs.resolve(store, *refs.parse(name))
    root, available = read_whole(store, ref.version)
    columns = tuple(column for column, _ in root.columns if column not in {"path", "content_id", "size"})
    reader = open_version(store, ref.version, opened)
    return Dataset(
        ref.dataset,
        ref.tag,
        ref.version,
        root.files,
        root.bytes,
        columns,
        reader,
        root,
        available,
        _again=(idc, config),
    )
