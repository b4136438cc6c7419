"""A group too large for one machine, on paper: who holds which packs, what moves when it changes, how long a warm takes.

Placement is that of the agents (cacheengine.control.placement), not a copy of it. Time is a fluid model: each node reads its share from
the store, as fast as the store, its network card and its disk allow, and what it has read goes on to peers at once. Nothing fails in it
and nothing is slow: it is the time that a group could take, not one that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cacheengine.control.placement import first_owners
from lake.canonical import blake3_hex

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
FRAME_BYTES = 110_000
PACK_LEAST, PACK_MOST = 128 << 20, 512 << 20
STEPS = 2000


@dataclass(frozen=True)
class Packs:
    """ids and sizes in bytes, in the same order."""

    ids: tuple[str, ...]
    size: Ints

    @property
    def bytes(self) -> int:
        return int(self.size.sum())


@dataclass(frozen=True)
class Rates:
    """Bytes a second: of the store to all nodes together, of a node's network card in each direction, of its disk."""

    store: float
    nic: float
    disk: float


@dataclass(frozen=True)
class Moved:
    """What one change of the group moves. bytes: that nodes have to fetch; ideal: the least that any placement could move;
    elsewhere: those that moved between nodes which the change was not about (0 for rendezvous hashing)."""

    bytes: int
    ideal: float
    elsewhere: int


@dataclass(frozen=True)
class Need:
    """Bytes of each node in a warm. own: from the store; peers: from other nodes; out: sent to other nodes."""

    own: Floats
    peers: Floats
    out: Floats


def make_packs(frames: int, seed: int = 1) -> Packs:
    """Packs with so many frames of FRAME_BYTES, each of a size between PACK_LEAST and PACK_MOST."""
    total = frames * FRAME_BYTES
    source = np.random.default_rng(seed)
    about = 2 * total // (PACK_LEAST + PACK_MOST) + 1
    size = source.integers(PACK_LEAST, PACK_MOST, about)
    # the same sizes, brought to the same total; a pack fits a frame at least
    size = np.maximum(FRAME_BYTES, (size * (total / size.sum())).astype(np.int64))
    return Packs(tuple(blake3_hex(f"{seed} {place}".encode()) for place in range(about)), size)


def make_weights(nodes: int, unequal: bool = True) -> dict[str, float]:
    """Nodes and their quotas: of every four, two have one, one has two, one has four times as much (unequal disks)."""
    shares = (1.0, 1.0, 2.0, 4.0) if unequal else (1.0,)
    return {f"node-{place:04d}": shares[place % len(shares)] for place in range(nodes)}


def place(packs: Packs, weights: Mapping[str, float], copies: int = 1) -> Ints:
    """(packs, copies): for each pack the places, in `weights`, of the nodes that hold it, best first."""
    places = {node: number for number, node in enumerate(weights)}
    found = first_owners(packs.ids, weights, copies)
    return np.array([[places[node] for node in row] for row in found], np.int64)


def held(packs: Packs, owners: Ints, nodes: int) -> Floats:
    """Bytes on each node."""
    sizes = np.repeat(packs.size, owners.shape[1]).astype(np.float64)
    return np.bincount(owners.ravel(), sizes, nodes).astype(np.float64)


def balance(loads: Floats, weights: Mapping[str, float]) -> Floats:
    """What each node holds, to what its weight says that it should hold; 1 is right."""
    share = np.array(list(weights.values()))
    found: Floats = loads * (share.sum() / loads.sum()) / share
    return found


