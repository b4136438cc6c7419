"""The cache group as pure functions: members from heartbeats, with hysteresis, and whether all shares are where they should be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cacheengine.control.jobs import Heard
from cacheengine.control.placement import HOLDERS
from cacheengine.peers import sources
from cacheengine.wire import Group, GroupNode, Held


def next_group(
    before: Group,
    heard: Mapping[str, Heard],
    drained: Collection[str],
    held: Sequence[Held],
    now_ns: int,
    away_s: float,
) -> Group:
    """The group as of now; `before` itself when nothing changed.

    A node that is silent keeps its share for `away_s`, so that one that comes and goes moves nothing. One that comes back after that
    joins anew.
    """
    known = {node.node: node for node in before.nodes}
    nodes = tuple(
        _member(known.get(name), heard[name], name in drained, now_ns, away_s) for name in sorted(heard)
    )
    moved = _shares_of(nodes) != _shares_of(before.nodes)
    generation = before.generation + moved
    found = before.model_copy(update={"generation": generation, "nodes": nodes, "held": tuple(held)})
    if is_settled(found, heard):
        found = found.model_copy(update={"settled": generation})
    return before if found == before else found.model_copy(update={"revision": before.revision + 1})


def _member(
    before: GroupNode | None, heard: Heard, is_drained: bool, now_ns: int, away_s: float
) -> GroupNode:
    h = heard.heartbeat
    alive = (now_ns - heard.seen_ns) / 1e9 <= away_s
    joined = before.joined_ns if before is not None and (before.alive or not alive) else now_ns
    return GroupNode(
        node=h.node,
        address=h.address,
        peer_address=h.peer_address,
        role=h.role,
        labels=h.labels,
        weight=0 if h.role == "client" else sum(directory.quota for directory in h.dirs),
        draining=is_drained,
        alive=alive,
        joined_ns=joined,
    )


def _shares_of(nodes: Sequence[GroupNode]) -> list[tuple[object, ...]]:
    """What decides over shares: clients, who have none, come and go without a trace."""
    return [
        (node.node, node.role, tuple(sorted(node.labels.items())), node.weight, node.draining, node.alive)
        for node in nodes
        if node.role in HOLDERS
    ]


def is_settled(group: Group, heard: Mapping[str, Heard]) -> bool:
    """Whether every share of every spread version is resident, as worked out for this very generation. Never where nobody could
    hold one: who has them keeps them."""
    if not any(node.alive and not node.draining and node.role in HOLDERS for node in group.nodes):
        return False
    for held in group.held:
        if held.placement != "spread":
            continue
        for name in sources.weights(group, held):
            reports = heard[name].heartbeat.versions if name in heard else ()
            if not any(
                (report.version, report.list_id) == (held.version, held.list_id)
                and report.state == "resident"
                and report.group == group.generation
                for report in reports
            ):
                return False
    return True
