"""Freeing by policy: what is due, what never goes, and that each freeing is a job that says why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine.client import Control
from cacheengine.control.groupsettings import Policy
from cacheengine.control.jobs import Heard
from cacheengine.control.policies import DAY_NS, Held, due
from cacheengine.wire import DirReport, MountReport, PinRequest, SettingRequest, WarmRequest
from lake.publish import Published
from tests.cacheengine.played import (
    Serve,
    beat,
    heartbeat,
    lake,
    published,
    report,
    serve,
    wait_for,
)

__all__ = ["lake", "published", "serve"]
NOW = 1000 * DAY_NS
A, B, C = "a" * 64, "b" * 64, "c" * 64


def held(version: str, node: str = "n1", since: float = 1, used: float = 0) -> Held:
    """since, used: days ago; used 0: never."""
    return Held(node, version, "v1", int(NOW - since * DAY_NS), int(NOW - used * DAY_NS) if used else 0)


def freed(policy: Policy, *each: Held, known: Any = None) -> dict[str, tuple[str, ...]]:
    return {one.version[0]: one.nodes for one in due("d", policy, each, known or {}, NOW)}


def test_after_training_frees_what_was_mounted_and_no_longer_is() -> None:
    policy = Policy(policy="after-training", after_s=3600)
    trained, recent = held(A, since=5, used=2), held(B, since=5, used=0.01)
    never, again = held(C, since=5), held("d" * 64, since=1, used=2)
    other = held(A, "n2", since=4)
    assert freed(policy, trained, recent, never, again, other) == {"a": ("n1", "n2")}


def test_older_than_counts_from_the_last_use() -> None:
    policy = Policy(policy="older-than", days=3)
    assert freed(policy, held(A, since=4), held(B, since=9, used=2), held(C, since=2)) == {"a": ("n1",)}
    assert freed(policy, held(A, since=4), held(A, "n2", since=1)) == {}


def full(used: int, **versions: int) -> Heard:
    reports = tuple(
        report(Published_of(letter), 1, "resident", bytes_total=size, bytes_resident=size, files_total=1)
        for letter, size in versions.items()
    )
    dirs = (DirReport(path="/c", medium="nvme", quota=1000, used=used, free_on_disk=0),)
    return Heard(heartbeat("n1", 0, *reports, dirs=dirs), NOW)


class Published_of:
    """As much of a published version as a report asks for."""

    dataset, tag, files, bytes = "d", "v1", 1, 1

    def __init__(self, letter: str) -> None:
        self.version = letter * 64


def test_pressure_frees_the_least_recently_used_until_there_is_room() -> None:
    policy = Policy(policy="pressure", above=0.5)
    each = (held(A, since=1), held(B, since=9), held(C, since=5))
    assert freed(policy, *each, known={"n1": full(400, a=100, b=100, c=100)}) == {}
    assert set(freed(policy, *each, known={"n1": full(550, a=100, b=100, c=100)})) == {"b"}
    assert set(freed(policy, *each, known={"n1": full(650, a=100, b=100, c=100)})) == {"b", "c"}
    assert freed(policy, *each) == {}  # nobody heard of the node


@given(
    st.sampled_from(["after-training", "older-than"]),
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 60), st.floats(0, 60)), max_size=8),
)
def test_what_is_due_stays_due(policy: Any, entries: list[tuple[str, float, float]]) -> None:
    each = [
        held(letter * 64, f"n{place}", since, used) for place, (letter, since, used) in enumerate(entries)
    ]
    chosen = Policy(policy=policy, days=7)
    now = {one.version for one in due("d", chosen, each, {}, NOW)}
    later = {one.version for one in due("d", chosen, each, {}, NOW + DAY_NS)}
    assert now <= later <= {one.version for one in each}


@pytest.fixture
def quick(serve: Serve) -> Control:
    return serve(policy_every_s=0.1).client()


def view(published: Published) -> MountReport:
    return MountReport(
        dataset="city", tag="v1", version=published.version, target="/mnt/city", backend="loop"
    )


def test_a_version_is_freed_once_its_training_has_ended(quick: Control, published: Published) -> None:
    beat(quick, "b1")
    quick.change_setting(SettingRequest(key="free.city", value={"policy": "after-training", "after_s": 0.2}))
    job = quick.warm(WarmRequest(dataset="city"))
    generation = quick.desired("b1").generation
    beat(quick, "b1", generation, report(published, 12), mounts=(view(published),))
    assert quick.job(job.id, wait_s=5).state == "done"
    wait_for(lambda: len(quick.jobs()) == 1 and quick.nodes()[0].mounts, "the mount to be known")
    beat(quick, "b1", generation, report(published, 12))
    wait_for(lambda: quick.desired("b1").versions == (), "the policy")
    freed = quick.jobs()[0]
    assert freed.kind == "free" and str(freed.cause).startswith("policy after-training")
    beat(quick, "b1", quick.desired("b1").generation)
    assert quick.job(freed.id, wait_s=5).state == "done"
    assert len(quick.jobs()) == 2  # once, whatever comes by later


def test_what_is_pinned_or_in_use_never_goes(quick: Control, published: Published) -> None:
    beat(quick, "b1")
    quick.warm(WarmRequest(dataset="city"))
    quick.pin(PinRequest(dataset="city"))
    generation = quick.desired("b1").generation
    dirs = (DirReport(path="/c", medium="nvme", quota=1000, used=990, free_on_disk=0),)
    quick.change_setting(SettingRequest(key="free.city", value={"policy": "pressure"}))
    beat(quick, "b1", generation, report(published, 12), dirs=dirs)
    beat(quick, "b2")
    other = quick.warm(WarmRequest(dataset="city", nodes="b2"))
    beat(quick, "b2", quick.desired("b2").generation, report(published, 12), dirs=dirs)
    wait_for(lambda: quick.desired("b2").versions == (), "the policy to free b2")
    assert quick.job(other.id).state == "done"
    assert [v.pinned for v in quick.desired("b1").versions] == [True]
    assert "b2 is filled to 99%" in str(quick.jobs()[0].cause)
