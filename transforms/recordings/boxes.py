"""The boxes of an MP4/MOV file: enough of ISO/IEC 14496-12 §4.2 to say where a file was cut off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transforms.recordings.source import Source, as_file, as_source

# A file of one-second fragments has two boxes a second; a day of them is far below.
MAX_BOXES = 1_000_000
# Types that may stand first in a file that a recorder wrote.
FIRST_BOXES = frozenset({"ftyp", "moov", "mdat", "wide", "free", "skip", "pnot", "styp", "uuid"})


@dataclass(frozen=True)
class Boxes:
    """What lies on the top level of a file.

    is_mp4: the file begins as an MP4/MOV does; has_header: a moov box is there, whole;
    end: where the last box says that it ends, bytes; size: of the file; last: type of the last box.
    """

    is_mp4: bool
    has_header: bool
    end: int
    size: int
    last: str


def read_boxes(where: Path | Source) -> Boxes:
    """Walk the top-level boxes of a file, reading their headers only."""
    source = as_source(where)
    size = source.size
    position, last, first, has_header = 0, "", "", False
    with as_file(source) as file:
        for _ in range(MAX_BOXES):
            if position >= size:
                break
            file.seek(position)
            header = file.read(16)
            if len(header) < 8:
                # a piece of a header: the box is longer than what is there
                return Boxes(first in FIRST_BOXES, has_header, position + 8, size, last)
            length = int.from_bytes(header[:4], "big")
            kind = header[4:8].decode("latin-1")
            smallest = 8
            if length == 1:  # 64-bit length follows
                length, smallest = int.from_bytes(header[8:16], "big"), 16
            elif length == 0:  # up to the end of the file
                length = size - position
            first = first or kind
            if first not in FIRST_BOXES or length < smallest:
                return Boxes(first in FIRST_BOXES, has_header, position, size, last)
            last = kind
            has_header = has_header or (kind == "moov" and position + length <= size)
            position += length
    return Boxes(first in FIRST_BOXES, has_header, position, size, last)
