"""A network inside this machine: hosts, each a network namespace with an address of its own, on one bridge. Needs root and iproute2.

Every link can be slow (tbf on both ends), cut (both ways, or one) and healed; its bytes are counted by the kernel. Mounts are shared
with the rest of the machine: only the network is apart. What a network made goes when its context ends; what a killed run left
goes when the next network is made.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.rivals import run
from lake.errors import Explained

NAMES = "outlap"
LINK = "eth0"
_FOLDER = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_LEAST_BURST = 32 << 10  # bytes; below it tbf would drop what the kernel sends in one piece
_QUEUE_MS = "100ms"
_count = itertools.count()

Way = Literal["both", "to", "from"]


@dataclass(frozen=True)
class Host:
    """port: the other end of its link, on the bridge."""

    name: str
    namespace: str
    address: str
    hub: str
    port: str


@dataclass
class Network:
    """hub: the namespace that holds the bridge. rates: bits a second of hosts whose link is slow."""

    hub: str
    hosts: dict[str, Host] = field(default_factory=dict)
    rates: dict[str, int] = field(default_factory=dict)


@contextmanager
def network() -> Iterator[Network]:
    """An empty network. Processes in it are killed and its namespaces removed when the context ends."""
    sweep()
    made = Network(f"{NAMES}-{os.getpid()}-{next(_count)}-hub")
    try:
        run("ip", "netns", "add", made.hub)
        _run_in(made.hub, "ip", "link", "add", "bridge", "type", "bridge")
        _run_in(made.hub, "ip", "link", "set", "bridge", "up")
        yield made
    finally:
        for host in made.hosts.values():
            end_processes(host.namespace)
        for namespace in [host.namespace for host in made.hosts.values()] + [made.hub]:
            with suppress(Explained):
                run("ip", "netns", "delete", namespace)


def add_host(network: Network, name: str) -> Host:
    """A host 10.99.0.N beside those that are there."""
    number = len(network.hosts) + 1
    namespace = f"{network.hub.removesuffix('hub')}{name}"
    host = Host(name, namespace, f"10.99.0.{number}", network.hub, f"port{number}")
    network.hosts[name] = host
    run("ip", "netns", "add", namespace)
    run("ip", "link", "add", LINK, "netns", namespace, "type", "veth",
        "peer", "name", host.port, "netns", network.hub)  # fmt: skip
    _run_in(network.hub, "ip", "link", "set", host.port, "master", "bridge", "up")
    _run_in(namespace, "ip", "address", "add", f"{host.address}/24", "dev", LINK)
    _run_in(namespace, "ip", "link", "set", LINK, "up")
    _run_in(namespace, "ip", "link", "set", "lo", "up")
    return host


def _ends(host: Host, way: Way) -> list[tuple[str, str]]:
    """(namespace, link) that send in that direction, seen from the host."""
    ends = {"to": (host.hub, host.port), "from": (host.namespace, LINK)}
    return list(ends.values()) if way == "both" else [ends[way]]


def limit(network: Network, host: Host, bits_per_s: int | None) -> None:
    """So fast and no faster, in each direction; None: as fast as this machine is."""
    if bits_per_s is None:
        network.rates.pop(host.name, None)
    else:
        network.rates[host.name] = bits_per_s
    heal(network, host)


def cut(host: Host, way: Way = "both") -> None:
    """Packets to or from the host are lost without a word, as on a cable that was pulled out far away."""
    for namespace, link in _ends(host, way):
        _run_in(namespace, "tc", "qdisc", "replace", "dev", link, "root", "blackhole")


def heal(network: Network, host: Host) -> None:
    """The link as it was before it was cut, or with its new rate."""
    rate = network.rates.get(host.name)
    for namespace, link in _ends(host, "both"):
        with suppress(Explained):  # there is none
            _run_in(namespace, "tc", "qdisc", "delete", "dev", link, "root")
        if rate is not None:
            burst = max(_LEAST_BURST, rate // 8 // 100)
            _run_in(namespace, "tc", "qdisc", "add", "dev", link, "root", "tbf",
                "rate", f"{rate}bit", "burst", f"{burst}b", "latency", _QUEUE_MS)  # fmt: skip


def unplug(host: Host, plugged: bool = False) -> None:
    """Take the link down, as both sides can see; plugged: bring it back."""
    _run_in(host.hub, "ip", "link", "set", host.port, "up" if plugged else "down")


def lose(sender: Host, receiver: Host, lost: bool = True) -> None:
    """Packets from one host to one other go astray, those of all others do not; lost False: no more."""
    what = ("lladdr", "02:00:00:00:00:fe", "nud", "permanent") if lost else ()
    verb = "replace" if lost else "delete"
    _run_in(sender.namespace, "ip", "neighbour", verb, receiver.address, "dev", LINK, *what)


def sent_bytes(host: Host) -> int:
    """What the host has sent over its link so far, headers included, as the kernel counted it."""
    [link] = json.loads(_run_in(host.namespace, "ip", "-j", "-s", "link", "show", LINK))
    return int(link["stats64"]["tx"]["bytes"])


def inside(host: Host, *command: str | Path) -> list[str]:
    """The command as it runs on that host: its network, everything else as here."""
    return _entering(host.namespace, *map(str, command))


def _entering(namespace: str, *command: str) -> list[str]:
    # `ip -n` enters a namespace of mounts, too, and cannot where / is no mount point, as in a chroot
    return ["nsenter", f"--net={_FOLDER / namespace}", "--", *command]


def _run_in(namespace: str, *command: str) -> str:
    return run(*_entering(namespace, *command))


@contextmanager
def on(host: Host) -> Iterator[None]:
    """Sockets that this thread opens within are of that host. Other threads are not touched."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before, (_FOLDER / host.namespace).open() as there:
        _enter(libc, there.fileno())
        try:
            yield
        finally:
            _enter(libc, before.fileno())


def _enter(libc: ctypes.CDLL, namespace: int) -> None:
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"entering a network namespace: {os.strerror(number)}")


def processes(namespace: str) -> list[int]:
    return [int(pid) for pid in run("ip", "netns", "pids", namespace).split()]


def end_processes(namespace: str) -> None:
    """Kill what runs on a host, and wait until it is gone. Raises Explained when something does not go in 20 s."""
    if not (_FOLDER / namespace).exists():
        return
    end = time.monotonic() + 20
    while left := [pid for pid in processes(namespace) if not _is_dead(pid)]:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise Explained(
                f"the processes {left}", "they do not end when they are killed", f"see {namespace}"
            )
        time.sleep(0.02)


def _is_dead(pid: int) -> bool:
    """Gone, or a child of someone who has not asked for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def sweep() -> None:
    """Remove namespaces of runs whose process is gone, with what runs in them."""
    for place in _FOLDER.glob(f"{NAMES}-*-*-*"):
        owner = place.name.split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            end_processes(place.name)
            with suppress(Explained):
                run("ip", "netns", "delete", place.name)
