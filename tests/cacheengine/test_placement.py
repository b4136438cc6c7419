"""Selectors, and the rendezvous hash that nodes must agree on for ever."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacheengine.control.placement import BUCKETS, Candidate, first_owners, owned, owners, select_nodes
from lake.canonical import blake3_hex
from lake.errors import Refused

NODES = [
    Candidate("a1", "gpu", {"rack": "1"}, True),
    Candidate("a2", "gpu", {"rack": "2"}, False),
    Candidate("c1", "cache", {"rack": "1"}, True),
    Candidate("r1", "client", {}, True),
]
GOLDEN = [
    ("node-b1", "node-b2"),
    ("node-b1", "node-b2"),
    ("node-b2", "node-b1"),
    ("node-b2", "node-b1"),
    ("node-b2", "node-b3"),
    ("node-b2", "node-b3"),
    ("node-b2", "node-b1"),
    ("node-b2", "node-b3"),
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


WEIGHTS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4), st.floats(0.1, 10), min_size=2, max_size=5
)


@settings(max_examples=20, deadline=None)
@given(WEIGHTS, st.integers(1, 3))
def test_a_node_that_goes_moves_only_its_own_packs(weights: dict[str, float], copies: int) -> None:
    before = first_owners(PACKS, weights, copies)
    assert {len(set(one)) for one in before} == {min(copies, len(weights))}
    gone = min(weights)
    after = first_owners(PACKS, {n: w for n, w in weights.items() if n != gone}, copies)
    for one, other in zip(before, after, strict=True):
        kept = tuple(node for node in one if node != gone)
        assert other[: len(kept)] == kept


@settings(max_examples=20, deadline=None)
@given(WEIGHTS, st.integers(1, 3))
def test_the_shares_of_all_nodes_are_copies_of_all_packs(weights: dict[str, float], copies: int) -> None:
    held = sum(owned(PACKS, node, weights, copies).astype(int) for node in weights)
    assert set(held.tolist()) == {min(copies, len(weights))}
    for pack, names in zip(PACKS[:50], first_owners(PACKS[:50], weights, copies), strict=True):
        assert owners(pack, weights, copies) == names


def test_shares_follow_weights_and_weight_0_owns_nothing() -> None:
    weights = {"small": 1.0, "large": 3.0, "none": 0.0}
    counted = [names[0] for names in first_owners(PACKS, weights)]
    assert "none" not in counted
    assert 0.70 < counted.count("large") / len(counted) < 0.80


def test_a_thousand_nodes_have_even_shares() -> None:
    weights = {f"node-{place:04d}": 1.0 for place in range(1000)}
    every = [f"{number:04x}" + "0" * 60 for number in range(BUCKETS)]
    counted = Counter(names[0] for names in first_owners(every, weights))
    assert len(counted) == 1000
    # a node has 65.5 of the buckets; this far from it only the hash could be at fault
    assert min(counted.values()) > 30 and max(counted.values()) < 110


def test_nobody_owns_where_nobody_is() -> None:
    assert owners(PACKS[0], {}) == () and first_owners([], {"a": 1.0}) == []
    assert not owned(PACKS, "b", {"a": 1.0}).any() and not owned(PACKS, "a", {"a": 0.0}).any()
