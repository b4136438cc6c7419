"""Heartbeats that hold what changed: whatever is lost or sent twice, what control takes is what the node held."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cacheengine.reporting import Sent, answered, joined, shortened
from cacheengine.wire import Heartbeat, HeartbeatReply, VersionReport

V = {name: name * 64 for name in "abcd"}


def report(name: str, files: int) -> VersionReport:
    return VersionReport(
        dataset="d",
        tag="v1",
        version=V[name],
        state="resident",
        files_total=9,
        files_resident=files,
        bytes_total=9,
        bytes_resident=files,
    )


def beat(**held: int) -> Heartbeat:
    return Heartbeat(
        node="n",
        idc="i",
        address="a",
        role="gpu",
        agent_version="0",
        boot_id="b",
        generation=1,
        versions=tuple(report(name, files) for name, files in held.items()),
    )


def held(heartbeat: Heartbeat) -> dict[str, int]:
    return {report.version[0]: report.files_resident for report in heartbeat.versions}


def test_only_what_changed_is_sent() -> None:
    sent = Sent()
    first = shortened(sent, beat(a=1, b=2))
    assert first.since is None and held(first) == {"a": 1, "b": 2}
    answered(sent, first, HeartbeatReply(generation=1))
    second = shortened(sent, beat(a=1, b=2))
    assert second.versions == () and second.gone == () and second.since == 1
    answered(sent, second, HeartbeatReply(generation=1))
    third = shortened(sent, beat(a=3))
    assert held(third) == {"a": 3} and [key.version for key in third.gone] == [V["b"]]
    known = joined(None, first)
    assert known is not None and joined(None, third) is joined(known.heartbeat, third) is None
    known = joined(known.heartbeat, second)
    after = joined(known.heartbeat if known else None, third)
    assert after is not None and held(after.heartbeat) == {"a": 3} and len(after.changed) == 2


def test_a_new_run_of_the_agent_begins_anew() -> None:
    old, new = Sent(), Sent()
    for _ in range(3):
        last = shortened(old, beat(a=1))
        answered(old, last, HeartbeatReply(generation=1))
    begun = joined(None, shortened(Sent(session=old.session), beat(a=1)))
    fresh = joined(begun.heartbeat if begun else None, shortened(new, beat(b=2)))
    assert fresh is not None and held(fresh.heartbeat) == {"b": 2}
    assert joined(fresh.heartbeat, last) is None  # a delta of the run that has ended


STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)),
        st.sampled_from(["arrives", "lost", "answer lost", "twice", "late", "control forgets", "restart"]),
    ),
    max_size=40,
)


@given(STEPS)
def test_what_control_takes_is_what_the_node_held(steps: list[tuple[dict[str, int], str]]) -> None:
    """One node, one control: after each heartbeat that control takes, it knows exactly what the node held then."""
    sent, known, late = Sent(), None, []
    truth: dict[tuple[str, int], dict[str, int]] = {}
    for holds, fate in steps:
        if fate == "restart":
            sent = Sent()
        if fate == "control forgets":
            known = None
        heartbeat = shortened(sent, beat(**holds))
        truth[heartbeat.session, heartbeat.number] = holds
        arriving: list[Any] = [heartbeat] * {"lost": 0, "late": 0, "twice": 2}.get(fate, 1)
        if fate == "late":
            late.append(heartbeat)
        else:
            arriving = [*late, *arriving]
            late = []
        for one in arriving:
            both = joined(known, one)
            if both is not None:
                known = both.heartbeat
                assert held(known) == truth[known.session, known.number]
        if arriving and fate != "answer lost":
            answered(sent, heartbeat, HeartbeatReply(generation=1, full=both is None))
