"""Packs: an ordinary tar whose members start on 4 KiB boundaries, named by its BLAKE3.

ustar members, mtime 0, mode 0444, sorted by name (bytes). A member whose data would not start on a boundary is preceded
by a pax extended header (type `x`) with one `comment` record of the right length; a name that ustar cannot hold (over
100 bytes, or not ASCII) goes into a `path` record of the same header. The last member, `__outlap__/members.parquet`,
lists all members, so that a pack explains itself. GNU tar, bsdtar, Python's tarfile and WebDataset read it. The same members
give the same bytes. Source of the format: POSIX pax, "ustar Interchange Format".
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from lake import stores
from lake.canonical import blake3_hex, is_hash
from lake.errors import Corrupt, Refused
from lake.stores import Store

ALIGN = 4096
BLOCK = 512
MEMBERS_NAME = "__outlap__/members.parquet"
MEMBERS_SCHEMA = pa.schema(
    [("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("content_id", pa.string())]
)
PACK_TARGET = 256 << 20
# GNU tar and Python use base-256 sizes from here on; the octal field of ustar ends
OCTAL_LIMIT = 8**11
TAIL = 1 << 20
# columns of other values in each row: a dictionary of them costs time and saves nothing
UNIQUE = frozenset({"path", "name", "content_id", "sample_id", "timestamp_ns", "size", "offset"})


@dataclass(frozen=True)
class Pack:
    """id: BLAKE3 of the file; size in bytes; members: MEMBERS_SCHEMA, sorted by name."""

    id: str
    size: int
    members: pa.Table


def pack_key(pack_id: str) -> str:
    """Key in a store. Raises Refused when this is no pack id: ids come from files that others wrote."""
    if not is_hash(pack_id):
        raise Refused(f"the pack {pack_id[:80]!r}", "its id is not 64 hex digits")
    return f"packs/{pack_id[:2]}/{pack_id}.tar"


def _pax_record(keyword: str, value: bytes) -> bytes:
    """`<length> <keyword>=<value>\\n`, where length counts itself."""
    rest = len(keyword) + len(value) + 3  # space, =, newline
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return f"{length} {keyword}=".encode() + value + b"\n"


def _comment_of(size: int) -> bytes:
    """A pax comment record of exactly `size` bytes."""
    overhead = len(f"{size} comment=\n")
    return f"{size} comment=".encode() + b" " * (size - overhead) + b"\n"


def _header(name: bytes, size: int, kind: bytes) -> bytes:
    if size >= OCTAL_LIMIT:
        size_field = b"\x80" + size.to_bytes(11, "big")
    else:
        size_field = b"%011o\0" % size
    head = bytearray(
        b"".join(
            (
                name.ljust(100, b"\0"),
                b"0000444\0",
                b"0000000\0",
                b"0000000\0",
                size_field,
                b"00000000000\0",
                b" " * 8,
                kind,
                bytes(100),
                b"ustar\x0000",
                bytes(32),
                bytes(32),
                b"0000000\0",
                b"0000000\0",
                bytes(155),
                bytes(12),
            )
        )
    )
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def member_prelude(position: int, name: str, size: int) -> bytes:
    """What stands between `position` (a multiple of 512) and the data of a member, so that the data is aligned."""
    raw = name.encode()
    plain = len(raw) <= 100 and raw.isascii()
    records = b"" if plain else _pax_record("path", raw)
    short = raw if plain else raw.decode("ascii", "replace").encode("ascii", "replace")[:100]
    gap = -(position + BLOCK) % ALIGN
    if gap == 0 and plain:
        return _header(raw, size, b"0")
    # gap holds the pax header and its records; one block of records at least
    while gap < BLOCK + -(-(len(records) + 16) // BLOCK) * BLOCK:
        gap += ALIGN
    records += _comment_of(gap - BLOCK - len(records))
    return _header(b"pax", len(records), b"x") + records + _header(short, size, b"0")


def next_offset(ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where the data of the next member begins at the earliest, after data that ends there: where a plain name puts it."""
    position = -(-ends // BLOCK) * BLOCK
    gap = -(position + BLOCK) % ALIGN
    gap[(gap > 0) & (gap < 2 * BLOCK)] += ALIGN
    return position + gap + BLOCK


def check_name(name: str) -> None:
    """Raises Refused for a member name that is no plain relative path, or is ours."""
    parts = name.split("/")
    if not name or name.startswith("__outlap__/") or "\0" in name or any(p in ("", ".", "..") for p in parts):
        raise Refused(f"the pack member {name[:200]!r}", "it is no plain relative path")


class PackWriter:
    """Writes one pack into a file, member after member, in ascending order of name bytes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = blake3()
        self._rows: list[tuple[str, int, int, str]] = []
        self._last = b""
        self.size = 0

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def add(self, name: str, data: bytes) -> int:
        """Append a member; the offset of its data in bytes. Raises Refused for a bad name or a wrong order."""
        self._check(name)
        return self._append(name, data, blake3_hex(data))

    def add_pieces(self, name: str, size: int, pieces: Iterable[bytes]) -> int:
        """Append a member of any size, piece by piece. Raises Corrupt when they are not `size` bytes in all."""
        self._check(name)
        self._write(member_prelude(self.size, name, size))
        offset, digest = self.size, blake3()
        for piece in pieces:
            digest.update(piece)
            self._write(piece)
        if self.size - offset != size:
            raise Corrupt(f"the pack member {name!r}", f"it gave {self.size - offset} of {size} bytes")
        self._write(bytes(-size % BLOCK))
        self._rows.append((name, offset, size, digest.hexdigest()))
        return offset

    def _check(self, name: str) -> None:
        check_name(name)
        raw = name.encode()
        if raw <= self._last:
            raise Refused(f"the pack member {name!r}", "members come in ascending order, each name once")
        self._last = raw

    @property
    def last_content_id(self) -> str:
        """BLAKE3 of the member that was added last."""
        return self._rows[-1][3]

    def _append(self, name: str, data: bytes, content_id: str) -> int:
        self._write(member_prelude(self.size, name, len(data)))
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % BLOCK))
        self._rows.append((name, offset, len(data), content_id))
        return offset

    def finish(self) -> Pack:
        """Write the list of members and the end, sync and close."""
        columns = list(zip(*self._rows, strict=True)) or [(), (), (), ()]
        members = pa.table(
            [pa.array(c, f.type) for c, f in zip(columns, MEMBERS_SCHEMA, strict=True)], MEMBERS_SCHEMA
        )
        self._append(MEMBERS_NAME, parquet_bytes(members), "")
        self._rows.pop()
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self.size % ALIGN))  # the kernel maps whole blocks of its device
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return Pack(self._hash.hexdigest(), self.size, members)

    def abandon(self) -> None:
        """Close and remove the file."""
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)


def write_pack(path: Path, items: Iterable[tuple[str, bytes]]) -> Pack:
    """One pack of (name, data) pairs in ascending order of name."""
    writer = PackWriter(path)
    try:
        for name, data in items:
            writer.add(name, data)
        return writer.finish()
    except BaseException:
        writer.abandon()
        raise


def parquet_bytes(table: pa.Table) -> bytes:
    """Parquet with settings that depend on nothing but the rows."""
    sink = io.BytesIO()
    repeating = [name for name in table.schema.names if name not in UNIQUE]
    pq.write_table(
        table, sink, compression="zstd", store_schema=False, write_statistics=True, use_dictionary=repeating
    )
    return sink.getvalue()


def put_pack(store: Store, pack_id: str, path: Path) -> bool:
    """Upload a pack under its id; False when it was there. The same id is the same bytes, so a race does no harm."""
    key = pack_key(pack_id)
    there = stores.head(store, key)
    if there is not None and there.size == path.stat().st_size:
        return False
    stores.put_file(store, key, path)
    return True


def members_of(path: Path) -> pa.Table:
    """The list of members of a pack file. Raises Corrupt."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        return _find_members(read, size, path.name)


def read_members(store: Store, pack_id: str, size: int | None = None) -> pa.Table:
    """The list of members of a pack in a store, from its tail. size: of the pack, where it is known.

    Raises NotFound, Corrupt, StoreDown.
    """
    key = pack_key(pack_id)
    if size is None:
        info = stores.head(store, key)
        if info is None:
            stores.get(store, key)  # raises NotFound as every read does
            raise Corrupt(key, "it came and went")
        size = info.size
    return _find_members(lambda offset, length: stores.get_range(store, key, offset, length), size, key)


def _find_members(read: Any, size: int, what: str) -> pa.Table:
    """Search the tail for the header of the last member, further back while it is not found."""
    length = min(size, TAIL)
    while True:
        start = (size - length) // BLOCK * BLOCK
        tail = read(start, size - start)
        place = tail.rfind(MEMBERS_NAME.encode() + b"\0")
        if place >= 0 and place % BLOCK == 0:
            break
        if start == 0:
            raise Corrupt(what, "the tar does not end with a list of its members", "make the pack again")
        length = min(size, length * 4)
    try:
        with tarfile.open(fileobj=io.BytesIO(tail[place:])) as tar:
            inner = tar.extractfile(MEMBERS_NAME)
            if inner is None:
                raise Corrupt(what, "its list of members is no file")
            table = pq.read_table(io.BytesIO(inner.read()))
        return table.select(MEMBERS_SCHEMA.names).cast(MEMBERS_SCHEMA)
    except (tarfile.TarError, KeyError, pa.ArrowException) as error:
        raise Corrupt(what, f"its list of members cannot be read: {error}", "make the pack again") from error
