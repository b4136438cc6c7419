"""Sources: the bytes of a recording, read by ranges, from this machine or straight from a store.

Formats ask for ranges and never for a whole file, so a recording may be larger than memory and than the scratch disk.
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from lake import stores
from lake.stores import Store

# Ranges of a store are fetched in blocks of this size; the last few are kept, since readers ask for headers one by one.
BLOCK = 4 << 20
BLOCKS_KEPT = 8


class Source(Protocol):
    """name: for people; size in bytes. Several threads may read at once."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset+length), fewer only at the end of the file."""
        ...


@dataclass(frozen=True)
class FileSource:
    """A file of this machine; it may be removed and made again between reads, nothing stays open."""

    path: Path
    name: str
    size: int

    def read(self, offset: int, length: int) -> bytes:
        if offset >= self.size:  # a damaged file points anywhere, also beyond what the system call takes
            return b""
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), max(0, length), offset)


@dataclass(frozen=True)
class StoreSource:
    """An object of a store, in blocks of BLOCK bytes of which the last BLOCKS_KEPT stay in memory."""

    store: Store
    key: str
    name: str
    size: int
    _blocks: OrderedDict[int, bytes] = field(default_factory=OrderedDict, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def _block(self, number: int) -> bytes:
        with self._lock:
            if number in self._blocks:
                self._blocks.move_to_end(number)
                return self._blocks[number]
        start = number * BLOCK
        data = stores.get_range(self.store, self.key, start, min(BLOCK, self.size - start))
        with self._lock:
            self._blocks[number] = data
            while len(self._blocks) > BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return data

    def read(self, offset: int, length: int) -> bytes:
        stop = min(self.size, offset + max(0, length))
        parts = []
        while offset < stop:
            number, skip = divmod(offset, BLOCK)
            part = self._block(number)[skip : skip + stop - offset]
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def as_source(where: Path | Source, name: str | None = None) -> Source:
    """A path of this machine as a source; a source as it is."""
    if isinstance(where, Path):
        return FileSource(where, name or where.name, where.stat().st_size)
    return where


class _Raw(io.RawIOBase):
    """A source as a file that can be read and sought."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._source.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def as_file(source: Source, buffer: int = 1 << 20) -> BinaryIO:
    """A source as a buffered binary file; a real one where it is one."""
    if isinstance(source, FileSource):
        return source.path.open("rb")
    return io.BufferedReader(cast(io.RawIOBase, _Raw(source)), buffer)
