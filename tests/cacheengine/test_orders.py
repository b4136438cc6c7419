"""Cancel and resume: what only the cancelled job asked for is taken back, and asking again goes on with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacheengine.client import Control
from cacheengine.wire import FreeRequest, PinRequest, WarmRequest
from lake.errors import Conflict, NotFound
from lake.publish import Published
from lake.stores import Store
from tests.cacheengine.played import FILES, beat, control, lake, publish_files, published, report, serve

__all__ = ["control", "lake", "published", "serve"]


def entries(control: Control, node: str = "b1") -> list[tuple[str | None, bool, bool]]:
    """(job, paused, pinned) of what a node should hold."""
    return [(v.job, v.paused, v.pinned) for v in control.desired(node).versions]


def test_a_cancelled_warm_is_paused_and_resumed(control: Control, published: Published) -> None:
    beat(control, "b1")
    job = control.warm(WarmRequest(dataset="city", priority=7, bandwidth_bps=5000))
    wanted = control.desired("b1")
    assert [(v.priority, v.bandwidth_bps) for v in wanted.versions] == [(7, 5000)]
    beat(control, "b1", wanted.generation, report(published, 5))
    done = control.cancel(job.id)
    assert (done.state, done.files_done, done.error) == ("cancelled", 5, "cancelled by admin")
    assert control.desired("b1").generation > wanted.generation and entries(control) == [
        (job.id, True, False)
    ]
    with pytest.raises(Conflict, match="cancelled"):
        control.cancel(job.id)
    again = control.resume(job.id)
    assert again.id != job.id and again.version == job.version and again.bytes_done > 0
    assert entries(control) == [(again.id, False, False)]
    assert [(v.priority, v.bandwidth_bps) for v in control.desired("b1").versions] == [(7, 5000)]
    beat(control, "b1", control.desired("b1").generation, report(published, 12))
    assert control.job(again.id, wait_s=5).state == "done"
    with pytest.raises(Conflict, match="done"):
        control.resume(again.id)
    with pytest.raises(NotFound):
        control.cancel("nothing")


def test_what_another_job_asked_for_stays(control: Control, published: Published) -> None:
    beat(control, "b1")
    first = control.warm(WarmRequest(dataset="city"))
    second = control.warm(WarmRequest(dataset="city", request_id="2"))
    assert control.cancel(second.id).state == "cancelled"
    assert entries(control) == [(first.id, False, False)]
    third = control.warm(WarmRequest(dataset="city", request_id="3"))
    control.cancel(first.id)
    assert entries(control) == [(third.id, False, False)]
    control.cancel(third.id)
    assert entries(control) == [(third.id, True, False)]


def test_what_is_pinned_by_another_order_stays(control: Control, published: Published) -> None:
    beat(control, "b1")
    job = control.warm(WarmRequest(dataset="city"))
    control.pin(PinRequest(dataset="city"))
    control.cancel(job.id)
    assert entries(control) == [(job.id, False, True)]
    pinning = control.warm(WarmRequest(dataset="city", request_id="p", files=(sorted(FILES)[0],), pin=True))
    control.cancel(pinning.id)
    assert (pinning.id, True, False) in entries(control)


def test_a_cancelled_list_is_resumed_as_the_same_list(control: Control, published: Published) -> None:
    beat(control, "b1")
    paths = tuple(sorted(FILES)[:3])
    job = control.warm(WarmRequest(dataset="city", files=paths))
    control.cancel(job.id)
    again = control.resume(job.id)
    (wanted,) = control.desired("b1").versions
    assert again.files_total == 3 and control.file_list(wanted) == list(paths) and not wanted.paused


def test_a_failed_warm_is_resumed_and_a_free_is_not(control: Control, published: Published) -> None:
    beat(control, "b1")
    job = control.warm(WarmRequest(dataset="city"))
    beat(control, "b1", control.desired("b1").generation, report(published, 9, "failed"))
    assert control.job(job.id, wait_s=5).state == "failed"
    again = control.resume(job.id)
    assert entries(control) == [(again.id, False, False)]
    with pytest.raises(Conflict, match="still runs"):
        control.resume(again.id)
    freed = control.free(FreeRequest(dataset="city"))
    with pytest.raises(Conflict, match="cannot be taken back"):
        control.cancel(freed.id)
    assert entries(control) == []


def test_what_is_freed_in_part_keeps_how_it_was_warmed(
    control: Control, lake: Store, published: Published, tmp_path: Path
) -> None:
    publish_files(lake, tmp_path, {"x/a.jpg": b"a", "x/b.jpg": b"b"}, "town")
    beat(control, "b1")
    control.warm(WarmRequest(dataset="town", priority=4, placement="spread", copies=2, bandwidth_bps=9))
    control.free(FreeRequest(dataset="town", files=("x/a.jpg",)))
    (left,) = control.desired("b1").versions
    assert control.file_list(left) == ["x/b.jpg"]
    assert (left.priority, left.placement, left.copies, left.bandwidth_bps) == (4, "spread", 2, 9)
