"""`outlap bench eta`: whether the progress of a warm moves, and whether what it says of the time that is left is true.

A store, a control service and an agent are real processes, each on a host of a network inside this machine; the store's link is
shaped (tbf), so that each warm takes about as long whatever its size. The job is asked for ten times a second, as a client would.
"""

from __future__ import annotations

import itertools
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import groups, namespaces
from benchmarks import report as reports
from benchmarks.group import pack_rows
from benchmarks.groups import Group
from benchmarks.read import ended_by_signals, folders
from benchmarks.report import Report, Row, row
from cacheengine.wire import WarmRequest
from lake.config import StoreConfig
from lake.errors import Explained
from lake.publish import publish_rows
from lake.stores import Store, open_store

ASK_EVERY_S = 0.1
FROM_SHARE = 0.1  # of the time that a warm takes: before that nobody knows
LEAST_LEFT_S = 5.0  # 20 % of that is a second: below it a second off is good enough
MAX_ERROR, MAX_GAP_S = 0.2, 1.0
TAG = "bench"


@dataclass(frozen=True)
class Case:
    """A version. least, most: bytes of a file. pack_bytes: of a pack, about."""

    name: str
    files: int
    least: int
    most: int
    pack_bytes: int = 64 << 20


@dataclass(frozen=True)
class Size:
    """seconds: that a warm takes, about. rounds: warms of each case."""

    cases: tuple[Case, ...]
    seconds: float
    rounds: int


FULL = Size(
    (
        Case("many small files (1–4 kB)", 20_000, 1000, 4000),
        Case("frames (30–200 kB)", 600, 30_000, 200_000),
        Case("files of 60 MB", 3, 60_000_000, 60_000_000),
    ),
    20.0,
    3,
)
QUICK = Size(
    (
        Case("many small files (1–4 kB)", 8000, 1000, 4000),
        Case("frames (30–200 kB)", 200, 30_000, 200_000),
        Case("files of 60 MB", 2, 60_000_000, 60_000_000),
    ),
    10.0,
    1,
)


@dataclass(frozen=True)
class Look:
    """What control said of the job, seconds after the warm was asked for. received: bytes, resident ones among them."""

    at_s: float
    received: int
    resident: int
    eta_s: float | None


@dataclass(frozen=True)
class Watched:
    """One warm: what was said of it, and how long it took."""

    looks: tuple[Look, ...]
    seconds: float

    def worst_error(self) -> float:
        """The largest difference of the ETA and the time that was left, as a share of that time (of LEAST_LEFT_S where less is left).

        None said is as wrong as can be.
        """
        late = [look for look in self.looks if look.at_s >= FROM_SHARE * self.seconds]
        return max(self._error(look) for look in late)

    def _error(self, look: Look) -> float:
        left = self.seconds - look.at_s
        wrong = left if look.eta_s is None else abs(look.eta_s - left)
        return wrong / max(left, LEAST_LEFT_S)

    def moved(self) -> list[float]:
        """When bytes were added, in seconds after the request."""
        pairs = itertools.pairwise(self.looks)
        return [after.at_s for before, after in pairs if after.received > before.received]

    def longest_gap(self) -> float:
        """The longest time in which no bytes were added, from the first ones to the end, in seconds."""
        return max(after - before for before, after in itertools.pairwise([*self.moved(), self.seconds]))


def publish(store: Store, folder: Path, case: Case, dataset: str) -> int:
    """Publish the version of a case; its bytes."""
    source, total = random.Random(case.name), 0

    def packs() -> Iterator[list[tuple[str, bytes]]]:
        nonlocal total
        members, filled = list[tuple[str, bytes]](), 0
        for number in range(case.files):
            data = source.randbytes(source.randint(case.least, case.most))
            if members and filled + len(data) > case.pack_bytes:
                yield members
                members, filled = [], 0
            members.append((f"{number // 1000:03d}/{number:06d}.bin", data))
            filled, total = filled + len(data), total + len(data)
        yield members

    tables = [pack_rows(store, folder, members) for members in packs()]
    publish_rows(store, dataset, iter(tables), tables[0].schema, {}, TAG)
    return total


def watch(group: Group, node: str, dataset: str) -> Watched:
    """Warm a version on a node, and note what is said of it. Raises Explained when it fails."""
    looks: list[Look] = []
    with groups.asking(group) as control:
        start = time.monotonic()
        job = control.warm(WarmRequest(dataset=dataset, ref=TAG, nodes=node))
        while True:
            at = time.monotonic() - start
            looks.append(Look(at, job.bytes_done + job.bytes_coming, job.bytes_done, job.eta_s))
            if job.state in ("done", "failed", "cancelled"):
                break
            time.sleep(ASK_EVERY_S)
            job = control.job(job.id)
    if job.state != "done":
        raise Explained(f"the warm of {dataset}", job.error or job.state, f"see {group.folder}")
    return Watched(tuple(looks[:-1]), looks[-1].at_s)


def _rows(case: Case, watched: Sequence[Watched]) -> tuple[Row, ...]:
    errors = [one.worst_error() for one in watched]
    gaps = [one.longest_gap() for one in watched]
    return (
        row(f"{case.name}: time of a warm", max(one.seconds for one in watched), "s"),
        row(f"{case.name}: until the first bytes are told", max(one.moved()[0] for one in watched), "s"),
        row(f"{case.name}: worst error of the ETA", max(errors), "of what is left", goal=f"<= {MAX_ERROR}"),
        row(f"{case.name}: longest time without progress", max(gaps), "s", goal=f"<= {MAX_GAP_S}"),
    )


def measure(disk: Path, memory: Path, size: Size) -> Report:
    """All cases, `size.rounds` times each; every warm is of a node whose cache is empty."""
    rows: list[Row] = []
    store = open_store(StoreConfig(name="plain", idc=groups.IDC, url=f"file://{disk / 'lake'}"))
    bytes_of = {case: publish(store, disk, case, f"eta-{place}") for place, case in enumerate(size.cases)}
    with groups.group(disk / "group") as group:
        groups.upload(group, store)
        for place, case in enumerate(size.cases):
            watched = []
            for number in range(size.rounds):
                node = f"n{place}{number}"
                groups.add_node(group, node, cache=memory / node)
                groups.start_agents(group, [node])
                namespaces.limit(group.network, group.store, int(8 * bytes_of[case] / size.seconds))
                try:
                    watched.append(watch(group, node, f"eta-{place}"))
                finally:
                    namespaces.limit(group.network, group.store, None)
                    groups.kill_host(group, node)
                    shutil.rmtree(memory / node, ignore_errors=True)
            rows += _rows(case, watched)
    notes = (
        f"{size.rounds} warm(s) of each, the worst of all. The store's link is shaped (tbf), so that each takes about "
        f"{size.seconds:.0f} s. Control and agent have the settings that they have by default; the cache is on tmpfs.",
        f"Error of the ETA: from {FROM_SHARE:.0%} of the time on, |ETA - what was left|, as a share of what was left, or of "
        f"{LEAST_LEFT_S:.0f} s where less was left, so that a second counts as 20 %.",
        "Progress: bytes received, resident ones among them, as the job tells them; asked for ten times a second, from the first ones "
        "to the end. Before them the node reads the version's rows, over the same link.",
    )
    return Report("outlap bench eta", reports.machine(), tuple(rows), notes)


def run(quick: bool) -> Report:
    """The benchmark, as the command runs it. Needs root."""
    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        disk, memory = folders(stack)
        return measure(disk, memory, QUICK if quick else FULL)
