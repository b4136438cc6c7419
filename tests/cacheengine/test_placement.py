"""Selectors, and the rendezvous hash that nodes must agree on for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine.control.placement import Candidate, owners, select_nodes
from lake.canonical import blake3_hex
from lake.errors import Refused

NODES = [
    Candidate("a1", "gpu", {"rack": "1"}, True),
    Candidate("a2", "gpu", {"rack": "2"}, False),
    Candidate("c1", "cache", {"rack": "1"}, True),
    Candidate("r1", "client", {}, True),
]
GOLDEN = [
    ("node-b2", "node-b1"),
    ("node-b2", "node-b1"),
    ("node-b3", "node-b2"),
    ("node-b2", "node-b1"),
    ("node-b2", "node-b3"),
    ("node-b3", "node-b1"),
    ("node-b2", "node-b1"),
    ("node-b2", "node-b1"),
]
PACKS = [blake3_hex(str(n).encode()) for n in range(3000)]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("all", ("a1", "c1")),
        ("a2", ("a2",)),  # by name: dead too
        ("a2, a1", ("a1", "a2")),
        ("role=gpu", ("a1",)),
        ("role=client", ("r1",)),
        ("label.rack=1", ("a1", "c1")),
        ("label.rack=9", ()),
        ("nobody", ()),
        ("role=cache,a2", ("a2", "c1")),
    ],
)
def test_selectors(selector: str, expected: tuple[str, ...]) -> None:
    assert select_nodes(selector, NODES) == expected


@pytest.mark.parametrize("selector", ["", "a1,,a2", "role=boss", "label.=1", "rack=1", "a b", "../x"])
def test_a_selector_that_selects_nothing_that_can_be_is_refused(selector: str) -> None:
    with pytest.raises(Refused):
        select_nodes(selector, NODES)


def test_golden_vectors() -> None:
    weights = {"node-b1": 1.0, "node-b2": 2.0, "node-b3": 0.5}
    found = [owners(pack, weights, 2) for pack in PACKS[:8]]
    assert found == GOLDEN


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.floats(0.1, 10), min_size=2, max_size=8),
    st.integers(1, 3),
    st.integers(0, 2999),
)
def test_a_node_that_goes_moves_only_its_own_packs(
    weights: dict[str, float], copies: int, number: int
) -> None:
    before = owners(PACKS[number], weights, copies)
    assert len(set(before)) == min(copies, len(weights))
    for gone in weights:
        after = owners(PACKS[number], {n: w for n, w in weights.items() if n != gone}, copies)
        kept = tuple(node for node in before if node != gone)
        assert after[: len(kept)] == kept


def test_shares_follow_weights_and_weight_0_owns_nothing() -> None:
    weights = {"small": 1.0, "large": 3.0, "none": 0.0}
    counted = [owners(pack, weights)[0] for pack in PACKS]
    assert "none" not in counted
    assert 0.70 < counted.count("large") / len(counted) < 0.80
