"""The network that the other tests stand on: slow links are slow, cut ones silent, and nothing is left of it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks import namespaces
from benchmarks.namespaces import Host, Network
from tests.conftest import wait_until

PORT = 7000


@pytest.fixture
def net() -> Iterator[Network]:
    with namespaces.network() as made:
        yield made


@pytest.fixture
def pair(net: Network) -> tuple[Host, Host]:
    return namespaces.add_host(net, "a"), namespaces.add_host(net, "b")


@pytest.fixture
def serve() -> Iterator[Callable[..., None]]:
    """serve(host, size): whoever connects to it is sent so many bytes."""
    opened: list[socket.socket] = []

    def begin(host: Host, size: int = 1) -> None:
        with namespaces.on(host):
            listening = socket.create_server((host.address, PORT))
        opened.append(listening)

        def answer() -> None:
            while True:
                try:
                    taken, _ = listening.accept()
                except OSError:
                    return
                with taken, suppress(OSError):
                    taken.sendall(b"x" * size)

        threading.Thread(target=answer, daemon=True).start()

    yield begin
    for listening in opened:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def fetch(asker: Host, server: Host, timeout_s: float = 0.5) -> int:
    """Bytes that arrived; -1 for none in time."""
    count = 0
    try:
        with namespaces.on(asker), socket.create_connection((server.address, PORT), timeout_s) as link:
            while data := link.recv(1 << 16):
                count += len(data)
    except OSError:
        return -1
    return count


def test_what_is_cut_is_silent_until_it_is_healed(
    net: Network, pair: tuple[Host, Host], serve: Callable[..., None]
) -> None:
    a, b = pair
    serve(b)
    assert fetch(a, b) == 1
    for way in ("both", "to", "from"):
        namespaces.cut(b, way)  # type: ignore[arg-type]
        assert fetch(a, b) == -1
        namespaces.heal(net, b)
        assert fetch(a, b) == 1
    namespaces.unplug(b)
    assert fetch(a, b) == -1
    namespaces.unplug(b, plugged=True)
    wait_until(lambda: fetch(a, b) == 1, "the link", 5)


def test_one_pair_loses_each_other_and_the_others_do_not(
    net: Network, pair: tuple[Host, Host], serve: Callable[..., None]
) -> None:
    a, b = pair
    c = namespaces.add_host(net, "c")
    serve(b)
    namespaces.lose(b, a)
    assert (fetch(a, b), fetch(c, b)) == (-1, 1)
    namespaces.lose(b, a, lost=False)
    assert fetch(a, b, 3) == 1


def test_a_slow_link_is_as_slow_as_it_was_told_and_its_bytes_are_counted(
    net: Network, pair: tuple[Host, Host], serve: Callable[..., None]
) -> None:
    a, b = pair
    serve(b, 1_000_000)
    namespaces.limit(net, b, 8_000_000)
    before, start = namespaces.sent_bytes(b), time.monotonic()
    assert fetch(a, b, 10) == 1_000_000
    assert time.monotonic() - start > 0.8
    assert 1_000_000 <= namespaces.sent_bytes(b) - before < 1_200_000
    # it stays slow when it was cut and healed
    namespaces.cut(b)
    namespaces.heal(net, b)
    start = time.monotonic()
    assert fetch(a, b, 10) == 1_000_000
    assert time.monotonic() - start > 0.8


def test_nothing_is_left(net: Network) -> None:
    with namespaces.network() as made:
        host = namespaces.add_host(made, "a")
        process = subprocess.Popen(
            namespaces.inside(host, sys.executable, "-c", "import time; time.sleep(600)")
        )
        wait_until(lambda: process.pid in namespaces.processes(host.namespace), "the process")
    assert process.wait(10) == -9
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert host.namespace not in names and made.hub not in names
    assert net.hub in names  # those of others stay


def test_what_a_killed_run_left_goes_with_the_next() -> None:
    code = (
        "from benchmarks import namespaces; import os, subprocess, sys\n"
        "with namespaces.network() as made:\n"
        "    host = namespaces.add_host(made, 'a')\n"
        "    child = subprocess.Popen(namespaces.inside(host, 'sleep', '600'), stdout=subprocess.DEVNULL)\n"
        "    print(host.namespace, child.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=30)
    namespace, pid = done.stdout.split()
    with namespaces.network():
        names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert namespace not in names
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its process to be gone", 10)
