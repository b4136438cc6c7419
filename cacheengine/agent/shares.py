"""Which packs of a desired version this node holds: all of them, or its share (`spread`). Pure but for the node's own fields."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from cacheengine.control.placement import first_owners, owned
from cacheengine.packs.have import Mask
from cacheengine.peers import sources
from cacheengine.wanted import Want
from cacheengine.wire import DesiredVersion, Group, Held


def held_of(desired: DesiredVersion) -> Held:
    """The version as the group knows it."""
    return Held(
        version=desired.version,
        list_id=desired.list_id,
        nodes=desired.nodes,
        placement=desired.placement,
        copies=desired.copies,
    )


def share(group: Group | None, me: str, desired: DesiredVersion, packs: Sequence[str]) -> Mask:
    """For each pack, whether this node should hold it. Before the group is known nothing of a spread version is its share."""
    if desired.placement == "all":
        return np.ones(len(packs), np.bool_)
    if group is None:
        return np.zeros(len(packs), np.bool_)
    held = held_of(desired)
    return owned(packs, me, sources.weights(group, held), desired.copies)


def kept(groups: Sequence[Group], me: str, desired: DesiredVersion, packs: Sequence[str]) -> Mask:
    """For each pack, whether this node should not let it go: it is of its share, or was when the group last was settled.

    Before the group is known every pack of a spread version may be its share: none goes.
    """
    if desired.placement == "spread" and not groups:
        return np.ones(len(packs), np.bool_)
    found = share(groups[-1] if groups else None, me, desired, packs)
    for group in groups[:-1]:
        found = found | share(group, me, desired, packs)
    return found


def first_mine(
    group: Group | None, me: str, desired: DesiredVersion, want: Want, places: Sequence[int]
) -> list[int]:
    """Places of packs in the order of a warm: those that this node reads from the store for all others come first."""
    if group is None or len(group.nodes) < 2:
        return list(places)
    held = held_of(desired)
    packs = [want.packs[place].id for place in places]
    if desired.placement == "spread":
        table = first_owners(packs, sources.weights(group, held), 1)
    else:
        alive = [node for node in sources.holders(group, held) if node.alive and not node.draining]
        table = first_owners(packs, {node.node: 1.0 for node in alive}, 1)
    mine = [place for place, names in zip(places, table, strict=True) if me in names]
    first = set(mine)
    others = [place for place in places if place not in first]
    # not all nodes from the first pack on: each would wait for the same one
    start = zlib.crc32(me.encode()) % max(1, len(others))
    return [*mine, *others[start:], *others[:start]]
