"""A peer that misbehaves, on a real socket."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Literal

Fault = Literal[
    "wrong",
    "short",
    "endless",
    "slow",
    "slow head",
    "long head",
    "other length",
    "chunked",
    "silent",
    "garbage",
    "busy",
    "closed",
]


class BadPeer:
    """Answers every request with the same fault. `right`: the bytes that a good peer would send. asked: requests so far."""

    def __init__(self, fault: Fault, right: bytes = b"") -> None:
        self.fault, self.right, self.asked = fault, right, 0
        self.ends = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        if fault == "closed":
            self._socket.close()
            return
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def address(self) -> str:
        try:
            return f"127.0.0.1:{self._socket.getsockname()[1]}"
        except OSError:
            return "127.0.0.1:9"  # nobody listens there

    def close(self) -> None:
        self.ends.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while True:
                data = connection.recv(1 << 20)
                if not data:
                    return
                self.asked += 1
                self._answer(connection)
                if self.fault != "busy":
                    return

    def _answer(self, connection: socket.socket) -> None:  # noqa: C901 (one line a fault)
        size, good = len(self.right), self.right
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
        if self.fault == "wrong":
            connection.sendall(head + bytes(byte ^ 0xFF for byte in good))
        elif self.fault == "short":
            connection.sendall(head + good[: size // 2])
        elif self.fault == "endless":
            connection.sendall(head + good)
            while not self.ends.is_set():
                connection.sendall(b"x" * 65536)
        elif self.fault == "slow":
            connection.sendall(head)
            self._trickle(connection, good)
        elif self.fault == "slow head":
            self._trickle(connection, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000)
        elif self.fault == "long head":
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not self.ends.is_set():
                connection.sendall(b"X: " + b"y" * 60_000 + b"\r\n")
        elif self.fault == "other length":
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size * 1000}\r\n\r\n".encode() + good)
        elif self.fault == "chunked":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + good)
        elif self.fault == "silent":
            self.ends.wait(60)
        elif self.fault == "garbage":
            connection.sendall(bytes(range(256)) * 4 + b"\r\n\r\n")
        elif self.fault == "busy":
            connection.sendall(b"HTTP/1.1 503 busy\r\nContent-Length: 0\r\n\r\n")

    def _trickle(self, connection: socket.socket, data: bytes) -> None:
        for at in range(len(data)):
            if self.ends.is_set():
                return
            connection.sendall(data[at : at + 1])
            time.sleep(0.2)
