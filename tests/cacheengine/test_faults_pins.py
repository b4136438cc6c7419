"""Pins: who set them is known, nothing drops one in silence, and they are seen wherever nodes and residency are listed."""

from __future__ import annotations

from typing import Any

import pytest

from cacheengine.client import Control
from cacheengine.errors import Unauthorised
from cacheengine.wire import FreeRequest, PinRequest, TokenRequest, WarmRequest
from lake.errors import Conflict
from lake.publish import Published
from tests.cacheengine.played import (
    FILES,
    Serve,
    Served,
    beat,
    control,
    lake,
    published,
    report,
    serve,
    wait_for,
)

__all__ = ["Served", "control", "lake", "published", "serve"]


def ada(control: Control) -> Control:
    """A client whose token is called `ada`."""
    made = control.create_token(TokenRequest(name="ada", verbs=("read", "warm", "free", "pin")))
    return Control(control.url, made.token)


def entries(control: Control, node: str) -> list[tuple[int | None, bool]]:
    """(files of the list, or None for the whole version; whether it is pinned) of what a node should hold."""
    wanted = control.desired(node).versions
    return [(None if v.list_id is None else len(control.file_list(v) or ()), v.pinned) for v in wanted]


@pytest.mark.fault("C11")
@pytest.mark.parametrize("files", [None, tuple(sorted(FILES)[:6])], ids=["whole", "half"])
def test_a_pinned_version_is_freed_only_by_force(
    control: Control, published: Published, files: tuple[str, ...] | None
) -> None:
    for node in ("b1", "b2"):
        beat(control, node)
    control.warm(WarmRequest(dataset="city"))
    with ada(control) as she:
        she.pin(PinRequest(dataset="city", nodes="b2"))
        before = control.desired("b1"), control.desired("b2")
        with pytest.raises(Conflict, match=r"pinned on b2 by ada at \d{4}-\d\d-\d\d .*--force") as refused:
            control.free(FreeRequest(dataset="city", files=files, request_id="once"))
        assert "b1" not in str(refused.value)
        assert (control.desired("b1"), control.desired("b2")) == before
        assert control.free(FreeRequest(dataset="city", files=files, nodes="b1")).state == "queued"
        forced = control.free(FreeRequest(dataset="city", files=files, force=True, request_id="once"))
        assert [one.node for one in forced.nodes] == ["b1", "b2"]
        assert entries(control, "b2") == ([] if files is None else [(6, True)])
        if files is not None:  # what stays is as pinned as it was
            with pytest.raises(Conflict, match="by ada at"):
                control.free(FreeRequest(dataset="city"))


@pytest.mark.fault("C11")
def test_what_does_not_touch_the_pinned_list_is_freed(control: Control, published: Published) -> None:
    beat(control, "b1")
    paths = sorted(FILES)
    control.warm(WarmRequest(dataset="city", files=tuple(paths[:4]), pin=True))
    control.warm(WarmRequest(dataset="city", files=tuple(paths[4:])))
    control.free(FreeRequest(dataset="city", files=tuple(paths[4:6])))
    assert sorted(entries(control, "b1"), key=str) == [(4, True), (6, False)]
    with pytest.raises(Conflict, match="pinned"):
        control.free(FreeRequest(dataset="city", files=(paths[0], paths[7])))


@pytest.mark.fault("C11")
def test_a_cancelled_warm_leaves_the_pin_that_somebody_set_meanwhile(
    control: Control, published: Published
) -> None:
    beat(control, "b1")
    mine = control.warm(WarmRequest(dataset="city", pin=True))
    with ada(control) as she:
        she.pin(PinRequest(dataset="city"))
    assert control.cancel(mine.id).state == "cancelled"
    (entry,) = control.desired("b1").versions
    assert entry.pinned and not entry.paused
    control.unpin(PinRequest(dataset="city"))
    again = control.warm(WarmRequest(dataset="city", pin=True))
    control.cancel(again.id)
    (entry,) = control.desired("b1").versions
    assert not entry.pinned


@pytest.mark.fault("C11")
def test_a_policy_that_meets_a_pin_leaves_it_and_frees_the_rest(
    serve: Serve, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cacheengine.control import policies

    served = serve(policy_every_s=0.1)
    with served.client() as control:
        for node in ("b1", "b2"):
            beat(control, node)
        control.warm(WarmRequest(dataset="city"))
        control.pin(PinRequest(dataset="city", nodes="b1"))
        # as if the pin came between the policy's look and its order: it means to free b1 first
        freeing = [policies.Freeing(published.version, (node,), "a test", 1) for node in ("b1", "b2")]
        monkeypatch.setattr(policies, "due", lambda *_: freeing)
        from cacheengine.wire import SettingRequest

        control.change_setting(SettingRequest(key="free.city", value={"policy": "after-training"}))
        wait_for(lambda: control.desired("b2").versions == (), "the policy")
        assert entries(control, "b1") == [(None, True)]


@pytest.mark.fault("C11")
def test_a_database_that_is_lost_loses_no_pin(control: Control, published: Published) -> None:
    beat(control, "b7", 3, report(published, 12, pinned=True))
    assert entries(control, "b7") == [(None, True)]
    with pytest.raises(Conflict, match="pinned on b7 by somebody"):
        control.free(FreeRequest(dataset="city"))


@pytest.mark.fault("C11")
def test_force_needs_the_right_to_pin(control: Control, published: Published) -> None:
    beat(control, "b1")
    control.warm(WarmRequest(dataset="city", pin=True))
    made = control.create_token(TokenRequest(name="janitor", verbs=("read", "free")))
    with Control(control.url, made.token) as janitor:
        with pytest.raises(Conflict):
            janitor.free(FreeRequest(dataset="city"))
        with pytest.raises(Unauthorised, match="pin"):
            janitor.free(FreeRequest(dataset="city", force=True))
    assert entries(control, "b1") == [(None, True)]


@pytest.mark.fault("E3")
def test_pins_and_draining_are_told_of_every_node(control: Control, published: Published) -> None:
    for node in ("b1", "b2"):
        beat(control, node)
    control.warm(WarmRequest(dataset="city"))
    for node in ("b1", "b2"):
        beat(control, node, control.desired(node).generation, report(published, 12))
    with ada(control) as she:
        she.pin(PinRequest(dataset="city", nodes="b2"))
    control.drain("b1")
    told: dict[str, Any] = {node.node: node for node in control.nodes()}
    assert [(told[n].draining, told[n].pinned_total) for n in ("b1", "b2")] == [(True, 0), (False, 1)]
    (free,), (pinned,) = told["b1"].versions, told["b2"].versions
    assert (free.pinned, free.pinned_by) == (False, None)
    assert (pinned.pinned, pinned.pinned_by) == (True, "ada") and pinned.pinned_ns > 10**18
    assert [n.pinned_total for n in control.nodes(brief=True)] == [0, 1]
    control.unpin(PinRequest(dataset="city"))
    control.undrain("b1")
    assert [(n.draining, n.pinned_total) for n in control.nodes()] == [(False, 0), (False, 0)]
