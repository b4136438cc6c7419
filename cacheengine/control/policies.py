"""Freeing by policy: which versions of a dataset go by themselves, and why. Each freeing is a job that says its cause.

What is pinned or mounted, or being warmed, never goes. Several instances that see the same begin one job: its request id says what for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import structlog
from sqlalchemy import Connection, func, select

from cacheengine.control import orders, tables
from cacheengine.control.board import heard
from cacheengine.control.groupsettings import Policy
from cacheengine.control.jobs import Heard
from cacheengine.control.service import Service
from cacheengine.wire import FreeRequest
from lake.canonical import blake3_hex
from lake.errors import Explained

DAY_NS = 86400 * 10**9

log = structlog.get_logger("outlap.control")


class Held(NamedTuple):
    """A version that a node should hold. since_ns: when it was last warmed. used_ns: when its last mount here ended, or 0."""

    node: str
    version: str
    tag: str
    since_ns: int
    used_ns: int

    @property
    def last_ns(self) -> int:
        return max(self.since_ns, self.used_ns)


class Freeing(NamedTuple):
    """What is to be freed, and why. at_ns: of what made it due, so that the same reason is the same job."""

    version: str
    nodes: tuple[str, ...]
    cause: str
    at_ns: int


def due(
    dataset: str, policy: Policy, held: Sequence[Held], known: Mapping[str, Heard], now_ns: int
) -> Iterator[Freeing]:
    """What a policy frees now. held: entries that may go."""
    if policy.policy == "pressure":
        yield from _under_pressure(dataset, policy.above, held, known)
        return
    by_version: dict[str, list[Held]] = {}
    for one in held:
        by_version.setdefault(one.version, []).append(one)
    for version, each in sorted(by_version.items()):
        nodes = tuple(sorted(one.node for one in each))
        used_ns, last_ns = max(one.used_ns for one in each), max(one.last_ns for one in each)
        if policy.policy == "after-training":
            trained = used_ns > max(one.since_ns for one in each)
            if trained and used_ns + policy.after_s * 1e9 <= now_ns:
                seconds = (now_ns - used_ns) / 1e9
                cause = f"policy after-training: its last mount ended {seconds:.0f} s ago"
                yield Freeing(version, nodes, cause, used_ns)
        elif last_ns + policy.days * DAY_NS <= now_ns:
            age = (now_ns - last_ns) / DAY_NS
            cause = f"policy older-than {policy.days:g} days: not warmed or mounted for {age:.1f} days"
            yield Freeing(version, nodes, cause, last_ns)


def _under_pressure(
    dataset: str, above: float, held: Sequence[Held], known: Mapping[str, Heard]
) -> Iterator[Freeing]:
    by_node: dict[str, list[Held]] = {}
    for one in held:
        by_node.setdefault(one.node, []).append(one)
    for node, each in sorted(by_node.items()):
        if node not in known:
            continue
        heartbeat = known[node].heartbeat
        usable = [directory for directory in heartbeat.dirs if directory.state == "normal"]
        quota, used = sum(d.quota for d in usable), sum(d.used for d in usable)
        freeing = sum(r.bytes_resident for r in heartbeat.versions if r.state == "freeing")
        over = used - freeing - above * quota
        sizes: dict[str, int] = {}
        for report in heartbeat.versions:
            if report.dataset == dataset:
                sizes[report.version] = max(report.bytes_resident, sizes.get(report.version, 0))
        for one in sorted(each, key=lambda item: (item.last_ns, item.version)):
            if over <= 0:
                break
            cause = (
                f"policy pressure: the cache of {node} is filled to {used / max(1, quota):.0%} of its quota"
            )
            yield Freeing(one.version, (node,), cause, one.last_ns)
            over -= sizes.get(one.version, 0)


def _held(
    connection: Connection, dataset: str, mounted: Collection[str], busy: Collection[str]
) -> list[Held]:
    """Entries of a dataset that may go."""
    c, lease = tables.desired.c, tables.leases.c
    used = {
        (row.node, row.version): row.ended
        for row in connection.execute(
            select(lease.node, lease.version, func.max(lease.ended_ns).label("ended"))
            .where((lease.dataset == dataset) & lease.ended_ns.is_not(None))
            .group_by(lease.node, lease.version)
        )
    }
    found: dict[tuple[str, str], Held] = {}
    pinned = set()
    for row in connection.execute(select(tables.desired).where(c.dataset == dataset)):
        key = (row.node, row.version)
        if row.pinned:
            pinned.add(key)
        if row.version not in mounted and row.version not in busy:
            since_ns = max(row.since_ns, found[key].since_ns if key in found else 0)
            found[key] = Held(row.node, row.version, row.tag, since_ns, used.get(key, 0))
    return [one for key, one in found.items() if key not in pinned]


def carry_out(service: Service) -> list[str]:
    """Begin the jobs that policies ask for; their ids."""
    known, begun = heard(service.board), []
    mounted = {mount.version for one in known.values() for mount in one.heartbeat.mounts}
    busy = {one.spec.version for one in list(service.active.jobs.values())}
    for dataset, policy in sorted(service.chosen.policies.items()):
        with service.engine.connect() as connection:
            held = _held(connection, dataset, mounted, busy)
        for freeing in due(dataset, policy, held, known, service.now_ns()):
            reason = f"{policy.policy} {dataset} {freeing.version} {freeing.nodes} {freeing.at_ns}"
            request = FreeRequest(
                dataset=dataset,
                ref=freeing.version,
                nodes=",".join(freeing.nodes),
                request_id=blake3_hex(reason.encode()),
            )
            try:
                begun.append(orders.free(service, request, freeing.cause).id)
            except Explained as error:  # pinned a moment ago, say: the others go on
                log.warning("policy_frees_nothing", dataset=dataset, version=freeing.version, why=str(error))
    return begun
