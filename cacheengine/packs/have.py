"""Have records: which members of a pack are resident on this node, checked and on disk.

A member's key is (offset, size, first 8 bytes of its content id): the pack's id fixes the bytes at an offset, and the content id
in the key keeps a wrong location from passing for a checked one. The record is written after the bytes it speaks of were
synced; anything unexpected in it means that nothing is resident, and the bytes are fetched again.

File: `OUTLAPH1`, then little endian u64 epoch, u64 size of the pack, u64 count, then count × (i64 offset, i64 size, u64 head) as three
columns, then the BLAKE3 (32 bytes) of all before it. The epoch grows when bytes are taken away: whoever wrote before cannot mark after.
"""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from cacheengine import crashpoints, metrics

Ints = npt.NDArray[np.int64]
Heads = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

MAGIC = b"OUTLAPH1"
_HEADER = struct.Struct("<8sQQQ")
_SUM = 32


@dataclass(frozen=True)
class Have:
    """Resident members: offset, size in bytes, head; of one length, ascending by offset, each offset once."""

    offset: Ints
    size: Ints
    head: Heads
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.offset)


def make(offset: Any, size: Any, head: Any, epoch: int = 0) -> Have:
    """A record of these members in any order; of several at one offset the last counts."""
    offsets = np.asarray(offset, np.int64)[::-1]
    unique, at = np.unique(offsets, return_index=True)
    sizes, heads = np.asarray(size, np.int64)[::-1], np.asarray(head, np.uint64)[::-1]
    return Have(unique, sizes[at], heads[at], epoch)


NOTHING = make([], [], [])


def contains(have: Have, offset: Ints, size: Ints, head: Heads) -> Mask:
    """For each of these members, whether it is resident."""
    if not len(have):
        return np.zeros(len(offset), np.bool_)
    at = np.minimum(np.searchsorted(have.offset, offset), len(have) - 1)
    found: Mask = (have.offset[at] == offset) & (have.size[at] == size) & (have.head[at] == head)
    return found


def union(one: Have, other: Have) -> Have:
    """Members of both; keeps the epoch of the first, and at one offset the member of the other."""
    return make(
        np.concatenate([one.offset, other.offset]),
        np.concatenate([one.size, other.size]),
        np.concatenate([one.head, other.head]),
        one.epoch,
    )


def common(one: Have, other: Have) -> Have:
    """Members of the first that the second has too."""
    keep = contains(other, one.offset, one.size, one.head)
    return Have(one.offset[keep], one.size[keep], one.head[keep], one.epoch)


def encode(have: Have, pack_size: int) -> bytes:
    body = b"".join(
        (
            _HEADER.pack(MAGIC, have.epoch, pack_size, len(have)),
            have.offset.astype("<i8").tobytes(),
            have.size.astype("<i8").tobytes(),
            have.head.astype("<u8").tobytes(),
        )
    )
    return body + blake3(body).digest()


def decode(data: bytes, pack_size: int | None = None) -> Have | None:
    """None for anything but a whole record of a pack of this size (any size when None)."""
    if len(data) < _HEADER.size + _SUM or blake3(data[:-_SUM]).digest() != data[-_SUM:]:
        return None
    magic, epoch, size, count = _HEADER.unpack_from(data)
    if magic != MAGIC or (pack_size is not None and size != pack_size):
        return None
    if len(data) != _HEADER.size + 24 * count + _SUM:
        return None
    columns = [
        np.frombuffer(data, kind, count, _HEADER.size + 8 * count * place)
        for place, kind in enumerate(("<i8", "<i8", "<u8"))
    ]
    offset, length, head = columns
    ends_inside = (offset >= 0) & (length >= 0) & (offset <= size - length)
    if not ends_inside.all() or (np.diff(offset) <= 0).any():
        return None
    return Have(offset.astype(np.int64), length.astype(np.int64), head.astype(np.uint64), epoch)


def load(path: Path, pack_size: int | None = None) -> Have:
    """The record; NOTHING when there is none or it is damaged (counted, and its bytes are fetched again).

    A damaged one keeps its epoch, as `read_epoch` gives it: what is fetched again can then be marked.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return NOTHING
    except OSError:
        metrics.have_damaged.inc()
        return NOTHING
    found = decode(data, pack_size)
    if found is None:
        metrics.have_damaged.inc()
        return Have(NOTHING.offset, NOTHING.size, NOTHING.head, _epoch_of(data))
    return found


def save(path: Path, have: Have, pack_size: int) -> None:
    """Replace the record, atomically and durably. The bytes that it speaks of must be synced before."""
    write_durably(path, encode(have, pack_size))


def begin(path: Path, epoch: int, pack_size: int) -> None:
    """Make an empty record, in place of one that speaks of another file; the epoch is for processes, so it need not be durable."""
    path.unlink(missing_ok=True)
    path.write_bytes(encode(Have(NOTHING.offset, NOTHING.size, NOTHING.head, epoch), pack_size))


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file so that after a crash it is the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        crashpoints.reach("record.written")
        temporary.replace(path)
        crashpoints.reach("record.replaced")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_epoch(path: Path | str) -> int:
    """The epoch alone, without checking the rest; 0 when there is no record."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        head = os.pread(fd, _HEADER.size, 0)
    finally:
        os.close(fd)
    return _epoch_of(head)


def _epoch_of(data: bytes) -> int:
    if len(data) < _HEADER.size:
        return 0
    magic, epoch, _, _ = _HEADER.unpack_from(data)
    return int(epoch) if magic == MAGIC else 0
