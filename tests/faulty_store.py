"""A proxy before a real store that changes requests and answers on the way: what bad stores and bad proxies do."""

from __future__ import annotations

import http.client
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

Headers = dict[str, str]
HOPS = ("connection", "transfer-encoding", "content-length")


def without(*names: str) -> Callable[[str, Headers], Headers]:
    """Drops headers of PUT requests."""

    def change(method: str, headers: Headers) -> Headers:
        return {k: v for k, v in headers.items() if method != "PUT" or k.lower() not in names}

    return change


def weak_etags(headers: Headers) -> Headers:
    """Every ETag weak."""
    return {k: f"W/{v}" if k.lower() == "etag" else v for k, v in headers.items()}


def other_etags(headers: Headers) -> Headers:
    """Another ETag in every answer."""
    return {k: f'"{secrets.token_hex(16)}"' if k.lower() == "etag" else v for k, v in headers.items()}


def no_etags(headers: Headers) -> Headers:
    """No ETag."""
    return {k: v for k, v in headers.items() if k.lower() != "etag"}


def refusing(status: int, code: str, message: str, *, only: Callable[[str, Headers], bool] = lambda *_: True):
    """Answers with an error of S3 where only(method, headers)."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()

    def refuse(method: str, headers: Headers) -> tuple[int, bytes] | None:
        return (status, body) if only(method, headers) else None

    return refuse


@contextmanager
def faulty(
    endpoint: str,
    *,
    request: Callable[[str, Headers], Headers] = lambda _, headers: headers,
    answer: Callable[[Headers], Headers] = lambda headers: headers,
    refuse: Callable[[str, Headers], tuple[int, bytes] | None] = lambda *_: None,
    keys: tuple[str, str] = ("tester", "tester-secret"),
) -> Iterator[str]:
    """The endpoint of a proxy before `endpoint`; Host goes through, so that signatures stay right."""
    upstream = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _send(self, status: int, headers: Headers, body: bytes, length: str | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in HOPS:
                    self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command != "HEAD" else b"")

        def _signed(self, headers: Headers, body: bytes) -> Headers:
            """The headers of a request that was changed, signed again: as a store would take it that does not know those left out."""
            kept = {
                k: v for k, v in headers.items() if not k.lower().startswith(("x-amz-date", "authorization"))
            }
            again = AWSRequest(
                method=self.command, url=f"http://{headers['host']}{self.path}", data=body, headers=kept
            )
            S3SigV4Auth(Credentials(*keys), "s3", "us-east-1").add_auth(again)
            return dict(again.headers.items())

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = dict(self.headers.items())
            refused = refuse(self.command, headers)
            if refused is not None:
                self._send(refused[0], {"Content-Type": "application/xml"}, refused[1])
                return
            connection = http.client.HTTPConnection(upstream, timeout=60)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            changed = request(self.command, headers)
            for name, value in (changed if changed == headers else self._signed(changed, body)).items():
                connection.putheader(name, value)
            connection.endheaders(body)
            found = connection.getresponse()
            data, length = found.read(), found.getheader("Content-Length")
            connection.close()
            self._send(
                found.status,
                answer(dict(found.getheaders())),
                data,
                length if self.command == "HEAD" else None,
            )

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
