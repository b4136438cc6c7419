"""Serves members of packs to peers, from disk to socket by sendfile. One thread a connection; see peerwire.py for what is said.

Only members that the `.have` record holds are served. Where bytes are taken away between the look at the record and the sending, the
receiver gets zeros and sees by the hash that they are none.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

from cacheengine import metrics
from cacheengine.packs import disks, packcache
from cacheengine.packs import have as haves
from cacheengine.packs.have import Have, Heads, Ints
from cacheengine.packs.packcache import Cache
from cacheengine.peers import peerwire
from lake.canonical import is_hash
from lake.errors import Explained

IDLE_S = 60.0
SEND_S = 20  # a receiver that takes nothing for so long is let go
LOOK_S = 0.05
CHUNK = 256 << 10
RECORDS = 256  # kept in memory, of some thousand members each

log = structlog.get_logger()


@dataclass(frozen=True)
class Served:
    """What a server serves. secret: what a peer must show; while there is none, nobody is served unless is_open (loopback only).
    coming: pack → progress of the fetch that will bring it, None when none will. streams: answers with bytes at once; connections: of
    all peers together."""

    cache: Cache
    secret: Callable[[], str | None]
    coming: Callable[[str], int | None] = lambda _: None
    streams: int = 32
    connections: int = 1024
    is_open: bool = False
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class _Request:
    pack: str
    size: int
    wait_s: float
    offset: Ints
    length: Ints
    head: Heads


class _Ended(Exception):
    """The connection is over: closed, too slow, or something that no peer says."""


class PeerServer:
    """Listens on `listener` (bound, not yet listening) until `close`."""

    def __init__(self, listener: socket.socket, served: Served) -> None:
        self._listener, self._served = listener, served
        self._slots = threading.Semaphore(served.streams)
        self._open: set[socket.socket] = set()
        self._records: dict[Path, tuple[tuple[int, int, int], Have]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        listener.listen(256)
        self._thread = threading.Thread(target=self._accept, name="peers-accept", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        # a blocked accept does not end with its socket's close
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        self._thread.join()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._closed.is_set():
                    return
                metrics.background_failures.labels("peers").inc()
                log.error("peers_accept_failed", error=str(error))
                time.sleep(0.1)  # out of descriptors: some come back
                continue
            with self._lock:
                too_many = len(self._open) >= self._served.connections
                if not too_many:
                    self._open.add(connection)
            if too_many:
                metrics.peer_answers.labels("busy").inc()
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="peers", daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        connection = raw
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(IDLE_S)
            if self._served.tls is not None:
                connection = self._served.tls.wrap_socket(raw, server_side=True)
            else:
                _block(raw)
            while not self._closed.is_set():
                self._answer(connection)
        except (_Ended, OSError) as error:  # also ssl.SSLError
            if isinstance(error, ssl.SSLError):
                metrics.peer_answers.labels("tls").inc()
        except Exception:
            metrics.background_failures.labels("peers").inc()
            log.exception("unexpected", part="peers")
        finally:
            with self._lock:
                self._open.discard(raw)
            connection.close()

    def _answer(self, connection: socket.socket) -> None:
        line, headers, rest = _read_head(connection)
        if not self._authorised(headers.get("authorization", "")):
            _say(connection, 401, "authorisation")
            raise _Ended
        request = _parse(line, headers, _read_body(connection, headers, rest))
        if request is None:
            _say(connection, 400, "malformed")
            raise _Ended
        end = time.monotonic() + request.wait_s
        while not self._send(connection, request):
            progress = self._served.coming(request.pack)
            if progress is None:
                _say(connection, 404, "absent")
                return
            if time.monotonic() >= end or self._closed.is_set():
                _say(connection, 202, "coming", f"X-Outlap-Progress: {progress}\r\n")
                return
            time.sleep(LOOK_S)

    def _authorised(self, header: str) -> bool:
        secret = self._served.secret()
        if secret is None:
            return self._served.is_open
        return secrets.compare_digest(header.encode(), f"Bearer {secret}".encode())

    def _send(self, connection: socket.socket, request: _Request) -> bool:
        """Send the members; False when not all of them are resident."""
        try:
            home = packcache.find_pack(self._served.cache, request.pack)
            if home is None:
                return False
            fd = os.open(packcache.pack_path(home, request.pack), os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, Explained):
            return False
        try:
            known = self._record(packcache.have_path(home, request.pack), request.size)
            if os.fstat(fd).st_size != request.size:
                return False
            there = haves.contains(known, request.offset, request.length, request.head)
            if np.count_nonzero(there) < len(there):
                return False
            if not self._slots.acquire(blocking=False):
                _say(connection, 503, "busy", "Retry-After: 1\r\n")
                return True
            try:
                self._send_spans(connection, fd, request)
            except OSError as error:
                if error.errno == errno.EIO:
                    disks.note(home.path, error)
                raise
            finally:
                self._slots.release()
            return True
        finally:
            os.close(fd)

    def _record(self, path: Path, size: int) -> Have:
        """The record as it is now; read again when its file is another one."""
        try:
            found = path.stat()
        except OSError:
            return haves.NOTHING
        stamp = (found.st_ino, found.st_mtime_ns, size)
        with self._lock:
            known = self._records.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        record = haves.load(path, size)
        with self._lock:
            if len(self._records) >= RECORDS:
                self._records.clear()
            self._records[path] = (stamp, record)
        return record

    def _send_spans(self, connection: socket.socket, fd: int, request: _Request) -> None:
        spans = peerwire.spans(request.offset, request.length)
        total = int((spans[:, 1] - spans[:, 0]).sum())
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n".encode()
        # whole segments, however the spans lie: what is left of the last one goes when the cork does
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        connection.sendall(head)
        for start, end in spans.tolist():
            if self._served.tls is None:
                _sendfile(connection, fd, start, end)
            else:
                for at in range(start, end, CHUNK):
                    connection.sendall(os.pread(fd, min(CHUNK, end - at), at))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        metrics.peer_answers.labels("sent").inc()
        metrics.served_bytes.inc(total)


def _block(connection: socket.socket) -> None:
    """Time limits by the kernel, so that sendfile can be called as it is."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(IDLE_S), 0))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_S, 0))


