"""Settings of the group: what holds, who changed it, what a change touches, and that it reaches nodes and syncs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine.client import Control
from cacheengine.control.groupsettings import Budget, GroupSettings, checked, chosen
from cacheengine.errors import Unauthorised
from cacheengine.wire import RevertRequest, SettingRequest, TokenRequest, WarmRequest
from lake.errors import NotFound, Refused
from lake.publish import Published
from tests.cacheengine.played import Serve, beat, control, heartbeat, lake, published, report, serve

__all__ = ["control", "lake", "published", "serve"]


def change(control: Control, key: str, value: Any, dry_run: bool = False) -> Any:
    return control.change_setting(SettingRequest(key=key, value=value, dry_run=dry_run))


def test_a_change_says_who_when_and_what_it_touches_before_it_is_made(
    control: Control, published: Published
) -> None:
    for node in ("b1", "b2"):
        beat(control, node)
    job = control.warm(WarmRequest(dataset="city", nodes="b1"))
    control.warm(WarmRequest(dataset="city", nodes="b2", bandwidth_bps=7))
    before = control.desired("b1")
    asked = change(control, "bandwidth_bps", 1000, dry_run=True)
    assert (asked.applied, asked.number, asked.nodes, asked.jobs) == (False, None, ("b1",), (job.id,))
    assert control.setting_history() == [] and control.desired("b1") == before
    made = change(control, "bandwidth_bps", 1000)
    assert (made.old, made.new, made.who, made.applied, made.nodes) == (None, 1000, "admin", True, ("b1",))
    after = control.desired("b1")
    assert after.generation > before.generation and after.versions[0].bandwidth_bps == 1000
    assert control.desired("b2").versions[0].bandwidth_bps == 7
    assert [s.value for s in control.settings() if s.key == "bandwidth_bps"] == [1000]


def test_a_revert_is_one_change_more_and_nothing_is_forgotten(control: Control) -> None:
    first = change(control, "dead_after_s", 60)
    second = change(control, "dead_after_s", 90)
    with pytest.raises(NotFound):
        control.revert_setting(RevertRequest(number=99))
    assert not control.revert_setting(RevertRequest(number=second.number, dry_run=True)).applied
    back = control.revert_setting(RevertRequest(number=second.number))
    assert (back.old, back.new, back.reverts) == (90, 60, second.number)
    assert control.revert_setting(RevertRequest(number=first.number)).new is None
    history = control.setting_history("dead_after_s")
    assert [(one.old, one.new) for one in history] == [(60, None), (90, 60), (60, 90), (None, 60)]
    assert {one.key: one.chosen for one in control.settings()}["dead_after_s"] is False


def test_settings_hold_at_once_and_after_a_start(serve: Serve) -> None:
    with serve().client() as control:
        assert control.heartbeat(heartbeat("b1")).interval_s == 2.0
        change(control, "heartbeat_interval_s", 9)
        assert control.heartbeat(heartbeat("b1")).interval_s == 9.0
        change(control, "heartbeats_per_s", 0.01)
        assert control.heartbeat(heartbeat("b1")).interval_s == 100.0  # one node at 0.01 a second
    with serve().client() as other:
        assert other.heartbeat(heartbeat("b1")).interval_s == 100.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nothing", 1),
        ("dead_after_s", -1),
        ("dead_after_s", "long"),
        ("link.a", {"bps": 1}),
        ("link.a.b.c", {"bps": 1}),
        ("link.a.b", {"bps": -1}),
        ("link.a.b", {"hours": {"24": 1}}),
        ("link.a.b", 5),
        ("free.city", {"policy": "sometimes"}),
        ("free.city", {"policy": "older-than", "days": 0}),
        ("free.../x", {"policy": "pressure"}),
        ("free.", None),
    ],
)
def test_what_means_nothing_is_refused(control: Control, key: str, value: Any) -> None:
    with pytest.raises(Refused):
        change(control, key, value)
    assert control.setting_history() == []


def test_only_an_admin_changes_them_and_a_policy_whoever_may_free(serve: Serve) -> None:
    served = serve()
    with served.client() as admin:
        token = admin.create_token(TokenRequest(name="t", verbs=("free",), datasets=("city",))).token
    with served.client(token) as some:
        assert change(some, "free.city", {"policy": "pressure"}).who == "t"
        for key, value in (("free.town", {"policy": "pressure"}), ("keep_days", 1)):
            with pytest.raises(Unauthorised):
                change(some, key, value)
        assert some.setting_history() and some.settings()


def test_a_link_is_shared_by_the_syncs_that_use_it(control: Control) -> None:
    assert control.link_budget("idc-a", "idc-b", "s1").share_bps is None
    change(control, "link.idc-a.idc-b", {"bps": 900})
    assert control.link_budget("idc-a", "idc-b", "s1").share_bps == 900
    second = control.link_budget("idc-a", "idc-b", "s2")
    assert (second.bps, second.share_bps, second.syncs) == (900, 450, 2)
    assert control.link_budget("idc-a", "idc-b").share_bps == 450  # who has no name only looks
    assert control.link_budget("idc-b", "idc-a", "s3").bps is None
    change(control, "link.idc-a.idc-b", {"bps": 900, "hours": {str(hour): 0 for hour in range(24)}})
    assert control.link_budget("idc-a", "idc-b", "s1").share_bps == 0
    asked = change(control, "link.idc-a.idc-b", {"bps": 5}, dry_run=True)
    assert "2 syncs" in asked.says


@given(st.integers(0, 23), st.dictionaries(st.integers(0, 23), st.none() | st.integers(0, 9)))
def test_a_budget_holds_by_hour(hour: int, hours: dict[int, int | None]) -> None:
    assert Budget(bps=5, hours=hours).at(hour) == hours.get(hour, 5)


@given(st.integers(1, 5000), st.floats(0.1, 60), st.floats(1, 1000))
def test_a_group_never_sends_more_than_it_may(nodes: int, interval_s: float, most: float) -> None:
    found = GroupSettings(heartbeat_interval_s=interval_s, heartbeats_per_s=most).interval_s(nodes)
    assert found >= interval_s and nodes / found <= most * 1.000001


def test_what_is_kept_is_what_holds() -> None:
    assert checked("link.a.b", {"bps": 3}) == {"bps": 3}
    held = chosen(
        GroupSettings(), {"dead_after_s": "3", "link.a.b": '{"bps": 3}', "free.x": '{"policy": "pressure"}'}
    )
    assert held.group.dead_after_s == 3 and held.links["a", "b"].bps == 3
    assert held.policies["x"].above == 0.9


def test_a_silent_node_that_was_told_to_be_is_not_dead(serve: Serve, published: Published) -> None:
    with serve(dead_after_s=0.3, dead_grace_s=0.2).client() as control:
        change(control, "heartbeats_per_s", 0.01)  # one heartbeat in 100 s, then
        beat(control, "b1", 0, report(published, 12))
        job = control.warm(WarmRequest(dataset="city"))
        assert control.job(job.id, wait_s=1.0).state in ("queued", "running")
        assert [node.alive for node in control.nodes()] == [True]
