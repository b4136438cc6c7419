"""Publish objects where they are: nothing is copied, each object is its own location (lake/assemblies.py).

identity `content`: every object is read and its BLAKE3 is its content id, so that the version id is the one that packing gives; read
again only when its etag or size is another than in `latest`.
identity `etag`: no byte is read; the content id is the BLAKE3 of [store, key, etag, size]. The root says which it is. Both check
the etag whenever the object is read (If-Match), so an object that was overwritten is an error, never other bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lake.assemblies import (
    PARALLEL,
    OpenNamed,
    assembly_cuts,
    etag_id,
    hash_object,
    put_assembly,
    read_assembly,
    with_offsets,
)
from lake.errors import Refused
from lake.imports import FILE_SCHEMA, ITEMS, LOCAL, Progress, total_bytes
from lake.manifests import IDENTITIES, read_root
from lake.publish import Published, publish_rows
from lake.refs import LATEST, read_ref
from lake.stores import Store
from lake.versions import read_available

Seen = tuple[str, str, str, int]  # store, key, etag, size


def publish_in_place(
    store: Store,
    dataset: str,
    items: pa.Table,
    open_named: OpenNamed,
    origin: Mapping[str, Any],
    tag: str | None = None,
    identity: str = "content",
    progress: Progress | None = None,
) -> Published:
    """Publish objects of named stores without copying them. items: as lake.publish.publish_items takes them.

    progress(bytes looked at, all).

    Raises Refused for local files and for objects without an etag, Corrupt for one that changes while it is read.
    """
    if identity not in IDENTITIES:
        raise Refused(f"the identity {identity!r}", f"{' and '.join(IDENTITIES)} are known")
    if pc.any(pc.equal(items["store"], LOCAL)).as_py():
        raise Refused(
            "publish in place", "local files are in no store that others can read", "leave out --in-place"
        )
    if pc.any(pc.equal(items["etag"], "")).as_py():
        key = items.filter(pc.equal(items["etag"], ""))["key"][0].as_py()
        raise Refused(f"publish {key} in place", "its store gives no etag, so a change would not be seen")
    extra = [name for name in items.schema.names if name not in ITEMS.names]
    fields = [pa.field(name, items.schema.field(name).type) for name in extra]
    known = _known_ids(store, dataset) if identity == "content" else {}
    total = total_bytes(items)
    opened = {name: open_named(name) for name in pc.unique(items["store"]).to_pylist()}

    def rows() -> Iterator[pa.Table]:
        start = done = 0
        for end in assembly_cuts(items["path"], items["size"]) if items.num_rows else []:
            group = items.slice(start, end - start)
            members = group.rename_columns(
                ["name" if name == "path" else name for name in group.schema.names]
            ).append_column("content_id", _ids(group, opened, identity, known))
            table = with_offsets(members)
            assembly = put_assembly(store, table)
            made = table.select(["name", "content_id", "size", "offset"]).rename_columns(
                ["path", "content_id", "size", "offset"]
            )
            made = made.append_column("pack", pa.array([assembly] * len(made), pa.string()))
            for name in extra:
                made = made.append_column(name, group[name])
            start, done = end, done + total_bytes(group)
            if progress is not None:
                progress(done, total)
            yield made

    return publish_rows(
        store, dataset, rows(), pa.schema([*FILE_SCHEMA, *fields]), origin, tag, identity=identity
    )


def _known_ids(store: Store, dataset: str) -> Mapping[Seen, str]:
    """Content ids of the objects that `latest` has in place, by what they were: those need not be read again."""
    latest = read_ref(store, dataset, LATEST)
    if latest is None or read_root(store, latest.version).identity != "content":
        return {}
    known: dict[Seen, str] = {}
    for assembly in read_available(store, latest.version).assembled:
        table = read_assembly(store, assembly)
        names = [table[name].to_pylist() for name in ("store", "key", "etag", "size")]
        known |= dict(zip(zip(*names, strict=True), table["content_id"].to_pylist(), strict=True))
    return known


def _ids(group: pa.Table, opened: Mapping[str, Store], identity: str, known: Mapping[Seen, str]) -> pa.Array:
    columns = [group[name].to_pylist() for name in ("store", "key", "etag", "size")]
    if identity == "etag":
        return pa.array([etag_id(*row) for row in zip(*columns, strict=True)], pa.string())
    with ThreadPoolExecutor(PARALLEL) as pool:
        found = pool.map(
            lambda row: known.get(row) or hash_object(opened[row[0]], *row[1:]), zip(*columns, strict=True)
        )
        return pa.array(list(found), pa.string())