def _sendfile(connection: socket.socket, fd: int, start: int, end: int) -> None:
    out = connection.fileno()
    while start < end:
        sent = os.sendfile(out, fd, start, end - start)
        if sent == 0:
            raise _Ended  # the file was cut short
        start += sent


def _say(connection: socket.socket, status: int, what: str, headers: str = "") -> None:
    metrics.peer_answers.labels(what).inc()
    connection.sendall(f"HTTP/1.1 {status} {what}\r\n{headers}Content-Length: 0\r\n\r\n".encode())


def _read_head(connection: socket.socket) -> tuple[str, dict[str, str], bytes]:
    """(first line, headers in small letters, what of the body came along). Raises _Ended."""
    data, end = b"", time.monotonic() + IDLE_S
    while b"\r\n\r\n" not in data:
        part = connection.recv(64 << 10)
        data += part
        if not part or time.monotonic() > end or (len(data) > peerwire.MOST_HEAD and b"\r\n\r\n" not in data):
            raise _Ended
    head, _, rest = data.partition(b"\r\n\r\n")
    if len(head) > peerwire.MOST_HEAD:
        raise _Ended
    line, *lines = head.decode("latin-1").split("\r\n")
    pairs = [each.partition(":") for each in lines]
    return line, {name.strip().lower(): value.strip() for name, _, value in pairs}, rest


def _number(text: str | None, most: int) -> int:
    """Raises _Ended for what is none."""
    if text is None or not text.isdecimal() or len(text) > 20 or int(text) > most:
        raise _Ended
    return int(text)


def _read_body(connection: socket.socket, headers: dict[str, str], rest: bytes) -> bytes:
    length = _number(headers.get("content-length"), 24 * peerwire.MOST_MEMBERS)
    body, end = bytearray(rest), time.monotonic() + IDLE_S
    while len(body) < length:
        part = connection.recv(length - len(body))
        if not part or time.monotonic() > end:
            raise _Ended
        body += part
    if len(body) > length:
        raise _Ended  # a second request before the first was answered
    return bytes(body)


def _parse(line: str, headers: dict[str, str], body: bytes) -> _Request | None:
    method, _, rest = line.partition(" ")
    path, _, version = rest.partition(" ")
    pack = path.removeprefix("/v1/packs/")
    if method != "POST" or version != "HTTP/1.1" or pack == path or not is_hash(pack):
        return None
    size = _number(headers.get("x-outlap-size"), 1 << 43)
    wait = _number(headers.get("x-outlap-wait", "0"), int(peerwire.MOST_WAIT_S))
    members = peerwire.decode(body, size)
    return None if members is None else _Request(pack, size, float(wait), *members)
