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
    rows = np.empty((len(offset), 3), "<u8")
    rows[:, 0], rows[:, 1], rows[:, 2] = offset, length, head
    return rows.tobytes()


def decode(body: bytes, size: int) -> tuple[Ints, Ints, Heads] | None:
    """(offset, length, head); None for anything but members inside a pack of this size, in ascending order."""
    if not body or len(body) % 24 or len(body) > 24 * MOST_MEMBERS:
        return None
    rows = np.frombuffer(body, "<i8").reshape(-1, 3)
    offset, length, head = rows.T.copy()
    # what is above the largest signed number is below 0 here
    wrong = (offset < 0) | (length < 0) | (length > size - offset)
    wrong[1:] |= offset[1:] < offset[:-1]
    if np.count_nonzero(wrong):
        return None
    return offset, length, head.view(np.uint64)


def spans(offset: Ints, length: Ints) -> npt.NDArray[np.int64]:
    """(n, 2) start and end of the bytes that hold the members: near ones together."""
    if not len(offset):
        return np.empty((0, 2), np.int64)
    reach = np.maximum.accumulate(offset + length)
    (last,) = (offset[1:] - reach[:-1] > GAP).nonzero()  # rows that a span ends with, without the last
    made = np.empty((len(last) + 1, 2), np.int64)
    made[0, 0], made[1:, 0] = offset[0], offset[last + 1]
    made[:-1, 1], made[-1, 1] = reach[last], reach[-1]
    return made
