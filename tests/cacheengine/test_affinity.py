"""Node affinity by residency: what Kubernetes takes, and what its scheduler would make of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine import affinity
from cacheengine.wire import NodeState, VersionReport
from lake.errors import NotFound
from tests.cacheengine.kubernetes_types import problems

V, W = "a" * 64, "b" * 64
SHARES = st.dictionaries(st.sampled_from(["n1", "n2", "n3", "n4"]), st.floats(0.001, 1), min_size=1)


def node(name: str, *held: VersionReport, alive: bool = True, role: Any = "gpu") -> NodeState:
    return NodeState(
        node=name,
        idc="i",
        address="a",
        role=role,
        labels={},
        alive=alive,
        seen_ns=0,
        dirs=(),
        versions=held,
        mounts=(),
    )


def report(done: int, version: str = V, state: Any = None, **changes: Any) -> VersionReport:
    values: dict[str, Any] = {
        "dataset": "d",
        "tag": "v1",
        "version": version,
        "state": state or ("resident" if done == 10 else "fetching"),
        "files_total": 10,
        "files_resident": done,
        "bytes_total": 1000,
        "bytes_resident": done * 100,
    }
    return VersionReport(**{**values, **changes})


def weight(made: dict[str, Any], labels: dict[str, str]) -> int | None:
    """What the scheduler adds to a node's score; None: the node may not be taken."""

    def fits(term: dict[str, Any]) -> bool:
        for one in term["matchExpressions"]:
            value = labels.get(one["key"])
            if one["operator"] == "In" and value not in one["values"]:
                return False
            if one["operator"] == "Gt" and (value is None or int(value) <= int(one["values"][0])):
                return False
        return True

    required = made.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None and not any(fits(term) for term in required["nodeSelectorTerms"]):
        return None
    preferred = made.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    return sum(int(one["weight"]) for one in preferred if fits(one["preference"]))


def hostname(name: str) -> dict[str, str]:
    return {affinity.HOSTNAME: name}


def test_shares_are_of_live_nodes_that_train() -> None:
    nodes = [
        node("whole", report(10)),
        node("half", report(5)),
        node("none", report(0)),
        node("other", report(10, W)),
        node("dead", report(10), alive=False),
        node("storage", report(10), role="cache"),
        node("listed", report(10, list_id=W)),
        node("going", report(10, state="freeing")),
        node("share", report(10, group=3, bytes_total=300, bytes_resident=300)),
        node("short", report(9, state="resident", bytes_resident=1000)),
    ]
    found = affinity.shares(nodes, V, 1000)
    assert found == {"whole": 1.0, "half": 0.5, "share": 0.3, "short": 0.99}


@given(SHARES)
def test_kubernetes_takes_it_and_prefers_who_holds_more(held: dict[str, float]) -> None:
    made = affinity.by_hostname(held)
    assert list(problems(made, "V1NodeAffinity", "affinity")) == []
    weights = {name: weight(made, hostname(name)) or 0 for name in held}
    assert all(1 <= found <= 100 for found in weights.values()) and weight(made, hostname("x")) == 0
    for one, share in held.items():
        assert abs(weights[one] - share * 100) <= 1
        assert all(weights[one] >= weights[other] for other in held if share >= held[other])


def test_required_is_of_those_that_hold_all() -> None:
    made = affinity.by_hostname({"n1": 1.0, "n2": 0.99, "n3": 1.0}, required=True)
    assert list(problems(made, "V1NodeAffinity", "affinity")) == []
    assert [weight(made, hostname(name)) for name in ("n1", "n2", "n3")] == [0, None, 0]
    for held, required in (({}, False), ({}, True), ({"n1": 0.5}, True)):
        with pytest.raises(NotFound):
            affinity.by_hostname(held, required)


def test_one_node_may_be_preferred_of_those_that_are_required() -> None:
    made = affinity.on_nodes(["n2", "n1"], "n2")
    assert list(problems(made, "V1NodeAffinity", "affinity")) == []
    assert [weight(made, hostname(name)) for name in ("n1", "n2", "n3")] == [0, 100, None]
    assert affinity.on_nodes(["n1"], "n3") == affinity.on_nodes(["n1"])


def test_by_label_follows_what_the_label_says() -> None:
    key, made, strict = affinity.label_of(V), affinity.by_label(V), affinity.by_label(V, required=True)
    for one in (made, strict):
        assert list(problems(one, "V1NodeAffinity", "affinity")) == []
    assert [weight(made, {key: str(p)}) for p in (0, 5, 30, 60, 80, 100)] == [0, 20, 40, 60, 80, 100]
    assert weight(made, {}) == 0
    assert [weight(strict, {key: value}) for value in ("95", "100")] == [None, 0] and weight(
        strict, {}
    ) is None
