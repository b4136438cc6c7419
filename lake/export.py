"""A version for other tools: a list of paths, plain Parquet, a list of WebDataset shards. Everything streams, no format is ours.

Each file is written beside its name and moved there when it is whole, so that a reader never sees half of one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lake import versions
from lake.errors import Refused
from lake.packs import PACK_TARGET, PackWriter, pack_key, read_members
from lake.packuse import by_pack
from lake.reading import Opened, read_rows
from lake.versions import PackUse, read_available

LOCATION = ("pack", "offset")
FILES_AT_ONCE = 256
BYTES_AT_ONCE = 128 << 20
SHARD_BYTES = 1 << 30


@dataclass(frozen=True)
class Exported:
    """outputs: the files that were written, relative to the folder; copied: bytes of frames among them."""

    kind: str
    folder: str
    files: int
    bytes: int
    outputs: tuple[str, ...]
    copied: int = 0


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _totals(opened: Opened) -> tuple[int, int]:
    found = read_available(opened.store, opened.version)
    return found.files, found.bytes


def export_files(opened: Opened, folder: Path, prefix: str = "") -> Exported:
    """`files.txt`: prefix and path of each file, one a line. Raises Refused for a path with a line break."""
    with whole(folder / "files.txt") as path, path.open("w", encoding="utf-8", newline="\n") as out:
        for part in versions.rows(opened.store, opened.version):
            broken = pc.match_substring_regex(part["path"], r"[\n\r]")
            if pc.any(broken).as_py():
                bad = part["path"].filter(broken)[0].as_py()
                raise Refused(f"the path {bad!r}", "a list cannot hold a line break", "export Parquet")
            out.writelines(f"{prefix}{name}\n" for name in part["path"].to_pylist())
    return Exported("files", str(folder), *_totals(opened), ("files.txt",))


def plain_schema(schema: Any) -> Any:
    """The columns of a version without where its bytes lie."""
    return pa.schema([field for field in schema if field.name not in LOCATION])


def _features(schema: Any) -> dict[str, Any]:
    """What Hugging Face `datasets` reads from the Parquet file's metadata: `image` is decoded as a picture."""
    names = {"double": "float64"}
    return {
        field.name: {"_type": "Image"}
        if field.name == "image"
        else {"_type": "Value", "dtype": names.get(str(field.type), str(field.type))}
        for field in schema
    }


def export_parquet(opened: Opened, folder: Path) -> Exported:
    """`files.parquet`: a row for each file, with all columns of the version; a row group for each part."""
    tables = versions.rows(opened.store, opened.version)
    first = next(tables)
    schema = plain_schema(first.schema)
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": _features(schema)}})})
    with (
        whole(folder / "files.parquet") as path,
        pq.ParquetWriter(path, schema, compression="zstd") as writer,
    ):
        writer.write_table(first.select(schema.names).cast(schema))
        for part in tables:
            writer.write_table(part.select(schema.names).cast(schema))
    return Exported("parquet", str(folder), *_totals(opened), ("files.parquet",))


def export_parquet_with_bytes(opened: Opened, folder: Path) -> Exported:
    """`data-00000.parquet` …, about 1 GiB each: the same with a column `image` of {bytes, path}, as Hugging Face has it."""
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    outputs: list[str] = []
    waiting = _slices(opened)
    piece = next(waiting, None)
    while piece is not None:
        schema = plain_schema(piece.schema).append(pa.field("image", picture))
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": _features(schema)}})})
        outputs.append(f"data-{len(outputs):05d}.parquet")
        held = 0
        with (
            whole(folder / outputs[-1]) as path,
            pq.ParquetWriter(path, schema, compression="zstd") as writer,
        ):
            while piece is not None and held < SHARD_BYTES:
                data = dict(read_rows(opened, piece))
                pictures = [{"bytes": data[name], "path": name} for name in piece["path"].to_pylist()]
                table = piece.select(plain_schema(piece.schema).names)
                writer.write_table(table.append_column("image", pa.array(pictures, picture)).cast(schema))
                held += sum(len(one) for one in data.values())
                piece = next(waiting, None)
    files, size = _totals(opened)
    return Exported("parquet", str(folder), files, size, tuple(outputs), size)


def _slices(opened: Opened) -> Iterator[pa.Table]:
    """Rows in their order, a few at a time."""
    for part in versions.rows(opened.store, opened.version):
        sizes = part["size"].to_pylist()
        start = held = 0
        for place, size in enumerate(sizes):
            if place > start and (held + size > BYTES_AT_ONCE or place - start >= FILES_AT_ONCE):
                yield part.slice(start, place - start)
                start, held = place, 0
            held += size
        yield part.slice(start)


def export_webdataset(opened: Opened, folder: Path, base_url: str, copy: bool = False) -> Exported:
    """`shards.txt`: the tar shards of a version, one URL or path a line, exactly its files.

    A pack of which the version uses every member, under the names it has there, is a shard as it is: `<base_url>/packs/…`. What a
    version uses of other packs (or all of it, with copy) is written into shards of its own, `shard-00000.tar` …, below the folder.
    """
    available = read_available(opened.store, opened.version)
    complete = set() if copy else _whole_packs(opened, available.packs)
    base = base_url.removeprefix("file://").rstrip("/")
    shards = [f"{base}/{pack_key(use.id)}" for use in available.packs if use.id in complete]
    outputs, copied = _copied_shards(opened, folder, complete)
    shards += [str((folder / name).absolute()) for name in outputs]
    with whole(folder / "shards.txt") as path:
        path.write_text("".join(f"{shard}\n" for shard in shards), encoding="utf-8")
    return Exported(
        "webdataset", str(folder), available.files, available.bytes, ("shards.txt", *outputs), copied
    )


def _whole_packs(opened: Opened, uses: tuple[PackUse, ...]) -> set[str]:
    """Packs that hold files of this version alone, under their paths."""
    candidates: dict[str, pa.Table] = {}
    for use in uses:
        if use.id not in opened.assembled:
            members = read_members(opened.store, use.id)
            if members.num_rows == use.files:
                candidates[use.id] = members
    for part in versions.rows(opened.store, opened.version):
        for pack, rows in by_pack(part):
            if pack in candidates:
                at = pc.index_in(rows["offset"], candidates[pack]["offset"].combine_chunks())
                same = pc.equal(pc.take(candidates[pack]["name"], at), rows["path"])
                if not pc.all(pc.fill_null(same, False)).as_py():
                    del candidates[pack]
    return set(candidates)


def _copied_shards(opened: Opened, folder: Path, complete: set[str]) -> tuple[list[str], int]:
    outputs: list[str] = []
    copied = 0
    writer: PackWriter | None = None
    left = pa.array(sorted(complete), pa.string())
    target = folder / "unused"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for piece in _slices(opened):
            piece = piece.filter(pc.invert(pc.is_in(piece["pack"], left)))
            data = dict(read_rows(opened, piece))
            for name in piece["path"].to_pylist():
                if writer is not None and writer.size > PACK_TARGET:
                    writer.finish()
                    target.replace(folder / outputs[-1])
                    writer = None
                if writer is None:
                    outputs.append(f"shard-{len(outputs):05d}.tar")
                    target = folder / f".{outputs[-1]}.partial"
                    writer = PackWriter(target)
                writer.add(name, data[name])
                copied += len(data[name])
        if writer is not None:
            writer.finish()
            target.replace(folder / outputs[-1])
            writer = None
    finally:
        if writer is not None:
            writer.abandon()
    return outputs, copied


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """One JSON document."""
    with whole(path) as partial:
        partial.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
