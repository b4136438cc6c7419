"""Read files of a version from its store, checked: from packs by a few ranges, from single objects where it was published in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lake import stores, versions
from lake.assemblies import OpenNamed, etag_id, read_assembly, read_member
from lake.canonical import blake3_hex
from lake.errors import Corrupt, Refused
from lake.manifests import read_root
from lake.packs import pack_key
from lake.packuse import by_pack
from lake.stores import Store

AT_ONCE = 32 << 20
FILES_AT_ONCE = 512
PARALLEL = 16


@dataclass(frozen=True)
class Opened:
    """A version that can be read: identity says what a content id is, assembled which packs are single objects."""

    store: Store
    version: str
    identity: str
    assembled: frozenset[str]
    open_named: OpenNamed


def no_other_store(name: str) -> Store:
    """For readers that know one store only."""
    raise Refused(
        f"the store {name!r}",
        "the version was published in place there, and no settings name it",
        "describe it",
    )


def open_version(store: Store, version: str, open_named: OpenNamed = no_other_store) -> Opened:
    """Raises NotFound when the version is not wholly in this store."""
    assembled = versions.read_available(store, version).assembled
    return Opened(store, version, read_root(store, version).identity, frozenset(assembled), open_named)


def read_rows(opened: Opened, rows: pa.Table) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of rows with path, content_id, size, pack and offset; pack after pack, in each by offset.

    Raises Corrupt for bytes that do not have their content id, NotFound, StoreDown. Memory: AT_ONCE, or one file.
    """
    for pack, mine in by_pack(rows):
        yield from read_pack(opened, pack, mine.sort_by("offset"))


def read_pack(opened: Opened, pack: str, rows: pa.Table) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of rows of one pack, in their order."""
    if pack in opened.assembled:
        yield from _objects(opened, pack, rows)
        return
    columns = [rows[name].to_pylist() for name in ("path", "content_id", "size", "offset")]
    listed = list(zip(*columns, strict=True))
    for group in _groups(listed):
        offsets, sizes = [row[3] for row in group], [row[2] for row in group]
        full = [place for place, size in enumerate(sizes) if size]
        data = [b""] * len(group)
        found = (
            stores.get_ranges(
                opened.store,
                pack_key(pack),
                [offsets[place] for place in full],
                [sizes[place] for place in full],
            )
            if full
            else []
        )
        for place, piece in zip(full, found, strict=True):
            data[place] = piece
        for (path, content_id, _, _), piece in zip(group, data, strict=True):
            if blake3_hex(piece) != content_id:
                raise Corrupt(
                    f"{path} in {pack_key(pack)} of store {opened.store.name}",
                    "its bytes do not have its content id",
                    "`outlap verify` says what else is wrong",
                )
            yield path, piece


def _groups(listed: Sequence[tuple[str, str, int, int]]) -> Iterator[list[tuple[str, str, int, int]]]:
    group: list[tuple[str, str, int, int]] = []
    held = 0
    for row in listed:
        if group and (held + row[2] > AT_ONCE or len(group) >= FILES_AT_ONCE):
            yield group
            group, held = [], 0
        group.append(row)
        held += row[2]
    if group:
        yield group


def _objects(opened: Opened, pack: str, rows: pa.Table) -> Iterator[tuple[str, bytes]]:
    table = read_assembly(opened.store, pack)
    at = pc.index_in(rows["offset"], table["offset"].combine_chunks())
    if at.null_count:
        raise Corrupt(f"assemblies {pack[:12]}", "it does not list every file of the version")
    found = table.take(at)
    names = [found[name].to_pylist() for name in ("store", "key", "etag", "size")]
    wanted = list(zip(rows["path"].to_pylist(), rows["content_id"].to_pylist(), *names, strict=True))
    sources = {name: opened.open_named(name) for name in set(names[0])}

    def read(row: tuple[str, str, str, str, str, int]) -> tuple[str, bytes]:
        path, content_id, name, key, etag, size = row
        data = read_member(sources[name], key, etag, size)
        is_it = etag_id(name, key, etag, size) if opened.identity == "etag" else blake3_hex(data)
        if is_it != content_id:
            raise Corrupt(f"{path} ({key} in store {name})", "its bytes do not have its content id")
        return path, data

    with ThreadPoolExecutor(PARALLEL) as pool:
        for start in range(0, len(wanted), PARALLEL * 2):
            yield from pool.map(read, wanted[start : start + PARALLEL * 2])
