"""Which nodes: selectors of people, and weighted rendezvous hashing of packs. Pure functions.

The hash is part of the contract between nodes: golden vectors in the tests pin it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3

from lake.errors import Refused
from lake.names import PART

ROLES = ("gpu", "cache", "client")
HOLDERS = ("gpu", "cache")
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


def _score(pack: str, node: str, weight: float) -> float:
    digest = blake3(f"{pack}\0{node}".encode()).digest()
    # 53 bits, so that the fraction is exact in a double, and never 0 or 1
    fraction = ((int.from_bytes(digest[:8], "big") >> 11) + 0.5) / 2**53
    return -weight / math.log(fraction)


def owners(pack: str, weights: Mapping[str, float], copies: int = 1) -> tuple[str, ...]:
    """The `copies` nodes that hold a pack in `spread` mode, best first.

    Weighted rendezvous hashing: a node's share of the packs is its share of the weights, and a node that comes or goes moves
    only its own packs. Nodes of weight 0 own nothing.
    """
    scored = sorted(((-_score(pack, node, weight), node) for node, weight in weights.items() if weight > 0))
    return tuple(node for _, node in scored[:copies])
