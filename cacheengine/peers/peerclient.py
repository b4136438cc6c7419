"""Asks one peer for members of a pack: connections that are kept, and a time limit over the whole of an answer.

A peer may be broken or hostile: heads are bounded, an answer has the length that was asked for or is none, and bytes that trickle end
it at the time limit. Who is patient waits on, up to PATIENT times as long, while bytes come and it is our own link that is slow
(fetching/pace.py).
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cacheengine.fetching import pace
from cacheengine.packs.have import Heads, Ints
from cacheengine.peers import peerwire

CONNECT_S = 2.0
PATIENT = 32
KEPT = 4
CHUNK = 1 << 20
IDLE_S = 30.0  # below the server's, so that it is not closed under our hands

Head = tuple[int, dict[str, str], bytes]  # status, headers in small letters, what of the body came along
Sink = Callable[[memoryview], None]
NOTHING = memoryview(b"")
Kind = Literal["sent", "coming", "absent", "busy", "refused", "slow", "broken"]


@dataclass(frozen=True)
class Answer:
    """sent: data holds the spans. progress: of what is coming. slow: its bytes did not come in time. why: of what is slow or broken."""

    kind: Kind
    data: memoryview = NOTHING
    progress: int = 0
    why: str = ""


class _Broken(Exception):
    """What the peer did is no answer."""


class _TooSlow(_Broken):
    """The time is over."""


@dataclass
class _Waiting:
    """For the bytes of an answer, since `began`. end: until when; latest: however often it is put off. came: bytes so far; before: as
    `end` was last set."""

    sender: str
    is_patient: Callable[[], bool]
    began: float
    end: float
    latest: float
    received: Callable[[int], None] = lambda count: None
    came: int = 0
    before: int = 0


@dataclass
class Connections:
    """Kept connections by address, newest last, with the time they were last used."""

    tls: ssl.SSLContext | None = None
    idle: dict[str, list[tuple[socket.socket, float]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, address: str, end: float) -> tuple[socket.socket, bool]:
        """(a connection, whether it is a kept one). Raises OSError."""
        with self.lock:
            kept = self.idle.get(address, [])
            while kept:
                found, used = kept.pop()
                if time.monotonic() - used < IDLE_S:
                    return found, True
                found.close()
        return self.fresh(address, end), False

    def fresh(self, address: str, end: float) -> socket.socket:
        host, _, port = address.rpartition(":")
        left = max(0.01, min(CONNECT_S, end - time.monotonic()))
        made = socket.create_connection((host.strip("[]"), int(port)), timeout=left)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return made if self.tls is None else self.tls.wrap_socket(made)
        except BaseException:
            made.close()
            raise

    def keep(self, address: str, connection: socket.socket) -> None:
        with self.lock:
            kept = self.idle.setdefault(address, [])
            if len(kept) < KEPT:
                kept.append((connection, time.monotonic()))
                return
        connection.close()


def ask(
    connections: Connections,
    address: str,
    secret: str | None,
    pack: str,
    size: int,
    members: tuple[Ints, Ints, Heads],
    wait_s: int = 0,
    most_s: float = 3600.0,
    sink: Sink | None = None,
    is_patient: Callable[[], bool] = lambda: False,
    received: Callable[[int], None] = lambda count: None,
) -> Answer:
    """The spans of these members from the peer at `address` (HOST:PORT). What the peer does wrong is `broken`.

    wait_s: how long the peer may wait for what is coming. most_s: for all of it, besides wait_s. sink: takes the bytes as they come,
    instead of the answer's data, each piece in memory of its own; what it raises is raised. is_patient: asked when the time is over;
    whether to wait on where it is our own link that is slow. received: hears of bytes as they come.
    """
    spans = peerwire.spans(members[0], members[1])
    total = int((spans[:, 1] - spans[:, 0]).sum())
    end = time.monotonic() + wait_s + min(most_s, pace.limit_s(total))
    body = peerwire.encode(*members)
    heading = (
        f"POST /v1/packs/{pack} HTTP/1.1\r\nX-Outlap-Size: {size}\r\nX-Outlap-Wait: {wait_s}\r\n"
        + (f"Authorization: Bearer {secret}\r\n" if secret else "")
        + f"Content-Length: {len(body)}\r\n\r\n"
    )
    message = heading.encode() + body
    try:
        connection, is_kept = connections.take(address, end)
        try:
            head = _send(connection, message, end)
        except (OSError, _Broken):
            connection.close()
            if not is_kept:
                raise
            # the peer may have closed it while nobody looked
            connection = connections.fresh(address, end)
            head = _send(connection, message, end)
        latest = end + (PATIENT - 1) * pace.limit_s(total)
        waiting = _Waiting(address, is_patient, time.monotonic(), end, latest, received)
        try:
            with pace.sending(pace.SENDERS, address, lambda: waiting.came):
                return _receive(connections, address, connection, head, total, waiting, sink)
        except (TimeoutError, _TooSlow):
            connection.close()
            return Answer("slow", why="its bytes come too slowly")
        except BaseException:
            connection.close()
            raise
    except (OSError, _Broken, ValueError) as error:
        return Answer("broken", why=str(error) or type(error).__name__)


def _send(connection: socket.socket, message: bytes, end: float) -> Head:
    _limit(connection, end)
    connection.sendall(message)
    return _read_head(connection, end)


def _receive(
    connections: Connections,
    address: str,
    connection: socket.socket,
    head: Head,
    total: int,
    waiting: _Waiting,
    sink: Sink | None,
) -> Answer:
    status, headers, rest = head
    length = headers.get("content-length", "")
    kinds: dict[int, Kind] = {202: "coming", 404: "absent", 503: "busy", 401: "refused"}
    if status == 200:
        if length != str(total):
            raise _Broken(f"it sends {length[:20]!r} bytes where {total} were asked for")
        data = NOTHING
        if sink is None:
            data = _read_exactly(connection, rest, total, waiting)
        else:
            _pour(connection, rest, total, waiting, sink)
        connections.keep(address, connection)
        return Answer("sent", data)
    if status not in kinds or length != "0" or rest:
        raise _Broken(f"its answer is HTTP {status}")
    if status == 401:
        connection.close()
    else:
        connections.keep(address, connection)
    progress = headers.get("x-outlap-progress", "0")
    return Answer(kinds[status], progress=int(progress) if progress.isdecimal() and len(progress) < 20 else 0)


def _limit(connection: socket.socket, end: float) -> None:
    left = end - time.monotonic()
    if left <= 0:
        raise _TooSlow("it is too slow")
    connection.settimeout(left)


def _read_head(connection: socket.socket, end: float) -> Head:
    data = b""
    while b"\r\n\r\n" not in data:
        _limit(connection, end)
        part = connection.recv(peerwire.MOST_HEAD)
        data += part
        if not part or (len(data) > 2 * peerwire.MOST_HEAD and b"\r\n\r\n" not in data):
            raise _Broken("it ends, or says, what is no answer")
    head, _, rest = data.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    version, _, after = line.partition(" ")
    if version != "HTTP/1.1" or not after[:3].isdecimal():
        raise _Broken("it does not speak our language")
    pairs = [each.partition(":") for each in lines]
    return int(after[:3]), {name.strip().lower(): value.strip() for name, _, value in pairs}, rest


def _take(connection: socket.socket, into: memoryview, waiting: _Waiting) -> int:
    """What came, at least a byte; 0: it ended. Raises _TooSlow."""
    while True:
        with suppress(TimeoutError, _TooSlow):
            _limit(connection, waiting.end)
            got = connection.recv_into(into)
            waiting.came += got
            waiting.received(got)
            return got
        now = time.monotonic()
        if waiting.came == waiting.before or now >= waiting.latest or not waiting.is_patient():
            raise _TooSlow("it is too slow")
        if pace.is_to_blame(pace.SENDERS, waiting.sender, waiting.came, waiting.began, now):
            raise _TooSlow("it is far slower than others")
        waiting.end, waiting.before = min(now + pace.ANSWER_S, waiting.latest), waiting.came


def _read_exactly(connection: socket.socket, rest: bytes, total: int, waiting: _Waiting) -> memoryview:
    if len(rest) > total:
        raise _Broken("it sends more than it said")
    data = np.empty(total, np.uint8).data  # not cleared first, as a bytearray is
    data[: len(rest)] = rest
    waiting.came = len(rest)
    while waiting.came < total:
        if not _take(connection, data[waiting.came :], waiting):
            raise _Broken(f"it ended after {waiting.came} of {total} bytes")
    return data


def _pour(connection: socket.socket, rest: bytes, total: int, waiting: _Waiting, sink: Sink) -> None:
    if len(rest) > total:
        raise _Broken("it sends more than it said")
    if rest:
        sink(memoryview(rest))
    waiting.came = len(rest)
    while waiting.came < total:
        # memory of its own for each piece, not cleared first: the sink keeps it
        piece, filled = np.empty(min(CHUNK, total - waiting.came), np.uint8).data, 0
        while filled < len(piece):
            got = _take(connection, piece[filled:], waiting)
            if not got:
                raise _Broken(f"it ended after {waiting.came} of {total} bytes")
            filled += got
        sink(piece)
