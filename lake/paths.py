"""Paths of a version, by the column: which are legal, which clash, and the hash that cuts parts.

A path is UTF-8, relative, plain (`a//b`, `./a`, `a/../b` and a slash at an end are refused) and has names of 1 to 255 bytes.
Unicode forms are taken as they are: two names that only look alike are two names, as in a file system.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake.errors import Refused

MAX_NAME = 255
MAX_PATH = 4000
SLASH, DOT = ord("/"), ord(".")
ROWS_AT_ONCE = 4096
UInt64 = npt.NDArray[np.uint64]


def text_bytes(column: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Lengths of each string in bytes (n), and all bytes joined."""
    array = pc.fill_null(column, "").cast(pa.large_binary())
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.large_binary())
    if not len(array):
        return np.zeros(0, np.int64), np.zeros(0, np.uint8)
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    data = array.buffers()[2]
    joined = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
    return np.diff(offsets), joined[offsets[0] : offsets[-1]]


def path_hashes(paths: Any) -> UInt64:
    """A 64-bit hash of each path: sum of (byte + 1) * K**(place + 1) mod 2**64, then the mixer of splitmix64."""
    lengths, joined = text_bytes(paths)
    starts = np.cumsum(lengths) - lengths
    hashes = np.zeros(len(lengths), np.uint64)
    powers = np.cumprod(np.full(int(lengths.max(initial=1)), 0x9E3779B97F4A7C15, np.uint64), dtype=np.uint64)
    # paths of one length are a matrix: most data sets have only a few lengths
    by_length = np.argsort(lengths, kind="stable")
    groups = np.split(by_length, np.flatnonzero(np.diff(lengths[by_length])) + 1)
    for rows in groups if len(lengths) else ():
        length = int(lengths[rows[0]])
        weights = powers[:length]
        for first in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[first : first + ROWS_AT_ONCE]
            matrix = joined[starts[some][:, None] + np.arange(length)]
            hashes[some] = matrix.astype(np.uint64) @ weights + weights.sum(dtype=np.uint64)
    hashes ^= hashes >> np.uint64(30)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _suspects(lengths: npt.NDArray[np.int64], joined: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Rows that may have a bad path: every bad one is among them. No regular expression over all bytes."""
    starts = np.cumsum(lengths) - lengths
    full = np.flatnonzero(lengths)
    firsts, lasts = joined[starts[full]], joined[starts[full] + lengths[full] - 1]
    found = [
        np.flatnonzero((lengths == 0) | (lengths > MAX_NAME)),
        full[(firsts == SLASH) | (firsts == DOT) | (lasts == SLASH)],
    ]
    before, after = joined[:-1], joined[1:]
    odd = np.flatnonzero((before == SLASH) & ((after == SLASH) | (after == DOT)))
    odd = np.concatenate([odd, np.flatnonzero(joined == 0)])
    found.append(np.searchsorted(starts, odd, side="right") - 1)
    return np.unique(np.concatenate(found))


def _problem(path: str) -> str | None:
    names = path.split("/")
    if not path or "\0" in path or any(name in ("", ".", "..") for name in names):
        return "it is no plain relative path"
    raw = path.encode()
    if len(raw) > MAX_PATH:
        return f"it has {len(raw)} bytes, {MAX_PATH} are possible"
    longest = max(len(name) for name in raw.split(b"/"))
    return f"a name in it has {longest} bytes, {MAX_NAME} are possible" if longest > MAX_NAME else None


def check_utf8(column: Any, what: str) -> None:
    """Every string is UTF-8 (Arrow does not look when it reads). Raises Refused, naming the row."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        for row, raw in enumerate(column.cast(pa.large_binary()).to_pylist()):
            try:
                (raw or b"").decode()
            except UnicodeDecodeError as error:
                raise Refused(f"{what}: row {row}, {raw[:200]!r}", "it is not UTF-8") from error
        raise


def check_paths(paths: Any, what: str) -> None:
    """Every path is legal and after the one before, by bytes. Raises Refused, naming row and path."""
    if not len(paths):
        return
    if paths.null_count:
        raise Refused(f"{what}: row {pc.index(pc.is_null(paths), True).as_py()}", "it has no path")
    check_utf8(paths, what)
    for row in _suspects(*text_bytes(paths)).tolist():
        problem = _problem(paths[row].as_py())
        if problem is not None:
            raise Refused(f"{what}: row {row}, the path {paths[row].as_py()[:200]!r}", problem)
    ascending = pc.less(paths[:-1], paths[1:])
    if len(paths) > 1 and not pc.all(ascending).as_py():
        place = pc.index(ascending, False).as_py()
        raise Refused(
            f"{what}: row {place + 1}, the path {paths[place + 1].as_py()!r}",
            f"it does not come after {paths[place].as_py()!r}: a path stands twice, or the rows are not sorted",
            "let the query give each path once (for example one recipe), ordered by path",
        )


def folders_of(paths: Any) -> set[str]:
    """All folders above the paths."""
    found: set[str] = set()
    nested = pc.filter(paths, pc.match_substring(paths, "/"))
    level = pc.unique(pc.list_element(pc.split_pattern(nested, "/", max_splits=1, reverse=True), 0))
    names = set(level.to_pylist())
    while names:
        found |= names
        names = {name.rpartition("/")[0] for name in names} - {""} - found
    return found


def check_folders(paths: Any, above: set[str], what: str) -> set[str]:
    """No path is both a file and a folder. `above`: earlier files that may be; what to pass with the next part."""
    folders = folders_of(paths)
    both = folders & above
    both |= set(pc.filter(paths, pc.is_in(paths, pa.array(sorted(folders), pa.string()))).to_pylist())
    if both:
        raise Refused(f"{what}: the path {min(both)!r}", "it is a file and a folder", "rename one of them")
    # Only an earlier file whose name begins the last path can still become a folder: rows are sorted.
    last = paths[len(paths) - 1].as_py()
    prefixes = [last[:end] for end in range(1, len(last) + 1)]
    here = set(pc.filter(paths, pc.is_in(paths, pa.array(prefixes, pa.string()))).to_pylist())
    return here | (above & set(prefixes))
