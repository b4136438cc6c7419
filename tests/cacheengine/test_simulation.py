"""What holds for every simulated group: nothing is lost, little moves, and no warm beats what cards, disks and the store can do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacheengine import simulation
from cacheengine.control.placement import owners
from cacheengine.simulation import Need, Rates

PACKS = simulation.make_packs(2_000_000)
WEIGHTS = st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=2, max_size=12).map(
    lambda values: {f"n{place}": value for place, value in enumerate(values)}
)
SPEEDS = st.floats(1e6, 1e11)
RATES = st.builds(Rates, SPEEDS, SPEEDS, SPEEDS)
few = settings(max_examples=25, deadline=None)


def test_packs_hold_all_frames_and_are_of_the_size_of_packs() -> None:
    assert PACKS.bytes == pytest.approx(2_000_000 * simulation.FRAME_BYTES, rel=1e-3)
    assert len(set(PACKS.ids)) == len(PACKS.ids) == len(PACKS.size)
    assert 0.8 * simulation.PACK_LEAST < PACKS.size.min() < PACKS.size.max() < 1.25 * simulation.PACK_MOST


@few
@given(WEIGHTS, st.integers(1, 3))
def test_places_are_those_of_the_agents_and_no_byte_is_lost(weights: dict[str, float], copies: int) -> None:
    places = simulation.place(PACKS, weights, copies)
    names = list(weights)
    for number in range(0, len(PACKS.ids), 97):
        assert tuple(names[p] for p in places[number]) == owners(PACKS.ids[number], weights, copies)
    loads = simulation.held(PACKS, places, len(weights))
    assert loads.sum() == pytest.approx(PACKS.bytes * min(copies, len(weights)))
    if copies < len(weights):
        share = np.array(list(weights.values()))
        assert (simulation.balance(loads, weights) * share / share.sum()).sum() == pytest.approx(1)


@few
@given(WEIGHTS, st.integers(1, 2), st.integers(0, 11), st.sampled_from([0.0, 0.5, 2.0]))
def test_a_change_moves_only_what_it_is_about(
    weights: dict[str, float], copies: int, number: int, factor: float
) -> None:
    node = f"n{number % len(weights)}"
    other = {name: weight * factor if name == node else weight for name, weight in weights.items()}
    if not factor and len(weights) <= copies:
        return  # the last one that could take it over
    move = simulation.moved(PACKS, weights, other, copies)
    assert move.elsewhere == 0
    assert move.ideal <= copies * PACKS.bytes
    assert simulation.moved(PACKS, weights, weights, copies).bytes == 0
    if not factor:
        # a node that leaves costs what it held, and nothing more
        places = simulation.place(PACKS, weights, copies)
        held = simulation.held(PACKS, places, len(weights))[list(weights).index(node)]
        assert move.bytes == held


def test_a_move_that_had_no_reason_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_turns(packs: tuple[str, ...], weights: dict[str, float], copies: int) -> list[tuple[str, ...]]:
        names = sorted(weights)
        return [(names[number % len(names)],) for number in range(len(packs))]

    monkeypatch.setattr(simulation, "first_owners", by_turns)
    before = {f"n{place}": 1.0 for place in range(5)}
    move = simulation.moved(PACKS, before, {**before, "n5": 1.0})
    assert move.elsewhere > 0.4 * PACKS.bytes
    assert move.bytes > 3 * move.ideal


@few
@given(st.integers(1, 40), RATES)
def test_no_warm_is_faster_than_the_least_or_slower_than_step_by_step(nodes: int, rates: Rates) -> None:
    need = simulation.need_all(PACKS, nodes)
    seconds, least = simulation.warm_s(need, rates), simulation.least_s(need, rates)
    assert seconds >= least * 0.999
    # first the shares, then the exchange, each as slowly as its narrowest place
    into = (need.own + need.peers).max()
    narrowest = into / min(rates.nic, rates.disk) + need.own.sum() / rates.store + need.out.max() / rates.nic
    assert seconds <= 1.01 * narrowest + need.own.max() / min(rates.nic, rates.disk)


@few
@given(WEIGHTS, st.integers(1, 3), RATES)
def test_the_store_sends_each_byte_once(weights: dict[str, float], copies: int, rates: Rates) -> None:
    for need in (simulation.need_all(PACKS, len(weights)), simulation.need_spread(PACKS, weights, copies)):
        assert need.own.sum() == pytest.approx(PACKS.bytes)
        assert need.out.sum() == pytest.approx(need.peers.sum())
        assert simulation.warm_s(need, rates) >= PACKS.bytes / rates.store * 0.999


def test_when_the_store_is_narrow_peers_make_a_warm_as_fast_as_one_copy() -> None:
    rates = Rates(store=1e9, nic=1e11, disk=1e11)
    one, many = (simulation.warm_s(simulation.need_all(PACKS, nodes), rates) for nodes in (1, 16))
    assert many == pytest.approx(one, rel=0.05)
    assert simulation.alone_s(simulation.need_all(PACKS, 16), rates) == pytest.approx(16 * one, rel=0.01)


def test_a_node_that_needs_nothing_waits_for_nobody() -> None:
    nothing = np.zeros(3)
    assert simulation.warm_s(
        Need(np.array([1e9, 0, 0]), nothing, nothing), Rates(1e9, 1e9, 1e9)
    ) == pytest.approx(1, rel=0.01)