def moved(packs: Packs, before: Mapping[str, float], after: Mapping[str, float], copies: int = 1) -> Moved:
    """What has to be fetched when the weights change: a node that joins, leaves, or has another quota."""
    names = sorted(set(before) | set(after))
    numbers = {node: number for number, node in enumerate(names)}
    old = _numbered(packs, before, copies, numbers)
    new = _numbered(packs, after, copies, numbers)
    gained = ~(new[:, :, None] == old[:, None, :]).any(axis=2)
    lost = ~(old[:, :, None] == new[:, None, :]).any(axis=2)
    touched = np.array([before.get(node) != after.get(node) for node in names])
    # a copy may go from a node that the change is about to any other, or to such a node from any other
    excused = (lost & touched[old]).any(axis=1)
    strays = np.where(excused[:, None], False, gained & ~touched[new])
    grown = sum(
        max(0.0, _ideal(packs.bytes, after, node, copies) - _ideal(packs.bytes, before, node, copies))
        for node in names
    )
    return Moved(int((gained * packs.size[:, None]).sum()), grown, int((strays * packs.size[:, None]).sum()))


def _numbered(packs: Packs, weights: Mapping[str, float], copies: int, numbers: Mapping[str, int]) -> Ints:
    order = np.array([numbers[node] for node in weights], np.int64)
    return order[place(packs, weights, copies)]


def _ideal(total: int, weights: Mapping[str, float], node: str, copies: int) -> float:
    return copies * total * weights.get(node, 0.0) / sum(weights.values())


def need_all(packs: Packs, nodes: int) -> Need:
    """`all`: each node reads from the store what it owns first, of even weights, and the rest from the owners."""
    weights = make_weights(nodes, unequal=False)
    own = held(packs, place(packs, weights), nodes)
    return Need(own, packs.bytes - own, own * (nodes - 1))


def need_spread(packs: Packs, weights: Mapping[str, float], copies: int) -> Need:
    """`spread`: the first owner of a pack reads it from the store, the others from that one."""
    owners = place(packs, weights, copies)
    own = held(packs, owners[:, :1], len(weights))
    everything = held(packs, owners, len(weights))
    return Need(own, everything - own, own * (owners.shape[1] - 1))


def least_s(need: Need, rates: Rates) -> float:
    """Seconds below which no order of fetching could come: what the busiest store, card or disk needs."""
    into = need.own + need.peers
    busiest = max(into.max() / rates.nic, into.max() / rates.disk, need.out.max() / rates.nic)
    return float(max(need.own.sum() / rates.store, busiest))


def warm_s(need: Need, rates: Rates) -> float:
    """Seconds of a warm in the fluid model, in steps of 1/STEPS of the least that it could take.

    In each step a node reads of its share what the store gives it; what a node has of its share it sends on; what is sent arrives at
    nodes by what each still lacks from peers, and no card or disk takes more than its rate.
    """
    step = least_s(need, rates) / STEPS
    own, sent, taken = np.zeros_like(need.own), np.zeros_like(need.own), np.zeros_like(need.own)
    into = min(rates.nic, rates.disk) * step
    done = 1e-6 * (need.own.sum() + need.peers.sum())
    steps = 0
    while True:
        left, lacks = need.own - own, need.peers - taken
        if left.sum() <= done and lacks.sum() <= done:
            return steps * step
        if steps > 100 * STEPS:
            raise ArithmeticError("the model does not come to an end")
        steps += 1
        read = _shared(np.minimum(left, into), rates.store * step)
        own += read
        # what is there to be sent on: the part of a share that was read, to as many as want it
        ready = np.divide(need.out * own, need.own, out=np.zeros_like(own), where=need.own > 0) - sent
        offered = np.minimum(np.maximum(ready, 0.0), rates.nic * step)
        room = np.minimum(np.maximum(lacks, 0.0), into - read)
        flow = min(offered.sum(), room.sum())
        if flow > 0:
            sent += _shared(offered, flow)
            taken += _shared(room, flow)


def _shared(wishes: Floats, most: float) -> Floats:
    """Each its wish, or all the same part of it when together they are more than there is."""
    total = float(wishes.sum())
    return wishes if total <= most else wishes * (most / total)


def alone_s(need: Need, rates: Rates) -> float:
    """Seconds when every node reads all that it holds from the store, as without peers."""
    into = need.own + need.peers
    return float(max(into.sum() / rates.store, into.max() / min(rates.nic, rates.disk)))
