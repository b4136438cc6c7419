"""ROS 1 bags, format 2.0 (http://wiki.ros.org/Bags/Format/2.0): chunks of messages, packed with bz2 or lz4 or not at all.

The index at the end is not used: one pass over the chunks finds the messages of a bag that was never closed, too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from transforms.errors import Unreadable
from transforms.recordings import Kind, Problem
from transforms.recordings.log import MAX_CHUNK, ChunkCache, Message, Topic
from transforms.recordings.source import Source
from transforms.recordings.unpack import BadPacking, unpack

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG, CHUNK, CONNECTION = 2, 3, 5, 7
LENGTH = struct.Struct("<I")
MAX_HEADER = 1 << 20
MOST_PROBLEMS = 20


def _fields(header: bytes | memoryview) -> dict[str, bytes]:
    """`name=value` pairs, each after its length. Raises ValueError."""
    found, at = {}, 0
    while at < len(header):
        (size,) = LENGTH.unpack_from(header, at)
        pair = bytes(header[at + 4 : at + 4 + size])
        name, equals, value = pair.partition(b"=")
        if len(pair) != size or not equals:
            raise ValueError("a field of its header is broken")
        found[name.decode("latin-1")] = value
        at += 4 + size
    return found


def _number(fields: dict[str, bytes], name: str) -> int:
    if name not in fields:
        raise ValueError(f"its header has no {name}")
    return int.from_bytes(fields[name], "little")


@dataclass
class BagLog:
    """One file. counted: messages that were found; told: messages by the index that follows each chunk."""

    source: Source
    problems: list[Problem] = field(default_factory=list)
    counted: int = 0
    _index: int = 0
    _topics: dict[int, Topic] = field(default_factory=dict)
    _chunks: ChunkCache = field(default_factory=ChunkCache)

    def _problem(self, kind: Kind, evidence: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(kind, evidence))

    def _lengths(self, at: int) -> tuple[int, dict[str, bytes], int, int] | None:
        """(op, header, where its data lies, size of the data); None at a cut. Raises ValueError."""
        first = self.source.read(at, 4)
        if len(first) < 4:
            return None
        (size,) = LENGTH.unpack(first)
        if size > MAX_HEADER:
            raise ValueError(f"a header of {size} bytes")
        header = self.source.read(at + 4, size + 4)
        if len(header) < size + 4:
            return None
        fields = _fields(header[:size])
        (length,) = LENGTH.unpack_from(header, size)
        return _number(fields, "op"), fields, at + 8 + size, length

    def messages(self) -> Iterator[Message]:
        """Every message, in the order of the file. Raises Unreadable for what is no bag of format 2.0."""
        if self.source.read(0, len(MAGIC)) != MAGIC:
            raise Unreadable(self.source.name, "it does not begin as a ROS 1 bag of format 2.0 does")
        at = len(MAGIC)
        while at < self.source.size:
            try:
                found = self._lengths(at)
            except (ValueError, struct.error) as error:
                self._problem("container", f"the record at byte {at}: {error}")
                return
            if found is None or found[2] + found[3] > self.source.size:
                lost = self.source.size - at
                self._problem("partial", f"it ends inside the record at byte {at}: {lost} bytes are lost")
                return
            op, fields, body, size = found
            try:
                yield from self._record(op, fields, at, body, size)
            except (BadPacking, ValueError, struct.error) as error:
                self._problem("container", f"the record at byte {at}: {error}")
            at = body + size
        if at < self._index:
            self._problem("partial", f"it ends at byte {at}, its index should begin at byte {self._index}")

    def _record(self, op: int, fields: dict[str, bytes], at: int, body: int, size: int) -> Iterator[Message]:
        if op == BAG:
            self._index = _number(fields, "index_pos")
            if self._index == 0:
                self._problem("partial", "it was never closed: it has no index")
        elif op == CONNECTION:
            self._connection(fields, self.source.read(body, min(size, MAX_HEADER)))
        elif op == MESSAGE and size <= MAX_CHUNK:
            yield from self._message(fields, memoryview(self.source.read(body, size)), -1, body)
        elif op == CHUNK:
            records = memoryview(self._open_chunk(fields, body, size))
            inside = 0
            while inside < len(records):
                (length,) = LENGTH.unpack_from(records, inside)
                header = _fields(records[inside + 4 : inside + 4 + length])
                (data,) = LENGTH.unpack_from(records, inside + 4 + length)
                place = inside + 8 + length
                if place + data > len(records):
                    raise ValueError(f"a record at {inside} of the chunk is longer than it")
                kind = _number(header, "op")
                if kind == CONNECTION:
                    self._connection(header, bytes(records[place : place + data]))
                elif kind == MESSAGE:
                    yield from self._message(header, records[place : place + data], at, place)
                inside = place + data

    def _connection(self, header: dict[str, bytes], data: bytes) -> None:
        more = _fields(data)
        name = header.get("topic", more.get("topic", b"")).decode("utf-8", "replace")
        topic = Topic(name, "ros1", more.get("type", b"").decode("utf-8", "replace"))
        if self._topics.setdefault(_number(header, "conn"), topic) != topic:
            raise ValueError(f"connection {_number(header, 'conn')} is defined twice, and differently")

    def _message(self, header: dict[str, bytes], data: memoryview, chunk: int, at: int) -> Iterator[Message]:
        conn = _number(header, "conn")
        if len(header.get("time", b"")) != 8:
            raise ValueError("a message has no time")
        seconds, nanoseconds = struct.unpack("<II", header["time"])
        self.counted += 1
        if conn not in self._topics:
            raise ValueError(f"a message of connection {conn}, which nobody named")
        yield Message(self._topics[conn], seconds * 1_000_000_000 + nanoseconds, chunk, at, data)

    def _open_chunk(self, fields: dict[str, bytes], body: int, size: int) -> bytes:
        whole = _number(fields, "size")
        if max(whole, size) > MAX_CHUNK:
            raise ValueError(f"a chunk of {whole} bytes: too many for memory")
        how = fields.get("compression", b"none").decode("latin-1")
        return unpack(self.source.read(body, size), how, whole)

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
            found = self._lengths(chunk)
            if found is None:
                raise ValueError("it is not there")
            return self._open_chunk(found[1], found[2], found[3])
        except (BadPacking, ValueError, struct.error) as error:
            raise Unreadable(self.source.name, f"the chunk at byte {chunk} has changed: {error}") from error
