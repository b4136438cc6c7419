"""A link between IDCs that can be cut: a TCP forwarder before a store."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Link:
    """endpoint: of the forwarder. While it is down, what is open is reset and what is new is closed at once."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = urlsplit(endpoint).netloc.partition(":")
        self._to = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.is_up, self.refused = True, 0
        self.endpoint = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def down(self) -> None:
        with self._lock:
            self.is_up = False
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def up(self) -> None:
        with self._lock:
            self.is_up = True

    def close(self) -> None:
        self.down()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            with self._lock:
                if not self.is_up:
                    self.refused += 1
                    client.close()
                    continue
                store = socket.create_connection(self._to)
                self._open |= {client, store}
            for ends in ((client, store), (store, client)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def linked(endpoint: str) -> Iterator[Link]:
    link = Link(endpoint)
    try:
        yield link
    finally:
        link.close()
