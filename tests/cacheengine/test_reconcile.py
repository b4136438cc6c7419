"""Desired and actual → steps: a pure function; and what taking a new desired residency does to the statuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine.agent.reconcile import Action, reconcile
from cacheengine.agent.state import Node, Status, key_of, load_state, take_desired
from cacheengine.node import CacheDirConfig, NodeConfig
from cacheengine.packs.eviction import Key
from cacheengine.packs.packcache import open_cache
from cacheengine.wire import Desired, DesiredVersion, Failure, ResidencyState

NOW = 10**18
STATES: tuple[ResidencyState, ...] = ("waiting", "fetching", "resident", "failed", "freeing")


def version(letter: str, **changes: object) -> DesiredVersion:
    return DesiredVersion(dataset="d", tag="v1", version=letter * 64).model_copy(update=changes)


def status(letter: str, state: ResidencyState, **changes: int) -> Status:
    made = Status(version(letter), state, look_ns=NOW + 1)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def steps(desired: str, statuses: dict[str, Status], leased: str = "") -> list[tuple[str, str]]:
    actions = reconcile(
        [key_of(version(letter)) for letter in desired],
        {key_of(version(letter)): one for letter, one in statuses.items()},
        {key_of(version(letter)) for letter in leased},
        NOW,
    )
    return [(action.kind, action.key.version[0]) for action in actions]


def test_what_is_not_there_is_fetched_and_what_is_not_wanted_goes_first() -> None:
    known = {"a": status("a", "freeing"), "b": status("b", "resident"), "c": status("c", "waiting")}
    assert steps("bcd", known) == [("release", "a"), ("warm", "c"), ("warm", "d")]


def test_nothing_is_done_when_all_is_as_it_should_be() -> None:
    assert steps("a", {"a": status("a", "resident")}) == []


def test_a_mounted_version_is_not_released() -> None:
    assert steps("", {"a": status("a", "freeing")}, leased="a") == []


def test_a_failure_waits_for_its_time() -> None:
    assert steps("a", {"a": status("a", "failed", retry_ns=NOW + 1)}) == []
    assert steps("a", {"a": status("a", "failed", retry_ns=NOW)}) == [("warm", "a")]


def test_what_was_evicted_waits_for_someone_to_ask() -> None:
    assert steps("a", {"a": status("a", "failed", evicted=True)}) == []


def test_a_killed_fetch_goes_on() -> None:
    assert steps("a", {"a": status("a", "fetching")}) == [("warm", "a")]


def test_what_is_resident_is_looked_at_again() -> None:
    assert steps("a", {"a": status("a", "resident", look_ns=NOW)}) == [("check", "a")]


@given(
    st.lists(st.sampled_from("abcd"), unique=True),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(STATES)),
    st.sets(st.sampled_from("abcdef")),
)
def test_never_both_and_never_against_a_lease(
    desired: list[str], states: dict[str, ResidencyState], leased: set[str]
) -> None:
    found = steps("".join(desired), {k: status(k, s) for k, s in states.items()}, "".join(leased))
    assert len({letter for _, letter in found}) == len(found)
    for kind, letter in found:
        assert (kind == "release") == (letter not in desired)
        assert kind != "release" or letter not in leased
    for letter in desired:
        if states.get(letter) not in ("resident", "failed"):
            assert any(step[1] == letter and step[0] == "warm" for step in found)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return make_node(tmp_path)


def make_node(folder: Path) -> Node:
    settings = NodeConfig(
        name="n1",
        cache_dirs=(CacheDirConfig(path=folder / "cache", quota=1 << 30),),
        mounts=folder / "mounts",
        state_dir=folder / "state",
    )
    settings.views.mkdir(parents=True, exist_ok=True)

    def no_store() -> object:
        raise AssertionError("nobody may ask the store")

    return Node(settings, open_cache(settings.cache_dirs), no_store, "boot")  # type: ignore[arg-type]


def desired(generation: int, *versions: DesiredVersion) -> Desired:
    return Desired(node="n1", generation=generation, versions=versions)


def test_desired_survives_a_kill(node: Node, tmp_path: Path) -> None:
    take_desired(node, desired(4, version("a"), version("b", pinned=True)))
    take_desired(node, desired(5, version("b", pinned=True)))
    again = make_node(tmp_path)
    load_state(again)
    assert again.generation == 5
    assert {key: one.state for key, one in again.statuses.items()} == {
        Key("d", "a" * 64, None): "freeing",
        Key("d", "b" * 64, None): "waiting",
    }
    assert again.desired[Key("d", "b" * 64, None)].pinned


def test_a_damaged_state_file_is_told_and_ends_nothing(node: Node, tmp_path: Path) -> None:
    take_desired(node, desired(4, version("a")))
    (tmp_path / "state" / "desired.json").write_text('{"node": 3')
    again = make_node(tmp_path)
    load_state(again)
    assert again.generation == -1 and "state desired.json" in again.last_errors
    assert "desired" in again.unsure


def test_a_new_job_lets_a_failed_version_try_again_and_an_old_one_does_not(node: Node) -> None:
    take_desired(node, desired(1, version("a", job="j1")))
    [failed] = node.statuses.values()
    failed.state, failed.failures, failed.retry_ns = "failed", (Failure(path="x", cause="y"),), NOW * 10
    take_desired(node, desired(2, version("a", job="j1", pinned=True)))
    assert [one.state for one in node.statuses.values()] == ["failed"]
    take_desired(node, desired(3, version("a", job="j2")))
    [fresh] = node.statuses.values()
    assert (fresh.state, fresh.failures, fresh.retry_ns) == ("waiting", (), 0)


def test_a_resident_version_stays_so_and_is_looked_at_for_a_new_job(node: Node) -> None:
    take_desired(node, desired(1, version("a", job="j1")))
    [one] = node.statuses.values()
    one.state, one.look_ns = "resident", NOW
    take_desired(node, desired(2, version("a", job="j2")))
    assert (one.state, one.look_ns) == ("resident", 0)


def test_freeing_the_version_that_is_being_fetched_stops_the_fetch(node: Node) -> None:
    take_desired(node, desired(1, version("a"), version("b")))
    node.warming = key_of(version("a"))
    take_desired(node, desired(2, version("a")))
    assert not node.stop_warm.is_set()
    take_desired(node, desired(3))
    assert node.stop_warm.is_set()
    assert {one.state for one in node.statuses.values()} == {"freeing"}


def test_higher_priority_comes_first_and_a_cancelled_warm_not_at_all(node: Node) -> None:
    wanted = (
        version("a"),
        version("b", priority=5),
        version("c", priority=9, paused=True),
        version("d", priority=-1),
    )
    take_desired(node, desired(1, *wanted))
    actions = reconcile(list(node.desired), node.statuses, (), NOW)
    assert [action.key.version[0] for action in actions] == ["b", "a", "d"]


@pytest.mark.parametrize(
    ("then", "stops"),
    [
        ((version("a", priority=1), version("b", priority=1)), False),
        ((version("a", priority=1), version("b", priority=2)), True),
        ((version("a", priority=1), version("b", priority=2, paused=True)), False),
        ((version("a", priority=1, paused=True), version("b")), True),
    ],
)
def test_a_warm_ends_for_one_that_goes_first_or_when_it_is_cancelled(
    node: Node, then: tuple[DesiredVersion, ...], stops: bool
) -> None:
    take_desired(node, desired(1, version("a", priority=1), version("b")))
    node.warming = key_of(version("a"))
    assert not node.stop_warm.is_set()
    take_desired(node, desired(2, *then))
    assert node.stop_warm.is_set() is stops


def test_what_a_cancelled_warm_fetched_is_given_up_but_not_forgotten(node: Node) -> None:
    take_desired(node, desired(1, version("a", job="j1")))
    [one] = node.statuses.values()
    one.state, one.files_resident = "fetching", 7
    take_desired(node, desired(2, version("a", job="j1", paused=True)))
    assert (one.state, one.files_resident, one.given_up) == ("waiting", 7, True)
    take_desired(node, desired(3, version("a", job="j2")))
    [again] = node.statuses.values()
    assert (again.state, again.given_up) == ("waiting", False)


def test_actions_name_their_version() -> None:
    assert Action("warm", key_of(version("a"))).key == Key("d", "a" * 64, None)
