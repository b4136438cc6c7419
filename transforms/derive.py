"""Derive a version from another: its JPEGs in another size, everything else as it is.

The unit of work is what a version uses of one pack in one part: `derived/<recipe>/<unit>.parquet` says where its results lie, and is
written after their pack. A run that was killed goes on behind the last unit; when the parent gains frames only their
units are made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from lake import stores, versions
from lake.canonical import blake3_hex, canonical_json
from lake.errors import Corrupt, NotFound, Refused
from lake.manifests import canonical_columns_id, read_root
from lake.packs import PackWriter, pack_key, parquet_bytes, put_pack
from lake.packuse import by_pack
from lake.publish import Published, publish_rows
from lake.reading import Opened, open_version, read_pack
from lake.refs import Ref
from lake.stores import Store
from transforms.errors import Unreadable
from transforms.images import resize_jpegs
from transforms.recipe import CODE_VERSION, Output

DERIVE_VERSION = 1
IS_JPEG = r"(?i)\.jpe?g$"
UNIT_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("pack", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("content_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("problem", pa.string()),
    ]
)
Progress = Callable[[str, int, int], None]


@dataclass
class Counts:
    """Files so far: made now, made by an earlier run, carried over as they are, left out (one line each)."""

    made: int = 0
    reused: int = 0
    carried: int = 0
    bad: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Derived:
    """published, and how it came about; bad: pictures that do not decode."""

    published: Published
    made: int
    reused: int
    carried: int
    bad: tuple[str, ...]


def parse_size(text: str, quality: int = 90, aspect: str = "fit") -> Output:
    """`1280x720` → what to make of each picture. Raises Refused."""
    size = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)
    if size is None or aspect not in ("fit", "fill", "exact") or not 1 <= quality <= 100:
        raise Refused(
            f"the size {text!r} ({aspect}, quality {quality})",
            "it is not WIDTHxHEIGHT in pixels",
            "for example 1280x720",
        )
    name = f"{size[1]}x{size[2]}"
    value = {
        "name": name,
        "width": int(size[1]),
        "height": int(size[2]),
        "aspect": aspect,
        "quality": quality,
    }
    try:
        return Output.model_validate(value)
    except ValidationError as error:
        causes = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise Refused(f"the size {text!r}", causes, "for example 1280x720") from error


def recipe_of(output: Output) -> str:
    """BLAKE3 that names the derivation: its parameters and the versions of the code."""
    value = {"derive": DERIVE_VERSION, "code": CODE_VERSION, "output": output.model_dump(mode="json")}
    return blake3_hex(canonical_json(value))


def derive(
    store: Store,
    parent: Ref,
    name: str,
    output: Output,
    scratch: Path,
    origin: Mapping[str, Any],
    tag: str | None = None,
    *,
    skip_bad: bool = False,
    open_named: Callable[[str], Store] | None = None,
    progress: Progress | None = None,
) -> Derived:
    """Publish `name`: the parent with its JPEGs resized.

    Raises Refused when pictures do not decode (unless skip_bad leaves them out); what was made until then is kept for the next run.
    """
    opened = (
        open_version(store, parent.version, open_named) if open_named else open_version(store, parent.version)
    )
    recipe = recipe_of(output)
    files, counts = read_root(store, parent.version).files, Counts()
    schema = next(iter(versions.rows(store, parent.version))).schema
    scratch.mkdir(parents=True, exist_ok=True)

    def rows() -> Iterator[pa.Table]:
        for part in versions.rows(store, parent.version):
            yield _derived_part(opened, part, recipe, output, scratch, counts, lambda: tell())
        if counts.bad and not skip_bad:
            raise Refused(
                f"{len(counts.bad):,} of {files:,} pictures of {parent.dataset}@{parent.tag}",
                "; ".join(counts.bad[:10]),
                "correct the parent, or leave them out (--skip-bad)",
            )

    def tell() -> None:
        if progress is not None:
            progress("derive", counts.made + counts.reused + counts.carried + len(counts.bad), files)

    made_by = {
        **origin,
        "derived_from": f"{parent.dataset}@{parent.tag}",
        "parent": parent.version,
        "resize": output.name,
        "recipe": recipe,
    }
    published = publish_rows(store, name, rows(), schema, made_by, tag, identity=opened.identity)
    return Derived(published, counts.made, counts.reused, counts.carried, tuple(counts.bad))


def _derived_part(
    opened: Opened,
    part: pa.Table,
    recipe: str,
    output: Output,
    scratch: Path,
    counts: Counts,
    tell: Callable[[], None],
) -> pa.Table:
    is_picture = pc.match_substring_regex(part["path"], IS_JPEG)
    carried, pictures = part.filter(pc.invert(is_picture)), part.filter(is_picture)
    counts.carried += carried.num_rows
    units = []
    for pack, rows in by_pack(pictures):
        units.append(_unit(opened, pack, rows.sort_by("path"), recipe, output, scratch, counts))
        tell()
    tell()
    made = pa.concat_tables([UNIT_SCHEMA.empty_table(), *units])
    good = made.filter(pc.is_null(made["problem"]))
    at = pc.index_in(good["path"], pictures["path"].combine_chunks())
    if at.null_count or made.num_rows != pictures.num_rows:
        raise Corrupt(f"derived/{recipe[:12]}", "a record speaks of other files", "delete it and run again")
    chosen = pictures.take(at)
    for column in ("pack", "offset", "size", "content_id", "width", "height"):
        chosen = _replaced(chosen, column, good[column])
    parents = chosen["recipe"].to_pylist()
    mixed = {one: blake3_hex(canonical_json([one, recipe])) for one in set(parents)}
    chosen = _replaced(chosen, "recipe", pa.array([mixed[one] for one in parents], pa.string()))
    if "output" in chosen.schema.names:
        chosen = _replaced(chosen, "output", pa.array([output.name] * len(chosen), pa.string()))
    return pa.concat_tables([carried, chosen]).sort_by("path")


def _replaced(table: pa.Table, name: str, column: Any) -> pa.Table:
    kind = table.schema.field(name).type
    return table.set_column(table.schema.get_field_index(name), name, column.cast(kind))


def _unit(
    opened: Opened, pack: str, rows: pa.Table, recipe: str, output: Output, scratch: Path, counts: Counts
) -> pa.Table:
    """UNIT_SCHEMA rows of what the version uses of one pack: from the record, or made now."""
    unit = canonical_columns_id(rows.select(["path", "content_id"]).combine_chunks())
    key = f"derived/{recipe}/{unit}.parquet"
    found = _recorded(opened.store, key)
    if found is not None:
        counts.reused += found["problem"].null_count
    else:
        found = _make(opened, pack, rows, output, scratch / f"{unit}.tar")
        stores.put(opened.store, key, parquet_bytes(found))
        counts.made += found["problem"].null_count
    bad = found.filter(pc.is_valid(found["problem"]))
    counts.bad += [f"{row['path']}: {row['problem']}" for row in bad.select(["path", "problem"]).to_pylist()]
    return found


def _recorded(store: Store, key: str) -> pa.Table | None:
    """The record of a unit, None when there is none, or when its pack has been collected as garbage since."""
    try:
        found = pq.read_table(pa.BufferReader(stores.get(store, key))).cast(UNIT_SCHEMA)
    except NotFound:
        return None
    except (pa.ArrowException, ValueError) as error:
        raise Corrupt(f"{key} in store {store.name}", f"it is no record: {error}", "delete it") from error
    packs = pc.unique(pc.drop_null(found["pack"])).to_pylist()
    return found if all(stores.exists(store, pack_key(pack)) for pack in packs) else None


def _make(opened: Opened, pack: str, rows: pa.Table, output: Output, local: Path) -> pa.Table:
    writer: PackWriter | None = None
    described: list[tuple[str, int | None, int | None, str | None]] = []
    sources = (data for _, data in read_pack(opened, pack, rows))
    made = resize_jpegs(sources, (output,), len(os.sched_getaffinity(0)))
    try:
        for path, result in zip(rows["path"].to_pylist(), made, strict=True):
            if isinstance(result, Unreadable):
                described.append((path, None, None, str(result)))
                continue
            (picture,) = result
            writer = writer or PackWriter(local)
            writer.add(path, picture.jpeg)
            described.append((path, picture.width, picture.height, None))
        columns = zip(*described, strict=True)
        names = ("path", "width", "height", "problem")
        table = pa.table(
            {
                name: pa.array(column, UNIT_SCHEMA.field(name).type)
                for name, column in zip(names, columns, strict=True)
            }
        )
        if writer is None:
            return _with_members(table, None, UNIT_SCHEMA.empty_table())
        done = writer.finish()
        writer = None
        put_pack(opened.store, done.id, local)
        return _with_members(
            table, done.id, done.members.rename_columns(["path", "offset", "size", "content_id"])
        )
    finally:
        if writer is not None:
            writer.abandon()
        local.unlink(missing_ok=True)


def _with_members(table: pa.Table, pack: str | None, members: pa.Table) -> pa.Table:
    at = pc.index_in(table["path"], members["path"].combine_chunks())
    packs = pa.array([pack if known else None for known in pc.is_valid(at).to_pylist()], pa.string())
    table = table.append_column("pack", packs)
    for name in ("offset", "size", "content_id"):
        table = table.append_column(name, pc.take(members[name], at))
    return table.select(UNIT_SCHEMA.names).cast(UNIT_SCHEMA)
