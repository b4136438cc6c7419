"""From which peers a node takes a pack, in which order. Pure functions over the group.

Of each pack one node, its first owner, reads it from the store; the others ask that one and wait while it fetches. When it refuses or
is gone, the next in the order is the owner. So the store sends each byte once, whatever fails one at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cacheengine.control.placement import HOLDERS, Candidate, owners, select_nodes
from cacheengine.wire import Group, GroupNode, Held

DEEP = 3  # owners that are asked before the store is
BESIDE = 4  # warms of the same version whose nodes are asked too


@dataclass(frozen=True)
class Ask:
    """A peer to be asked. waits: it ranks before us, so that it fetches what it lacks and is waited for."""

    node: str
    address: str
    waits: bool


def holders(group: Group, held: Held) -> list[GroupNode]:
    """Nodes that the version is on, those that are drained among them."""
    there = [node for node in group.nodes if node.role in HOLDERS]
    candidates = [Candidate(node.node, node.role, node.labels, node.alive) for node in there]
    chosen = set(select_nodes(held.nodes, candidates))
    return [node for node in there if node.node in chosen]


def weights(group: Group, held: Held) -> dict[str, float]:
    """Who shares out the packs of a version in `spread`: holders that are alive and not drained, by the quota that they offer."""
    return {
        node.node: float(node.weight) for node in holders(group, held) if node.alive and not node.draining
    }


def _ranked(nodes: Sequence[GroupNode], held: Held, pack: str) -> tuple[str, ...]:
    if held.placement == "spread":
        return owners(pack, {node.node: float(node.weight) for node in nodes}, held.copies + DEEP - 1)
    # each holds all: what is shared out is reading from the store, evenly
    return owners(pack, {node.node: 1.0 for node in nodes}, DEEP)


def order(group: Group, me: str, held: Held, pack: str) -> tuple[Ask, ...]:
    """Peers to ask for a pack before the store, best first. Drained nodes still serve, but are not waited for."""
    return order_among([node for node in holders(group, held) if node.alive], me, held, pack)


def order_among(alive: Sequence[GroupNode], me: str, held: Held, pack: str) -> tuple[Ask, ...]:
    """`order`, where the holders that are alive are known already."""
    known: Mapping[str, GroupNode] = {node.node: node for node in alive}
    staying = _ranked([node for node in alive if not node.draining], held, pack)
    going: list[str] = []
    if any(node.draining for node in alive):
        going = [name for name in _ranked(alive, held, pack) if known[name].draining and name not in staying]
    before = staying.index(me) if me in staying else len(staying)
    if held.placement == "spread":
        before = min(before, held.copies)
    asks = []
    for place, name in enumerate((*staying, *going)):
        address = known[name].peer_address
        if name != me and address is not None:
            asks.append(Ask(name, address, waits=place < before))
    # who need not fetch it may have it already: asked first, without waiting, it costs a round trip
    return tuple(sorted(asks, key=lambda ask: known[ask.node].draining is False)) if going else tuple(asks)


def beside(group: Group, held: Held, pack: str) -> list[Held]:
    """Where else the version is: what warms with other selectors brought somewhere. A few of them, for each pack others.

    Who is there may have the pack already. It is not waited for: two warms would wait for each other.
    """
    others = [one for one in group.held if one.version == held.version and one != held]
    return sorted(others, key=lambda one: zlib.crc32(f"{pack} {one.nodes}".encode()))[:BESIDE]
