"""Shared by tests of nodes: a published dataset, and the settings of a node that reads it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cacheengine.node import CacheDirConfig
from cacheengine.packs.packcache import Cache, open_cache
from lake.packs import pack_key, put_pack, write_pack
from lake.publish import publish_rows
from lake.stores import Store
from lake.versions import read_available


@dataclass(frozen=True)
class Dataset:
    """What was published: path → bytes."""

    name: str
    tag: str
    version: str
    files: dict[str, bytes]
    packs: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(map(len, self.files.values()))


def make_files(count: int, least: int, most: int, seed: int = 1) -> dict[str, bytes]:
    source = random.Random(seed)
    return {
        f"720p/CAM_{place % 3}/{place:06d}.jpg": source.randbytes(source.randint(least, most))
        for place in range(count)
    }


def publish(
    store: Store, scratch: Path, files: dict[str, bytes], name: str = "frames", pack_bytes: int = 1 << 20
) -> Dataset:
    """Publish files in packs of about `pack_bytes`."""
    groups: list[list[tuple[str, bytes]]] = [[]]
    for item in sorted(files.items(), key=lambda pair: pair[0].encode()):
        if groups[-1] and sum(len(data) for _, data in groups[-1]) + len(item[1]) > pack_bytes:
            groups.append([])
        groups[-1].append(item)
    tables = []
    for group in groups:
        pack = write_pack(scratch / "pack.tar", group)
        put_pack(store, pack.id, scratch / "pack.tar")
        rows = pack.members.rename_columns(["path", "offset", "size", "content_id"])
        tables.append(rows.append_column("pack", pa.array([pack.id] * rows.num_rows, pa.string())))
    made = publish_rows(store, name, iter(tables), tables[0].schema, {})
    packs = tuple(use.id for use in read_available(store, made.version).packs)
    return Dataset(name, made.tag, made.version, files, packs)


def cache_at(folder: Path, quota: int = 1 << 30) -> Cache:
    return open_cache([CacheDirConfig(path=folder, quota=quota)])


def object_path(store: Store, pack: str) -> Path:
    """The file of a pack in a store that is a folder."""
    return Path(store.where.removeprefix("file://")) / pack_key(pack)


def damage(store: Store, pack: str, data: bytes) -> None:
    """Change one byte of the object where it holds `data`."""
    path = object_path(store, pack)
    path.chmod(0o644)
    raw = bytearray(path.read_bytes())
    at = raw.index(data[:64])
    raw[at + 7] ^= 0xFF
    path.write_bytes(raw)
