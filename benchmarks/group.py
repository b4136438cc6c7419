"""`outlap bench group`: a version made resident on 1 to 8 nodes at once, and how peers serve packs, beside nginx and the disk.

A store, a control service and agents are real processes, each on a host of a network inside this machine; the caches are on tmpfs. What
the store sent is counted twice: by the agents, and by the kernel on the store's link, headers and manifests included.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import pyarrow as pa

from benchmarks import datasets, groups, namespaces, peerget, rivals, systems
from benchmarks import report as reports
from benchmarks.groups import Group
from benchmarks.read import ended_by_signals, folders
from benchmarks.report import Plot, Report, Row, row
from cacheengine import wanted
from cacheengine.fetching import fetch
from cacheengine.wire import WarmRequest
from lake.errors import Explained
from lake.packs import put_pack, write_pack
from lake.publish import Published, publish_rows
from lake.stores import Store

DATASET, TAG = "frames", "bench"
PACK_BYTES = 7 << 20  # so that each is one request of about 8 MiB, as nearly all of a large pack are
GBIT = 1_000_000_000
GOAL = "<= 1.05"
# soon: what is measured should not be how often nodes report
CONTROL = {"HEARTBEAT_INTERVAL_S": "0.2", "POLL_S": "0.1"}
FREE, LIMITED = ("a store without a limit", None), ("a store that sends 1 Gbit/s", GBIT)
ALONE = "1 node"


@dataclass(frozen=True)
class Size:
    """frames: of 111 kB in the mean. nodes: how many warm at once, 1 among them. gets: rounds of peer GET. links: of the store, bits a
    second."""

    frames: int
    nodes: tuple[int, ...]
    rounds: int
    gets: int
    links: tuple[tuple[str, int | None], ...] = (FREE, LIMITED)


FULL = Size(3000, (1, 2, 4, 8), 2, 5)
QUICK = Size(600, (1, 4), 1, 1)


@dataclass(frozen=True)
class Warmed:
    """One warm. seconds: from the request until control says that it is done. Bytes: from the store as the agents counted them, as its
    link did, and from peers."""

    seconds: float
    store: int
    link: int
    peers: int


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def publish(store: Store, folder: Path, frames: int) -> tuple[Published, int]:
    """Frames in packs of PACK_BYTES, so that every node has a part to read; their bytes."""
    files = datasets.make_files(folder / "plain", "frames", frames, datasets.frame_size)
    parts: list[list[tuple[str, bytes]]] = [[]]
    filled = 0
    tables = []
    for name in sorted(files.names):
        data = (files.folder / name).read_bytes()
        if parts[-1] and filled + len(data) > PACK_BYTES:
            tables.append(pack_rows(store, folder, parts.pop()))
            parts.append([])
            filled = 0
        parts[-1].append((name, data))
        filled += len(data)
    tables.append(pack_rows(store, folder, parts.pop()))
    return publish_rows(store, DATASET, iter(tables), tables[0].schema, {}, TAG), files.bytes


def pack_rows(store: Store, folder: Path, members: list[tuple[str, bytes]]) -> pa.Table:
    """Put a pack of these (path, bytes) into a store; its rows of a version."""
    pack = write_pack(folder / "pack.tar", members)
    put_pack(store, pack.id, folder / "pack.tar")
    rows = pack.members.rename_columns(["path", "offset", "size", "content_id"])
    return rows.append_column("pack", pa.array([pack.id] * rows.num_rows, pa.string()))


def counted(group: Group, names: Sequence[str]) -> tuple[int, int]:
    """(bytes from stores, bytes from peers) of all these nodes so far, by their own metrics."""
    found = [0, 0]
    for name in names:
        host = group.nodes[name].host
        with namespaces.on(host):
            text = httpx.get(f"http://{host.address}:{groups.AGENT_PORT}/metrics", timeout=30).text
        for place, what in enumerate(("store", "peer")):
            [value] = re.findall(rf"^outlap_node_{what}_bytes_total (\S+)$", text, re.MULTILINE)
            found[place] += int(float(value))
    return found[0], found[1]


def warm_once(group: Group, count: int, bits_per_s: int | None, memory: Path, files: int) -> Warmed:
    """New nodes, so many, make the version resident; they are gone after. Raises Explained when not every node holds every file."""
    names = [f"n{len(group.nodes) + place + 1}" for place in range(count)]
    for name in names:
        groups.add_node(group, name, cache=memory / name)
    try:
        groups.start_agents(group, names)
        namespaces.limit(group.network, group.store, bits_per_s)
        before, link = counted(group, names), namespaces.sent_bytes(group.store)
        start = time.perf_counter()
        job = groups.warm(group, WarmRequest(dataset=DATASET, ref=TAG, nodes=",".join(names)))
        seconds = time.perf_counter() - start
        if job.state != "done" or job.files_done != files or len(job.nodes) != count:
            raise Explained(f"the warm of {count} nodes", job.error or job.state, f"see {group.folder}")
        link = namespaces.sent_bytes(group.store) - link
        store, peers = (after - first for after, first in zip(counted(group, names), before, strict=True))
        return Warmed(seconds, store, link, peers)
    finally:
        namespaces.limit(group.network, group.store, None)
        for name in names:
            groups.kill_host(group, name)
            shutil.rmtree(memory / name, ignore_errors=True)


Warms = dict[tuple[str, int], list[Warmed]]


def measure_warms(disk: Path, memory: Path, store: Store, files: int, size: Size) -> Warms:
    """(link of the store, nodes) → a warm of each round."""
    warms: Warms = {}
    with groups.group(disk / "group", CONTROL) as group:
        say("uploading into the store")
        groups.upload(group, store)
        for turn in range(size.rounds):
            for link, bits_per_s in size.links:
                for count in size.nodes:
                    say(f"warm of {count} nodes from {link}, round {turn + 1} of {size.rounds}")
                    found = warm_once(group, count, bits_per_s, memory, files)
                    warms.setdefault((link, count), []).append(found)
    return warms


def warm_rows(warms: Mapping[tuple[str, int], Sequence[Warmed]], size: int) -> list[Row]:
    """size: bytes of the files, one copy."""
    made = []
    copy = ("one copy of the files", size / 1e6)
    for (link, count), found in warms.items():
        case = f"warm of {count} node{'s' if count > 1 else ''} from {link}"
        alone = median(one.seconds for one in warms[link, 1])
        seconds = median(one.seconds for one in found)
        made += [
            row(f"{case}: seconds", seconds, "s", (ALONE, alone)),
            row(f"{case}: made resident on all nodes together", count * size / 1e6 / seconds, "MB/s"),
            # the worst round, not the one in the middle: it is a promise
            row(f"{case}: bytes of the store", max(one.store for one in found) / 1e6, "MB", copy, GOAL),
            row(f"{case}: bytes on the store's link", max(one.link for one in found) / 1e6, "MB", copy),
            row(f"{case}: bytes of peers", median(one.peers for one in found) / 1e6, "MB", copy),
        ]
    return made


def run(quick: bool) -> Report:
    """Raises Refused without root or a disk, NotFound without SeaweedFS."""
    size = QUICK if quick else FULL
    with ended_by_signals(), ExitStack() as stack:
        disk, memory = folders(stack)
        return measure(disk, memory, size)


def measure(disk: Path, memory: Path, size: Size) -> Report:
    """All of it, in these two empty folders."""
    load = os.getloadavg()[0]
    store = datasets.folder_store(disk / "source")
    say(f"making {size.frames} frames")
    made, copy = publish(store, disk, size.frames)
    shutil.rmtree(disk / "plain")
    warms = measure_warms(disk, memory, store, size.frames, size)
    want = wanted.save_want(store, disk / "views", made.version)
    cache = datasets.cache_in(disk / "cache")
    datasets.make_resident(store, cache, want)
    parts = [fetch.unique_members(part)[0] for part in wanted.read_packs(want)]
    rates = peerget.measure(cache, parts, disk / "peerget", size.gets, say)
    machine = reports.machine({"disk": systems.kind_of_disk(disk), "nginx": _nginx_version()})
    machine["load when it began and ended"] = f"{load:.1f}, {os.getloadavg()[0]:.1f}"
    notes = (
        f"{size.frames:,} frames, {copy / 1e6:,.0f} MB, in {len(parts)} packs. Warms: {size.rounds} round(s); seconds are the median, "
        f"bytes of the store the largest. Peer GET: the median of {size.gets}, in turns by chance.",
        "Each node is an agent with a network of its own (veth on one bridge) and an empty cache on tmpfs; the store is SeaweedFS. "
        "All share this machine's processors: eight nodes hash and write eight copies on them.",
        "Seconds are from the request until control says done: every file of every node hashed and resident. A store that sends "
        "1 Gbit/s is one whose link is shaped (tbf).",
        "Bytes of the store and of peers are what the agents' metrics count (members and the tar headers between them); bytes on the "
        "link are the kernel's count of all that the store sent, with manifests, HTTP, TCP and Ethernet headers.",
        "Peer GET: one client with 1 or 4 connections that keeps them and throws the bytes away; server and client on loopback. "
        "nginx: sendfile, tcp_nopush, open_file_cache, two workers, the same files. Nobody hashes here.",
        "From the disk: the kernel's pages of the packs are dropped before each turn.",
    )
    groups_of_bars = tuple(f"{count} nodes" if count > 1 else ALONE for count in size.nodes)
    seconds = {
        link: [median(one.seconds for one in warms[link, n]) for n in size.nodes] for link, _ in size.links
    }
    copies = {
        link: [max(one.store for one in warms[link, n]) / copy for n in size.nodes] for link, _ in size.links
    }
    plots = (
        Plot("a warm of all nodes", "s", groups_of_bars, seconds),
        Plot("bytes of the store", "copies", groups_of_bars, copies),
    )
    rows = (*warm_rows(warms, copy), *peerget.rows(rates))
    return Report("outlap bench group", machine, rows, notes, plots)


def _nginx_version() -> str:
    return rivals.version_of(rivals.program("nginx"), "-v").rpartition("/")[2]
