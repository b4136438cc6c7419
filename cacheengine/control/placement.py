"""Which nodes: selectors of people, and weighted rendezvous hashing of packs. Pure functions.

The hash is part of the contract between nodes: golden vectors in the tests pin it. Packs are placed by bucket, so that a group's whole
table is made once, with numpy, for any number of packs. 65,536 of them: with 1,000 nodes each has 65, where 4,096 would leave it 4 and
its share at the mercy of the hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from lake.errors import Refused
from lake.names import PART

ROLES = ("gpu", "cache", "client")
HOLDERS = ("gpu", "cache")
BUCKETS = 1 << 16
CELLS = 1 << 22  # scores in memory at once
Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int32]
_FIX = "give `all`, node names with commas between, `role=gpu` or `label.KEY=VALUE`"


@dataclass(frozen=True)
class Candidate:
    """A node as a selector sees it. `near`: alive, or away for so short a time that it may come back."""

    node: str
    role: str
    labels: Mapping[str, str]
    near: bool


def _term_fits(term: str, candidate: Candidate) -> bool:
    if term == "all":
        return candidate.near and candidate.role in HOLDERS
    key, equals, value = term.partition("=")
    if not equals:
        return candidate.node == term
    if key == "role":
        return candidate.near and candidate.role == value
    return candidate.near and candidate.labels.get(key.removeprefix("label.")) == value


def check_selector(selector: str) -> tuple[str, ...]:
    """The terms of a selector. Raises Refused."""
    terms = tuple(term.strip() for term in selector.split(","))
    for term in terms:
        key, equals, value = term.partition("=")
        if equals:
            legal = (key == "role" and value in ROLES) or (key.startswith("label.") and len(key) > 6)
        else:
            legal = PART.fullmatch(term) is not None
        if not legal:
            raise Refused(
                f"the selector {selector[:200]!r}", f"{term[:80]!r} selects nothing that can be", _FIX
            )
    return terms


def select_nodes(selector: str, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Names of the nodes that any term picks, sorted.

    `all` picks nodes that hold packs (not clients). Patterns pick near nodes; a name picks its node even when it is dead, so
    that whoever asks hears of it. Raises Refused.
    """
    terms = check_selector(selector)
    return tuple(sorted({c.node for c in candidates for term in terms if _term_fits(term, c)}))


def _seed(node: str) -> int:
    return int.from_bytes(blake3(node.encode()).digest()[:8], "little")


def _mixed(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): all bits of the result depend on all bits of the value."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _scores(buckets: npt.NDArray[np.uint64], nodes: Sequence[str], weights: Floats) -> Floats:
    """(buckets, nodes): the higher, the sooner the node owns the bucket."""
    seeds = np.array([_seed(node) for node in nodes], np.uint64)
    keys = _mixed((buckets + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    mixed = _mixed(keys[:, None] ^ seeds[None, :])
    # 53 bits, so that the fraction is exact in a double, and never 0 or 1
    fraction = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    found: Floats = -weights / np.log(fraction)
    return found


@lru_cache(maxsize=32)
def _table(weights: tuple[tuple[str, float], ...], copies: int) -> tuple[tuple[str, ...], Places]:
    """(nodes by name, for each bucket the places of its owners in them, best first)."""
    nodes = tuple(node for node, _ in weights)
    share = np.array([weight for _, weight in weights], np.float64)
    depth = min(copies, len(nodes))
    ranks = np.empty((BUCKETS, depth), np.int32)
    step = max(1, CELLS // max(1, len(nodes)))
    for start in range(0, BUCKETS, step):
        buckets = np.arange(start, min(BUCKETS, start + step), dtype=np.uint64)
        scores = _scores(buckets, nodes, share)
        if depth == 1:
            ranks[start : start + step, 0] = np.argmax(scores, axis=1)
            continue
        best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        ranks[start : start + step] = np.take_along_axis(best, order, axis=1)
    return nodes, ranks


def _of(weights: Mapping[str, float], copies: int) -> tuple[tuple[str, ...], Places]:
    return _table(tuple(sorted((node, float(w)) for node, w in weights.items() if w > 0)), copies)


def bucket(pack: str) -> int:
    """The first 16 bits of the pack's id, which is a hash."""
    return int(pack[:4], 16)


def buckets(packs: Sequence[str]) -> Places:
    """The bucket of each pack id."""
    raw = np.frombuffer(bytes.fromhex("".join([pack[:4] for pack in packs])), ">u2")
    return raw.astype(np.int32)


def owners(pack: str, weights: Mapping[str, float], copies: int = 1) -> tuple[str, ...]:
    """The `copies` nodes that hold a pack in `spread` mode, best first.

    Weighted rendezvous hashing of buckets of packs: a node's share is its share of the weights, and a node that comes or goes moves
    only its own packs. Nodes of weight 0 own nothing.
    """
    nodes, ranks = _of(weights, copies)
    return tuple(nodes[place] for place in ranks[bucket(pack)].tolist())


def owned(
    packs: Sequence[str], node: str, weights: Mapping[str, float], copies: int = 1
) -> npt.NDArray[np.bool_]:
    """For each pack, whether the node is one of its owners."""
    nodes, ranks = _of(weights, copies)
    if node not in nodes or not packs:
        return np.zeros(len(packs), np.bool_)
    mine: npt.NDArray[np.bool_] = (ranks == nodes.index(node)).any(axis=1)
    return mine[buckets(packs)]


def first_owners(
    packs: Sequence[str], weights: Mapping[str, float], copies: int = 1
) -> list[tuple[str, ...]]:
    """`owners` of many packs at once."""
    nodes, ranks = _of(weights, copies)
    if not packs:
        return []
    return [tuple(nodes[place] for place in row) for row in ranks[buckets(packs)].tolist()]
