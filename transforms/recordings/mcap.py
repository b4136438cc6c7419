"""MCAP files (https://mcap.dev/spec): our own reader, since one pass must find the messages, check every CRC and survive a cut.

The `mcap` package checks no CRC unless told, and a file that was cut off makes it fail; here everything before the cut is taken.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from transforms.errors import Unreadable
from transforms.recordings import Kind, Problem
from transforms.recordings.log import MAX_CHUNK, ChunkCache, Message, Topic
from transforms.recordings.source import Source
from transforms.recordings.unpack import BadPacking, unpack

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = 1, 2, 3, 4, 5, 6
ATTACHMENT, STATISTICS, DATA_END = 9, 11, 15
NAMES = {1: "Header", 2: "Footer", 3: "Schema", 4: "Channel", 5: "Message", 6: "Chunk", 9: "Attachment"}
RECORD = struct.Struct("<BQ")
MESSAGE_HEAD = struct.Struct("<HIQQ")
CHUNK_HEAD = struct.Struct("<QQQI")
PIECE = 16 << 20
# A damaged file could name a new problem for each of its records.
MOST_PROBLEMS = 20


def _text(data: memoryview, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<I", data, at)
    if at + 4 + size > len(data):
        raise ValueError("a text is longer than its record")
    return bytes(data[at + 4 : at + 4 + size]).decode("utf-8", "replace"), at + 4 + size


@dataclass
class McapLog:
    """One file. counted: messages that were found; whole: its footer was reached."""

    source: Source
    problems: list[Problem] = field(default_factory=list)
    counted: int = 0
    whole: bool = False
    _schemas: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    _topics: dict[int, Topic] = field(default_factory=dict)
    _sum: bool = True
    _crc: int = 0
    _chunks: ChunkCache = field(default_factory=ChunkCache)

    def _problem(self, kind: Kind, evidence: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(kind, evidence))

    def _has_data_crc(self) -> bool:
        """Whether DataEnd, before the summary or the footer, gives a CRC: most writers give none, and it costs a third."""
        tail = len(MAGIC) + 20 + RECORD.size
        footer = self.source.read(max(0, self.source.size - tail), tail)
        if len(footer) < tail or footer[-8:] != MAGIC or footer[0] != FOOTER:
            return False  # it was cut off, so DataEnd is not there or the file is told as partial anyway
        (start,) = struct.unpack_from("<Q", footer, RECORD.size)
        end = (start or self.source.size - tail) - RECORD.size - 4
        found = self.source.read(max(0, end), RECORD.size + 4)
        return len(found) < RECORD.size + 4 or found[0] != DATA_END or found[RECORD.size :] != bytes(4)

    def _add(self, data: bytes) -> None:
        if self._sum:
            self._crc = zlib.crc32(data, self._crc)

    def messages(self) -> Iterator[Message]:
        """Every message of the data section, in the order of the file. Raises Unreadable for what is no MCAP."""
        if self.source.read(0, len(MAGIC)) != MAGIC:
            raise Unreadable(self.source.name, "it does not begin as an MCAP file does")
        self._sum, self._crc = self._has_data_crc(), zlib.crc32(MAGIC)
        at = len(MAGIC)
        while not self.whole:
            head = self.source.read(at, RECORD.size)
            if len(head) < RECORD.size:
                self._problem(
                    "partial", f"it ends at byte {self.source.size}, after its last record, without a footer"
                )
                return
            kind, size = RECORD.unpack(head)
            body = at + RECORD.size
            if kind == 0:
                self._problem("container", f"at byte {at} stands a record of kind 0")
                return
            if body + size > self.source.size:
                what = NAMES.get(kind, f"record of kind {kind}")
                lost = self.source.size - at
                self._problem(
                    "partial",
                    f"it ends at byte {self.source.size}, inside a {what} of {size} bytes at byte {at}: {lost} bytes are lost",
                )
                return
            if kind == DATA_END:
                self._end(at)
                return
            yield from self._record(kind, at, body, size)
            at = body + size

    def _record(self, kind: int, at: int, body: int, size: int) -> Iterator[Message]:
        self._add(RECORD.pack(kind, size))
        if kind == ATTACHMENT:
            self._attachment(body, size)
            return
        if kind == CHUNK and size <= MAX_CHUNK:
            data = self.source.read(body, size)
            self._add(data)
            try:
                records = self._open_chunk(data, at)
            except (BadPacking, ValueError, struct.error) as error:
                self._problem(
                    "crc" if "CRC" in str(error) else "container", f"the chunk at byte {at}: {error}"
                )
                return
            yield from self._inside(records, at)
        elif kind in (SCHEMA, CHANNEL, MESSAGE, HEADER) and size <= MAX_CHUNK:
            data = self.source.read(body, size)
            self._add(data)
            yield from self._plain(kind, memoryview(data), -1, body, at)
        else:
            if kind in (CHUNK, MESSAGE):
                self._problem(
                    "container", f"the {NAMES[kind]} at byte {at} has {size} bytes: too many for memory"
                )
            self._skip(body, size)

    def _skip(self, at: int, size: int) -> int:
        """CRC of what is passed over, which also goes into that of the data section."""
        own = 0
        while size > 0:
            data = self.source.read(at, min(PIECE, size))
            if not data:
                break
            own = zlib.crc32(data, own)
            self._add(data)
            at, size = at + len(data), size - len(data)
        return own

    def _attachment(self, body: int, size: int) -> None:
        own = self._skip(body, size - 4)
        (told,) = struct.unpack("<I", self.source.read(body + size - 4, 4)) if size >= 4 else (0,)
        self._skip(body + size - 4, 4)
        if told not in (0, own):
            self._problem(
                "crc", f"the attachment at byte {body - RECORD.size} has CRC {own:08x}, it says {told:08x}"
            )

    def _open_chunk(self, data: bytes, at: int) -> bytes:
        view = memoryview(data)
        _, _, size, crc = CHUNK_HEAD.unpack_from(view)
        how, place = _text(view, CHUNK_HEAD.size)
        (packed,) = struct.unpack_from("<Q", view, place)
        if size > MAX_CHUNK or place + 8 + packed != len(view):
            raise ValueError(f"it says {size} bytes, {packed} when packed, in a record of {len(view)}")
        records = unpack(view[place + 8 :], how, size)
        if crc and zlib.crc32(records) != crc:
            raise ValueError(f"its {size} bytes have CRC {zlib.crc32(records):08x}, it says {crc:08x}")
        return records

    def _inside(self, records: bytes, chunk: int) -> Iterator[Message]:
        view, at = memoryview(records), 0
        while at < len(view):
            if at + RECORD.size > len(view):
                self._problem("container", f"the chunk at byte {chunk} ends in a piece of a record")
                return
            kind, size = RECORD.unpack_from(view, at)
            at += RECORD.size
            if at + size > len(view):
                self._problem("container", f"a record at {at} of the chunk at byte {chunk} is longer than it")
                return
            yield from self._plain(kind, view[at : at + size], chunk, at, chunk)
            at += size

    def _plain(self, kind: int, data: memoryview, chunk: int, at: int, where: int) -> Iterator[Message]:
        try:
            if kind == MESSAGE:
                channel, _, log_time, _ = MESSAGE_HEAD.unpack_from(data)
                self.counted += 1
                if channel in self._topics:
                    skip = MESSAGE_HEAD.size
                    yield Message(self._topics[channel], log_time, chunk, at + skip, data[skip:])
                else:
                    self._problem(
                        "container", f"a message at byte {where} is of channel {channel}, which nobody named"
                    )
            elif kind == SCHEMA:
                (number,) = struct.unpack_from("<H", data)
                name, after = _text(data, 2)
                self._once(self._schemas, number, (name, bytes(data[after:])), "schema")
            elif kind == CHANNEL:
                number, schema = struct.unpack_from("<HH", data)
                topic, after = _text(data, 4)
                encoding, _ = _text(data, after)
                named = self._schemas.get(schema, ("", b""))[0]
                self._once(self._topics, number, Topic(topic, encoding, named), "channel")
        except (struct.error, ValueError) as error:
            self._problem("container", f"a {NAMES[kind]} at byte {where} cannot be read: {error}")

    def _once(self, known: dict[int, Any], number: int, value: object, what: str) -> None:
        """A definition may stand again (in each chunk, in the summary), but not say something else."""
        if known.setdefault(number, value) != value:
            self._problem("container", f"{what} {number} is defined twice, and differently")

    def _end(self, at: int) -> None:
        """DataEnd, the summary and the footer: their CRCs, and whether the file counted as we did."""
        (told,) = struct.unpack("<I", self.source.read(at + RECORD.size, 4).ljust(4, b"\0"))
        if self._sum and told not in (0, self._crc):
            self._problem(
                "crc", f"the data section of {at} bytes has CRC {self._crc:08x}, it says {told:08x}"
            )
        tail = len(MAGIC) + 20 + RECORD.size
        footer = self.source.read(self.source.size - tail, tail)
        if len(footer) < tail or footer[-8:] != MAGIC or footer[0] != FOOTER:
            self._problem(
                "partial",
                f"its messages are whole, and its summary or footer at the end is not ({self.source.size} bytes)",
            )
            return
        self.whole = True
        start, _, crc = struct.unpack_from("<QQI", footer, RECORD.size)
        if start == 0:
            return
        end = self.source.size - len(MAGIC) - 4
        if not at <= start <= end or end - start > MAX_CHUNK:
            self._problem("container", f"its footer says that the summary begins at byte {start}")
            return
        summary = self.source.read(start, end - start)
        if crc and zlib.crc32(summary) != crc:
            self._problem(
                "crc", f"the summary at byte {start} has CRC {zlib.crc32(summary):08x}, it says {crc:08x}"
            )
            return
        self._statistics(summary)

    def _statistics(self, summary: bytes) -> None:
        at = 0
        while at + RECORD.size + 8 <= len(summary):
            kind, size = RECORD.unpack_from(summary, at)
            if kind == STATISTICS:
                (told,) = struct.unpack_from("<Q", summary, at + RECORD.size)
                if told != self.counted:
                    self._problem("counts", f"its statistics say {told} messages, {self.counted} are there")
                return
            at += RECORD.size + size

    def payload(self, chunk: int, offset: int, size: int) -> bytes:
        if chunk < 0:
            data = self.source.read(offset, size)
        else:
            data = self._chunks.get(chunk, self._reopen)[offset : offset + size]
        if len(data) != size:
            raise Unreadable(self.source.name, f"a message should have {size} bytes, {len(data)} are there")
        return data

    def _reopen(self, chunk: int) -> bytes:
        try:
            _, size = RECORD.unpack(self.source.read(chunk, RECORD.size))
            return self._open_chunk(self.source.read(chunk + RECORD.size, min(size, MAX_CHUNK)), chunk)
        except (BadPacking, ValueError, struct.error) as error:
            raise Unreadable(self.source.name, f"the chunk at byte {chunk} has changed: {error}") from error
