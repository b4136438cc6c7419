"""Who is asked for a pack, when a peer is left alone, and what becomes of the group: pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacheengine.agent import membership, shares
from cacheengine.control.group import is_settled, next_group
from cacheengine.control.jobs import Heard
from cacheengine.peers import breaker, peerwire, sources
from cacheengine.peers.breaker import Breaker
from cacheengine.wire import DesiredVersion, DirReport, Group, GroupNode, Heartbeat, Held, VersionReport
from lake.canonical import blake3_hex

PACKS = [blake3_hex(str(n).encode()) for n in range(200)]
V = "a" * 64
ALL, SPREAD = Held(version=V), Held(version=V, placement="spread")


def member(name: str, **changes: Any) -> GroupNode:
    values: dict[str, Any] = {
        "node": name,
        "address": "",
        "peer_address": f"{name}:1",
        "role": "gpu",
        "weight": 10,
    }
    return GroupNode(**{**values, **changes})


def group_of(*nodes: GroupNode) -> Group:
    return Group(generation=1, nodes=nodes)


NAMES = st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=10, unique=True)


@settings(deadline=None, max_examples=12)
@given(NAMES, st.sampled_from(PACKS))
def test_of_each_pack_exactly_one_node_reads_the_store_and_all_others_wait_for_it(
    names: list[str], pack: str
) -> None:
    group = group_of(*map(member, names))
    readers = [me for me in names if not any(ask.waits for ask in sources.order(group, me, ALL, pack))]
    assert len(readers) == 1
    for me in set(names) - set(readers):
        asks = sources.order(group, me, ALL, pack)
        assert asks[0].node == readers[0] and asks[0].waits
        assert me not in [ask.node for ask in asks]
    # nobody waits in a circle: who is waited for ranks before, and waits for none of those behind
    waits = {me: {ask.node for ask in sources.order(group, me, ALL, pack) if ask.waits} for me in names}
    for me, others in waits.items():
        assert all(me not in waits[other] for other in others)


@settings(deadline=None, max_examples=12)
@given(NAMES, st.sampled_from(PACKS), st.integers(1, 3))
def test_a_node_that_joins_asks_who_had_the_pack_before(names: list[str], pack: str, copies: int) -> None:
    held = SPREAD.model_copy(update={"copies": copies})
    old, new = group_of(*map(member, names[1:])), group_of(*map(member, names))
    weights = sources.weights(old, held)
    had = [n for n in weights if shares.share(old, n, desired(copies), [pack])[0]]
    has = [n for n in sources.weights(new, held) if shares.share(new, n, desired(copies), [pack])[0]]
    if names[0] in has:
        asked = [ask.node for ask in sources.order(new, names[0], held, pack)]
        assert set(had) <= set(asked)


def desired(copies: int = 1, **changes: Any) -> DesiredVersion:
    return DesiredVersion(dataset="d", tag="v1", version=V, placement="spread", copies=copies, **changes)


def test_a_drained_node_is_asked_first_and_never_waited_for() -> None:
    names = "abcd"
    group = group_of(*(member(name, draining=name == "a") for name in names))
    mine = [p for p in PACKS if shares.share(group_of(*map(member, names)), "a", desired(), [p])[0]]
    assert mine
    for pack in mine:
        [owner] = [n for n in "bcd" if shares.share(group, n, desired(), [pack])[0]]
        asks = sources.order(group, owner, SPREAD, pack)
        assert asks[0].node == "a" and not asks[0].waits
    assert not shares.share(group, "a", desired(), PACKS).any()


def test_clients_and_the_dead_are_not_asked_and_selectors_hold() -> None:
    group = group_of(
        member("a"),
        member("b", role="client", weight=0),
        member("c", alive=False),
        member("d", peer_address=None),
        member("e", role="cache"),
        member("f", role="cache", labels={"rack": "1"}),
    )
    for pack in PACKS[:20]:
        assert {ask.node for ask in sources.order(group, "b", ALL, pack)} <= {"a", "e", "f"}
        caches = ALL.model_copy(update={"nodes": "role=cache"})
        assert {ask.node for ask in sources.order(group, "b", caches, pack)} == {"e", "f"}
        rack = ALL.model_copy(update={"nodes": "label.rack=1"})
        assert {ask.node for ask in sources.order(group, "b", rack, pack)} == {"f"}
        assert sources.order(group, "f", rack, pack) == ()


def test_who_holds_the_version_for_another_warm_is_asked_too() -> None:
    named = [ALL.model_copy(update={"nodes": name}) for name in "abcdefgh"]
    other = Held(version="b" * 64, nodes="a")
    group = group_of(*map(member, "abcdefgh")).model_copy(update={"held": (*named, other, SPREAD)})
    asked = [sources.beside(group, named[0], pack) for pack in PACKS]
    assert all(len(one) == sources.BESIDE and named[0] not in one and other not in one for one in asked)
    # for each pack others, so that nobody is asked for all of them
    times = [sum(held in one for one in asked) for held in named[1:]]
    assert min(times) > 0.5 * len(PACKS) * sources.BESIDE / len(named)


def test_what_was_a_share_is_kept_until_the_group_is_settled() -> None:
    before = Group(generation=4, settled=4, nodes=tuple(map(member, "ab")))
    joined = Group(generation=5, settled=4, nodes=tuple(map(member, "abc")))
    groups = membership.still_held(membership.still_held((), before), joined)
    assert [g.generation for g in groups] == [4, 5]
    kept, now = shares.kept(groups, "a", desired(), PACKS), shares.share(joined, "a", desired(), PACKS)
    was = shares.share(before, "a", desired(), PACKS)
    assert (kept == was | now).all() and (was & ~now).any()
    settled = membership.still_held(groups, joined.model_copy(update={"settled": 5}))
    assert [g.generation for g in settled] == [5]
    assert (shares.kept(settled, "a", desired(), PACKS) == now).all()


def test_before_the_group_is_known_nothing_is_a_share() -> None:
    assert not shares.share(None, "a", desired(), PACKS).any()
    assert shares.share(None, "a", desired().model_copy(update={"placement": "all"}), PACKS).all()


@given(st.lists(st.tuples(st.sampled_from(["ok", "fail", "wait"]), st.floats(0, 100)), max_size=60))
def test_a_breaker_lets_one_try_at_a_time_through_and_closes_when_it_works(
    steps: list[tuple[str, float]],
) -> None:
    now, found, row = 0.0, Breaker(), 0
    for kind, seconds in steps:
        now += seconds
        let = breaker.admit(found, now)
        state = breaker.state(found, now)
        assert (let is None) == (state == "open" or (state == "half-open" and found.trying))
        if let is None:
            assert row >= breaker.FAILURES
            continue
        if breaker.state(let, now) == "half-open":
            assert breaker.admit(let, now) is None
        if kind == "ok":
            found, row = breaker.succeeded(let), 0
            assert breaker.state(found, now) == "closed"
        elif kind == "fail":
            found, row = breaker.failed(let, now), row + 1
            assert (breaker.state(found, now) == "open") == (row >= breaker.FAILURES)
            assert found.until <= now + breaker.OPEN_MOST_S
        else:
            found = breaker.succeeded(let) if row == 0 else found


@given(st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 30_000)), min_size=1, max_size=40))
def test_spans_hold_every_member_once_and_what_lies_between_is_short(steps: list[tuple[int, int]]) -> None:
    offset, length, end = [], [], 0
    for gap, size in steps:
        offset.append(end + gap)
        length.append(size)
        end += gap + size
    at, sizes = np.array(offset, np.int64), np.array(length, np.int64)
    found = peerwire.spans(at, sizes)
    assert (found[1:, 0] - found[:-1, 1] > peerwire.GAP).all()
    for start, size in steps_of(offset, length):
        assert ((found[:, 0] <= start) & (start + size <= found[:, 1])).sum() >= 1
    members = peerwire.decode(peerwire.encode(at, sizes, at.astype(np.uint64)), end)
    assert members is not None and (members[0] == at).all() and (members[1] == sizes).all()
    if sizes[-1]:
        assert peerwire.decode(peerwire.encode(at, sizes, at.astype(np.uint64)), end - 1) is None


def steps_of(offset: list[int], length: list[int]) -> list[tuple[int, int]]:
    return list(zip(offset, length, strict=True))


@given(st.binary(max_size=200), st.integers(0, 1 << 43))
def test_a_request_is_members_inside_the_pack_or_nothing(body: bytes, size: int) -> None:
    found = peerwire.decode(body, size)
    if found is not None:
        offset, length, _ = found
        assert (offset >= 0).all() and (length >= 0).all() and (offset + length <= size).all()


def heard(name: str, seen_s: float, *reports: VersionReport, **changes: Any) -> Heard:
    values: dict[str, Any] = {
        "node": name,
        "idc": "i",
        "address": f"http://{name}",
        "role": "gpu",
        "agent_version": "0",
        "boot_id": "b",
        "generation": 0,
        "dirs": (DirReport(path="/c", medium="ssd", quota=100, used=0, free_on_disk=100),),
        "versions": reports,
    }
    return Heard(Heartbeat(**{**values, **changes}), int(seen_s * 1e9))


def at(before: Group, seconds: float, *nodes: Heard, drained: tuple[str, ...] = ()) -> Group:
    known = {h.heartbeat.node: h for h in nodes}
    return next_group(before, known, drained, [SPREAD], int(seconds * 1e9), away_s=60.0)


NOBODY = Group(generation=0)


def test_a_node_that_comes_and_goes_moves_nothing() -> None:
    first = at(NOBODY, 1, heard("a", 1), heard("b", 1))
    assert (first.generation, [n.weight for n in first.nodes]) == (1, [100, 100])
    group = first
    for second in range(2, 200, 10):  # b is heard every 50 s only
        group = at(group, second, heard("a", second), heard("b", second - second % 50))
        assert group == first
    gone = at(group, 300, heard("a", 300), heard("b", 200))
    assert gone.generation == 2 and [n.alive for n in gone.nodes] == [True, False]
    back = at(gone, 310, heard("a", 310), heard("b", 310))
    assert back.generation == 3 and back.nodes[1].joined_ns > first.nodes[1].joined_ns
    assert back.nodes[0].joined_ns == first.nodes[0].joined_ns


@pytest.mark.parametrize(
    ("changes", "moves"),
    [
        ({"role": "client"}, True),
        ({"labels": {"rack": "2"}}, True),
        ({"address": "http://elsewhere"}, False),
        ({"peer_address": "elsewhere:1"}, False),
        ({"fetch_bps": 5.0}, None),
    ],
)
def test_what_changes_shares_grows_the_generation_and_all_else_the_revision(
    changes: dict[str, Any], moves: bool | None
) -> None:
    before = at(NOBODY, 1, heard("a", 1), heard("b", 1))
    after = at(before, 2, heard("a", 2), heard("b", 2, **changes))
    assert after.generation - before.generation == bool(moves)
    assert after.revision - before.revision == (moves is not None)


def test_clients_come_and_go_without_a_new_generation() -> None:
    before = at(NOBODY, 1, heard("a", 1))
    after = at(before, 2, heard("a", 2), heard("c", 2, role="client"))
    assert after.generation == before.generation and len(after.nodes) == 2
    assert sources.weights(after, SPREAD) == {"a": 100.0}


def test_a_group_is_settled_when_each_share_of_this_generation_is_resident() -> None:
    def report(generation: int | None, state: Any = "resident") -> VersionReport:
        return VersionReport(
            dataset="d", tag="t", version=V, state=state, files_total=1, files_resident=1, bytes_total=1,
            bytes_resident=1, group=generation,
        )  # fmt: skip

    group = at(NOBODY, 1, heard("a", 1), heard("b", 1), heard("c", 1, role="client"))
    assert group.settled == 0
    for one, other, whole in (
        (report(1), report(1), True),
        (report(1), report(0), False),
        (report(1), report(None), False),
        (report(1), report(1, "fetching"), False),
    ):
        there = {"a": heard("a", 2, one), "b": heard("b", 2, other)}
        assert is_settled(group, there) == whole
    done = at(group, 2, heard("a", 2, report(1)), heard("b", 2, report(1)), heard("c", 2, role="client"))
    assert (done.generation, done.settled) == (1, 1)
    # a drained node has no share that is waited for, and the group is settled without it
    drained = at(
        done,
        3,
        heard("a", 3, report(1)),
        heard("b", 3, report(2)),
        heard("c", 3, role="client"),
        drained=("a",),
    )
    assert (drained.generation, drained.settled) == (2, 2)
