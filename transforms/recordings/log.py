"""Logs: containers of timed messages of many topics (MCAP, ROS 1 and ROS 2 bags), as one shape.

A log is read once from front to back, which finds every message and checks every byte; after that single payloads are read by
their place. No more than a few chunks are ever in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from transforms.recordings import Problem

# A chunk of a recorder has 1 to 16 MiB; what claims to be larger than this is damage, or wants our memory.
MAX_CHUNK = 512 << 20
CACHED_BYTES = 128 << 20


@dataclass(frozen=True)
class Topic:
    """encoding: of the payloads (cdr, ros1, protobuf, json); schema: the type's name as it stands in the log."""

    name: str
    encoding: str
    schema: str


class Message(NamedTuple):
    """chunk, offset: the place that `Log.payload` wants; log_time_ns: when it was written; payload: valid until the next."""

    topic: Topic
    log_time_ns: int
    chunk: int
    offset: int
    payload: memoryview


class Log(Protocol):
    """problems: what was met, complete once `messages` has ended. Raises Unreadable when nothing of it can be read."""

    @property
    def problems(self) -> list[Problem]: ...

    def messages(self) -> Iterator[Message]: ...

    def payload(self, chunk: int, offset: int, size: int) -> bytes:
        """One message again. Raises Unreadable."""
        ...


@dataclass
class ChunkCache:
    """The chunks that were opened last, at most CACHED_BYTES of them (but always one)."""

    _kept: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, chunk: int, open_chunk: Callable[[int], bytes]) -> bytes:
        with self._lock:
            if chunk in self._kept:
                self._kept.move_to_end(chunk)
                return self._kept[chunk]
        data = open_chunk(chunk)
        with self._lock:
            self._kept[chunk] = data
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > CACHED_BYTES:
                self._kept.popitem(last=False)
        return data
