"""What peers say to each other: one POST asks for members of one pack, one answer carries their bytes.

    POST /v1/packs/<pack id>      X-Outlap-Size: size of the pack, X-Outlap-Wait: seconds to wait for what is coming
    body: for each member three little endian 64-bit numbers: offset, length, head (first 8 bytes of its content id), ascending

    200   the spans that hold the members, one after the other (`spans` says which: both sides compute them)
    202   not resident yet, but the node is fetching it; X-Outlap-Progress grows while it does
    404   not resident, and not coming          503   busy: later, or elsewhere          401   no token, or a wrong one

The answer says nothing that is believed: the receiver hashes every member.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cacheengine.packs.have import Heads, Ints

GAP = 16 << 10  # a header between two members is sent along: one system call instead of two
MOST_MEMBERS = 40_000
MOST_HEAD = 8 << 10
MOST_WAIT_S = 20.0


def encode(offset: Ints, length: Ints, head: Heads) -> bytes:
    return np.stack([offset.view("<u8"), length.view("<u8"), head.view("<u8")], axis=1).tobytes()


def decode(body: bytes, size: int) -> tuple[Ints, Ints, Heads] | None:
    """(offset, length, head); None for anything but members inside a pack of this size, in ascending order."""
    if not body or len(body) % 24 or len(body) > 24 * MOST_MEMBERS:
        return None
    rows = np.frombuffer(body, "<u8").reshape(-1, 3)
    offset, length = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
    inside = (offset >= 0) & (length >= 0) & (offset <= size) & (length <= size - offset)
    if not inside.all() or (np.diff(offset) < 0).any():
        return None
    return offset, length, rows[:, 2].astype(np.uint64)


def spans(offset: Ints, length: Ints) -> npt.NDArray[np.int64]:
    """(n, 2) start and end of the bytes that hold the members: near ones together."""
    if not len(offset):
        return np.empty((0, 2), np.int64)
    reach = np.maximum.accumulate(offset + length)
    new = np.flatnonzero(np.append(True, offset[1:] - reach[:-1] > GAP))
    ends = reach[np.append(new[1:], len(offset)) - 1]
    return np.stack([offset[new], ends], axis=1)
