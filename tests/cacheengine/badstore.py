"""An HTTP proxy in front of a store that spoils answers to GETs of packs, as real stores and ways do."""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["none", "503", "slow", "short", "wrong", "wrong later", "half later", "never"]
SLOW_S = 0.5


class Proxy:
    """Listens on a port of its own; `fault` may be changed at any time. spoiled: requests that it spoiled. later: what "wrong later"
    waits for before it sends, and "half later" after half of it; held: answers that wait for it."""

    def __init__(self, endpoint: str) -> None:  # noqa: C901 (a handler class in it)
        self.fault: Fault = "none"
        self.spoiled = 0
        self.held = 0
        self.answers, self.later = threading.Event(), threading.Event()
        behind = urlsplit(endpoint).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """Tests have enough to print."""

            def do_HEAD(self) -> None:
                self._pass_on()

            def do_GET(self) -> None:
                self._pass_on()

            def _pass_on(self) -> None:
                fault = proxy.fault if "/packs/" in self.path and self.command == "GET" else "none"
                proxy.spoiled += fault != "none"
                if fault == "never":
                    proxy.answers.wait()
                if fault == "503":
                    self.send_response(503)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection(behind, timeout=30)
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():  # the signature covers the host that was asked
                    connection.putheader(name, value)
                connection.endheaders()
                answer = connection.getresponse()
                body = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                        self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self._send(fault, body)
                connection.close()

            def _send(self, fault: Fault, body: bytes) -> None:
                if fault == "wrong later":
                    proxy.held += 1
                    proxy.later.wait()
                    body = bytes(byte ^ 0xFF for byte in body[:64]) + body[64:]
                if fault == "wrong" and body:
                    body = body[:-1] + bytes([body[-1] ^ 0xFF])
                if fault == "half later":
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    proxy.held += 1
                    proxy.later.wait()
                    self.wfile.write(body[len(body) // 2 :])
                elif fault == "short":
                    self.wfile.write(body[: len(body) // 2])
                    self.close_connection = True
                elif fault == "slow":
                    for at in range(0, len(body), max(1, len(body) // 3)):
                        self.wfile.write(body[at : at + max(1, len(body) // 3)])
                        self.wfile.flush()
                        time.sleep(SLOW_S)
                else:
                    self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.answers.set()
        self.later.set()
        self.server.shutdown()
        self.server.server_close()
