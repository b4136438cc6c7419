"""The modification time that a file shows in a view: a pure function of its content id.

rsync, make and caches compare size and time in whole seconds. A constant time would hide from them that the content of a path
changed between two versions, so files of different content get different times. The range ends in the past, because make warns of
files from the future, and begins where zip begins.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

EARLIEST_S = 315_532_800  # 1980-01-01
SPAN_S = 1_262_304_000  # up to 2020-01-01
DIGITS = 8

Seconds = npt.NDArray[np.uint32]


def content_times(content_ids: pa.Array | pa.ChunkedArray) -> Seconds:
    """Compute the modification times of files from their content ids.

    Two contents share a time with probability 1 / SPAN_S.

    Args:
        content_ids: Strings of at least 8 hexadecimal digits, without nulls, of length n.

    Returns:
        Seconds since 1970-01-01 UTC, shape (n,), uint32.

    Raises:
        ValueError: a content id does not begin with 8 hexadecimal digits.
    """
    if isinstance(content_ids, pa.ChunkedArray):
        content_ids = content_ids.combine_chunks()
    if not len(content_ids):
        return np.zeros(0, np.uint32)
    heads = pc.binary_slice(content_ids.cast(pa.binary()), 0, DIGITS)
    offsets = np.frombuffer(heads.buffers()[1], np.int32)[heads.offset : heads.offset + len(heads) + 1]
    if heads.null_count or (np.diff(offsets) != DIGITS).any():
        raise ValueError(f"a content id has fewer than {DIGITS} digits")
    text = bytes(memoryview(heads.buffers()[2])[int(offsets[0]) : int(offsets[-1])])
    numbers = np.frombuffer(bytes.fromhex(text.decode("ascii")), ">u4")
    return EARLIEST_S + (numbers % np.uint32(SPAN_S)).astype(np.uint32)
