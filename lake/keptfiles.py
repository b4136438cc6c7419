"""Local copies of objects that never change, read again by the next version: parts and locations, refs as they were.

A copy is named by its key (parts and locations have the hash of their rows in it) or by key and etag (refs). It may be deleted at any
time; a folder holds LIMIT bytes at most, what was used last stays.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from lake.canonical import blake3_hex

LIMIT = 2 << 30
SUFFIX = ".kept"


def _path(folder: Path, name: str) -> Path:
    digest = blake3_hex(name.encode())
    return folder / digest[:2] / f"{digest[2:34]}{SUFFIX}"


def read(folder: Path, name: str) -> bytes | None:
    """The copy, None when there is none."""
    path = _path(folder, name)
    try:
        data = path.read_bytes()
        os.utime(path)  # last used: what make_room goes by
    except OSError:
        return None
    return data


def keep(folder: Path, name: str, data: bytes) -> None:
    """Keep a copy, if the disk takes it: without one it is read again, no more."""
    path = _path(folder, name)
    partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.rename(path)


def forget(folder: Path, name: str) -> None:
    """Remove a copy."""
    with suppress(OSError):
        _path(folder, name).unlink()


def make_room(folder: Path, limit: int = LIMIT) -> None:
    """Remove the copies that were not used for longest until the others have `limit` bytes at most."""
    found = []
    for path in folder.glob(f"*/*{SUFFIX}"):
        with suppress(FileNotFoundError):  # another process made room too
            state = path.stat()
            found.append((state.st_mtime_ns, state.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        with suppress(OSError):
            path.unlink()
        total -= size
