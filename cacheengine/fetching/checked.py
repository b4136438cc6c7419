"""Bytes of a store or of a peer are hashed before they count: only right ones are written, or what was written is not marked."""

from __future__ import annotations

import os
from collections.abc import Sequence

from blake3 import blake3

from cacheengine.wanted import PackWant


def write_good(want: PackWant, rows: Sequence[int], data: memoryview, base: int, fd: int) -> list[int]:
    """Write those members that have their content id; the rows of the others. data: the pack's bytes from `base` on."""
    bad = []
    for row in rows:
        start = int(want.offset[row]) - base
        end = start + int(want.length[row])
        if blake3(data[start:end]).digest() == want.content_id[row].tobytes():
            write(fd, data[start:end], base + start)
        else:
            bad.append(row)
    return bad


def write(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


class Long:
    """A member too long for memory: written as it comes, and known to be right or wrong at its end."""

    def __init__(self, want: PackWant, row: int, fd: int) -> None:
        self._at, self._fd, self._digest = int(want.offset[row]), fd, blake3()
        self._wanted = want.content_id[row].tobytes()

    def write(self, data: memoryview) -> None:
        self._digest.update(data)
        write(self._fd, data, self._at)
        self._at += len(data)

    def is_right(self) -> bool:
        return bool(self._digest.digest() == self._wanted)
