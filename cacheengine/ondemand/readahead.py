"""What to fetch before it is asked for: readers that go along a pack are followed, a few of them at once."""

from __future__ import annotations

from dataclasses import dataclass, field

AHEAD = 16 << 20  # bytes ahead of a reader
SLACK = 2 << 20  # the kernel's own read-ahead comes in pieces, not quite in order
AFTER = 3  # reads in a row before a reader is believed
FOLLOWED = 4


@dataclass
class Stream:
    """A reader: the end of what it read, how many reads in a row, and up to where was fetched ahead of it."""

    end: int
    reads: int
    ahead: int


@dataclass
class Streams:
    """Readers of one pack, the newest last. The caller holds a lock."""

    known: list[Stream] = field(default_factory=list)


def follow(streams: Streams, offset: int, length: int, size: int) -> tuple[int, int] | None:
    """Note a read; (start, end) of bytes to fetch ahead now, None when there is nothing to. size: of the whole pack."""
    stream = next((s for s in streams.known if -SLACK <= offset - s.end <= SLACK), None)
    if stream is None:
        stream = Stream(offset + length, 0, 0)
        del streams.known[: max(0, len(streams.known) - FOLLOWED + 1)]
    else:
        streams.known.remove(stream)
    streams.known.append(stream)
    if offset + length > stream.end or not stream.reads:  # the same again is no step along the pack
        stream.reads, stream.end = stream.reads + 1, max(stream.end, offset + length)
    target = min(size, stream.end + AHEAD)
    start = max(stream.end, stream.ahead)
    if stream.reads < AFTER or start >= target or (stream.ahead > stream.end + AHEAD // 2):
        return None
    stream.ahead = target
    return start, target
