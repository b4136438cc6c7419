"""Ranges of packs from one disk, by three ways: our peer server, nginx with the same files, and `pread` of the files themselves.

`python -m benchmarks.peerget CACHE PORTFILE` serves a cache directory on loopback, as an agent does.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets
import signal
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import rivals
from benchmarks.report import Row, row
from cacheengine.fetching import fetch
from cacheengine.node import CacheDirConfig
from cacheengine.packs import packcache
from cacheengine.packs.have import Heads, Ints
from cacheengine.packs.packcache import Cache
from cacheengine.peers import peerclient
from cacheengine.peers.peerclient import Connections
from cacheengine.peers.peerserver import PeerServer, Served
from cacheengine.wanted import PackWant
from lake.errors import Explained

PEER, NGINX, DISK = "peer GET", "nginx", "pread of the same ranges"
WARM, COLD = "from the page cache", "from the disk"
CONNECTIONS = (1, 4)
SECRET = "OUTLAP_BENCH_SECRET"
GOAL = ">= 0.9"
SHAPES = {"8 MiB": "ranges of up to 8 MiB, as a warm asks for", "one frame": "one frame a request"}


@dataclass(frozen=True)
class Range:
    """Bytes [start, end) of a pack, and the members in them."""

    pack: str
    size: int
    members: tuple[Ints, Ints, Heads]
    start: int
    end: int


Get = Callable[[Range], object]
Rates = dict[tuple[str, str, int, str], list[float]]


def ranges_of(parts: Sequence[PackWant], shape: str) -> list[Range]:
    """What a warm asks a peer for, or each frame alone."""
    made = []
    for part in parts:
        most = fetch.REQUEST if shape == "8 MiB" else 0
        gap = fetch.GAP if most else -1
        for piece in fetch.plan(part.offset, part.length, gap, most):
            rows = slice(piece.first, piece.last)
            members = (part.offset[rows], part.length[rows], part.head[rows])
            made.append(Range(part.pack, part.size, members, piece.offset, piece.offset + piece.length))
    return made


@contextmanager
def serving(cache: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """(address, secret) of a peer server in a process of its own."""
    port, secret = folder / "peer.port", secrets.token_hex(16)
    os.environ[SECRET] = secret
    command = [sys.executable, "-m", "benchmarks.peerget", str(cache), str(port)]
    try:
        with rivals.started(command, folder / "peer.log", port.exists):
            yield f"127.0.0.1:{port.read_text()}", secret
    finally:
        del os.environ[SECRET]


@contextmanager
def nginx(cache: Path, folder: Path) -> Iterator[int]:
    """nginx on a port of its own, which serves the files of the cache by sendfile."""
    port = rivals.free_port()
    config = folder / "nginx.conf"
    temporary = "".join(
        f"  {name}_temp_path {folder / name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"user root;\nworker_processes auto;\npid {folder / 'nginx.pid'};\nerror_log stderr;\ndaemon off;\n"
        "events { worker_connections 256; }\n"
        f"http {{\n{temporary}  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  tcp_nodelay on;\n"
        "  keepalive_requests 100000000;\n  open_file_cache max=10000 inactive=60s;\n"
        f"  server {{ listen 127.0.0.1:{port}; root {cache / 'packs'}; }}\n}}\n",
        encoding="utf-8",
    )
    command = ["nginx", "-p", str(folder), "-c", str(config), "-e", "stderr"]
    with rivals.started(command, folder / "nginx.log", partial(_listens, port)):
        yield port


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _get_http(kept: list[socket.socket], port: int, asked: Range) -> memoryview:
    """The range from nginx over a kept connection. Raises Explained for any other answer than 206."""
    path = f"/{asked.pack[:2]}/{asked.pack}.tar"
    with suppress(IndexError):
        connection = kept.pop()
        return _ask_http(connection, kept, path, asked)
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _ask_http(connection, kept, path, asked)


def _ask_http(connection: socket.socket, kept: list[socket.socket], path: str, asked: Range) -> memoryview:
    total = asked.end - asked.start
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes={asked.start}-{asked.end - 1}\r\n\r\n".encode()
    )
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(8 << 10)
        if not part:
            break
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 206"):
        raise Explained(f"nginx, asked for {path}", head.decode("latin-1")[:200], "see its log")
    body = np.empty(total, np.uint8).data
    body[: len(rest)] = rest
    at = len(rest)
    while at < total:
        got = connection.recv_into(body[at:])
        if not got:
            raise Explained(
                f"nginx, asked for {path}", f"it ended after {at} of {total} bytes", "see its log"
            )
        at += got
    kept.append(connection)
    return body


def _get_peer(connections: Connections, address: str, secret: str, asked: Range) -> memoryview:
    answer = peerclient.ask(connections, address, secret, asked.pack, asked.size, asked.members)
    if answer.kind != "sent":
        raise Explained("the peer server", answer.why or answer.kind, "see its log")
    return answer.data


def _close(kept: Sequence[socket.socket]) -> None:
    for each in kept:
        each.close()


def _pread(opened: Mapping[str, int], asked: Range) -> memoryview:
    data = np.empty(asked.end - asked.start, np.uint8).data
    at = 0
    while at < len(data):
        at += os.preadv(opened[asked.pack], [data[at:]], asked.start + at)
    return data


def _forget(opened: Mapping[str, int]) -> None:
    """The kernel's pages of the packs go, so that the next reads are of the disk."""
    for fd in opened.values():
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _rate(get: Get, ranges: Sequence[Range], connections: int) -> float:
    """MB/s of all ranges, each once, over so many connections."""
    size = sum(asked.end - asked.start for asked in ranges)
    with ThreadPoolExecutor(connections) as pool:
        start = time.perf_counter()
        for _ in pool.map(get, ranges):
            pass
        return size / 1e6 / (time.perf_counter() - start)


def measure(
    cache: Cache, parts: Sequence[PackWant], folder: Path, rounds: int, say: Callable[[str], None]
) -> Rates:
    """(shape, page cache or disk, connections, who) → MB/s of each round; who comes first is by chance. cache: one directory."""
    folder.mkdir()
    [directory] = cache.dirs
    rates: Rates = defaultdict(list)
    chance = random.Random(1)
    with ExitStack() as stack:
        opened = {}
        for part in parts:
            fd = os.open(packcache.pack_path(directory, part.pack), os.O_RDONLY)
            stack.callback(os.close, fd)
            opened[part.pack] = fd
        address, secret = stack.enter_context(serving(directory.path, folder))
        port = stack.enter_context(nginx(directory.path, folder))
        kept: list[socket.socket] = []
        stack.callback(_close, kept)
        gets: dict[str, Get] = {
            PEER: partial(_get_peer, Connections(), address, secret),
            NGINX: partial(_get_http, kept, port),
            DISK: partial(_pread, opened),
        }
        shapes = {shape: ranges_of(parts, shape) for shape in SHAPES}
        for shape, ranges in shapes.items():
            same = {bytes(get(ranges[0])) for get in gets.values()}  # type: ignore[call-overload]
            if len(same) != 1:
                raise Explained(f"a range of {shape}", "not all give the same bytes", "see the code")
        os.sync()
        for turn in range(rounds):
            say(f"peer GET, round {turn + 1} of {rounds}")
            for shape, state, connections in itertools.product(SHAPES, (WARM, COLD), CONNECTIONS):
                for who in chance.sample(sorted(gets), len(gets)):
                    if state == COLD:
                        _forget(opened)
                    else:
                        _rate(gets[DISK], shapes["8 MiB"], 1)
                    found = _rate(gets[who], shapes[shape], connections)
                    rates[shape, state, connections, who].append(found)
    return rates


def rows(rates: Rates) -> list[Row]:
    """MB/s, against nginx and against the files themselves."""
    made = []
    for shape, state, connections in itertools.product(SHAPES, (WARM, COLD), CONNECTIONS):
        case = f"{SHAPES[shape]}, {state}, {connections} connection{'s' if connections > 1 else ''}"
        speed = {who: median(rates[shape, state, connections, who]) for who in (PEER, NGINX, DISK)}
        goal = GOAL if shape == "8 MiB" else None
        made += [
            row(f"{PEER}, {case}", speed[PEER], "MB/s", (NGINX, speed[NGINX]), goal),
            row(f"{PEER}, {case}", speed[PEER], "MB/s", (DISK, speed[DISK])),
            row(f"{NGINX}, {case}", speed[NGINX], "MB/s", (DISK, speed[DISK])),
            row(f"{DISK}, {case}", speed[DISK], "MB/s"),
        ]
    return made


def main() -> None:
    cache, port = Path(sys.argv[1]), Path(sys.argv[2])
    secret = os.environ[SECRET]
    opened = packcache.open_cache([CacheDirConfig.model_validate({"path": cache, "quota": 64 << 30})])
    listener = socket.create_server(("127.0.0.1", 0))
    PeerServer(listener, Served(opened, lambda: secret))
    new = port.with_suffix(".new")
    new.write_text(str(listener.getsockname()[1]))
    new.replace(port)
    signal.pause()


if __name__ == "__main__":
    main()
