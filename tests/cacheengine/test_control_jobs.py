"""Jobs as pure functions: done is said only of N of N, on every node, at the job's generation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheengine.control.jobs import Chosen, Heard, Limits, Spec, estimate, judge
from cacheengine.wire import (
    Desired,
    DesiredVersion,
    DirReport,
    Failure,
    Heartbeat,
    Job,
    MountReport,
    NodeEstimate,
    VersionReport,
)

V, W = "a" * 64, "b" * 64
SECOND = 10**9
LIMITS = Limits(15.0, 30.0)


def spec(*nodes: tuple[str, int], **changes: Any) -> Spec:
    values: dict[str, Any] = {
        "id": "j",
        "kind": "warm",
        "dataset": "d",
        "tag": "v1",
        "version": V,
        "files": 10,
        "bytes": 1000,
        "selector": "all",
        "created_ns": 0,
        "nodes": tuple(Chosen(node=n, generation=g) for n, g in nodes),
    }
    return Spec(**{**values, **changes})


def report(done: int = 10, state: Any = "resident", **changes: Any) -> VersionReport:
    values: dict[str, Any] = {
        "dataset": "d",
        "tag": "v1",
        "version": V,
        "state": state,
        "files_total": 10,
        "files_resident": done,
        "bytes_total": 1000,
        "bytes_resident": done * 100,
    }
    return VersionReport(**{**values, **changes})


def beat(node: str, generation: int, *versions: VersionReport, seen_s: float = 0, **changes: Any) -> Heard:
    values: dict[str, Any] = {
        "node": node,
        "idc": "idc-b",
        "address": "127.0.0.1:1",
        "role": "gpu",
        "agent_version": "0",
        "boot_id": "b",
        "generation": generation,
        "versions": versions,
    }
    return Heard(Heartbeat(**{**values, **changes}), int(seen_s * SECOND))


def judged(made: Spec, *heard: Heard, at_s: float = 1) -> Job:
    return judge(made, {h.heartbeat.node: h for h in heard}, int(at_s * SECOND), LIMITS)


def test_done_needs_every_node() -> None:
    made = spec(("a", 3), ("b", 5))
    half = judged(made, beat("a", 3, report()), beat("b", 5, report(4, "fetching", rate_bps=100.0)))
    assert (half.state, half.files_done, half.bytes_done, half.eta_s) == ("running", 4, 400, 6.0)
    assert half.ended_ns is None
    done = judged(made, beat("a", 3, report()), beat("b", 6, report()))
    assert (done.state, done.files_done, done.bytes_done, done.error) == ("done", 10, 1000, None)
    assert done.ended_ns is not None


def test_a_report_from_before_the_job_proves_nothing() -> None:
    found = judged(spec(("a", 3)), beat("a", 2, report()))
    assert (found.state, found.nodes[0].state) == ("queued", "waiting")


def test_another_list_or_version_proves_nothing() -> None:
    assert judged(spec(("a", 1)), beat("a", 1, report(version=W))).state == "running"
    assert judged(spec(("a", 1)), beat("a", 1, report(list_id=W))).state == "running"
    assert judged(spec(("a", 1), list_id=W), beat("a", 1, report())).state == "running"
    assert judged(spec(("a", 1)), beat("a", 1, report(dataset="e"))).state == "running"


def test_resident_with_too_few_files_is_a_failure() -> None:
    short = judged(spec(("a", 1)), beat("a", 1, report(9)))
    assert short.state == "failed" and "9 of 10" in str(short.error)
    other = judged(spec(("a", 1)), beat("a", 1, report(9, files_total=9)))
    assert other.state == "failed" and other.failures


def test_a_failure_lists_its_paths() -> None:
    lost = (Failure(path="x/1.jpg", cause="wrong hash"), Failure(path="x/2.jpg", cause="wrong hash"))
    found = judged(
        spec(("a", 1), ("b", 1)), beat("a", 1, report(8, "failed", failures=lost)), beat("b", 1, report())
    )
    assert found.state == "failed" and found.failures == lost
    assert "x/1.jpg: wrong hash" in str(found.error) and found.ended_ns is not None


def test_no_node_is_a_failure() -> None:
    found = judged(spec(selector="role=gpu"))
    assert found.state == "failed" and "role=gpu" in str(found.error)


def test_a_dead_node_fails_the_job_after_the_grace_and_not_before() -> None:
    made, heard = spec(("a", 1)), beat("a", 1, report(3, "fetching"), seen_s=100)
    assert judged(made, heard, at_s=114).error is None
    waiting = judged(made, heard, at_s=130)
    assert waiting.state == "running" and "waiting" in str(waiting.error)
    dead = judged(made, heard, at_s=146)
    assert dead.state == "failed" and "no heartbeat for 46 s" in str(dead.error)
    assert judged(made, beat("a", 1, report(), seen_s=100), at_s=500).state == "done"


def test_eta_before_the_first_byte_comes_from_what_was_measured() -> None:
    assert judged(spec(("a", 1)), beat("a", 1, fetch_bps=250.0)).eta_s == 4.0
    assert judged(spec(("a", 1)), beat("a", 1)).eta_s is None
    both = judged(spec(("a", 1), ("b", 1)), beat("a", 1, fetch_bps=250.0), beat("b", 1, fetch_bps=500.0))
    assert both.eta_s == 4.0


@pytest.mark.fault("B4")
def test_what_is_on_the_way_is_told_apart_from_what_is_resident() -> None:
    made, on_its_way = spec(("a", 1)), report(2, "fetching", bytes_coming=300, rate_bps=50.0, eta_s=9.0)
    found = judged(made, beat("a", 1, on_its_way, seen_s=1))
    assert (found.bytes_done, found.bytes_coming, found.eta_s) == (200, 300, 9.0)
    assert (found.nodes[0].bytes_coming, found.nodes[0].eta_s) == (300, 9.0)
    # what was said a while ago is worth less
    assert judged(made, beat("a", 1, on_its_way, seen_s=100), at_s=104).eta_s == 5.0
    # of all nodes it is what each of them has
    ahead = judged(spec(("a", 1), ("b", 1)), beat("a", 1, on_its_way), beat("b", 1, report(4, "fetching")))
    assert (ahead.bytes_done, ahead.bytes_coming) == (200, 200)
    assert judged(made, beat("a", 1, report())).bytes_coming == 0
    halves = [
        beat(name, 1, share(2, 5, 2, "fetching").model_copy(update={"bytes_coming": 100})) for name in "ab"
    ]
    shared = judged(spec(("a", 1), ("b", 1), placement="spread"), *halves)
    assert (shared.bytes_done, shared.bytes_coming) == (400, 200)


@pytest.mark.fault("B4")
def test_a_version_that_a_node_has_not_looked_at_is_not_nearly_there() -> None:
    unknown = report(0, "fetching", files_total=0, bytes_total=0)
    assert judged(spec(("a", 1)), beat("a", 1, unknown, fetch_bps=250.0, seen_s=1)).eta_s == 4.0


@pytest.mark.fault("B4")
def test_an_estimate_says_how_little_is_known() -> None:
    dirs = (folder(2000, 0),)

    def of(**measured: float) -> NodeEstimate:
        nodes = {"a": beat("a", 1, dirs=dirs, **measured), "b": beat("b", 1, dirs=dirs, fetch_bps=100.0)}
        return estimate(spec(("a", 0), bandwidth_bps=bandwidth), nodes, {}).nodes[0]

    bandwidth: int | None = None
    several = of(fetch_bps=100.0, fetch_bps_spread=20.0)
    assert (several.basis, several.seconds) == ("several", 10.0)
    one = of(fetch_bps=100.0)
    assert (one.basis, one.seconds_low, one.seconds, one.seconds_high) == ("one", 5.0, 10.0, 20.0)
    assert of().basis == "other nodes" and of().seconds_high == 20.0
    bandwidth = 50
    capped = of(fetch_bps=100.0, fetch_bps_spread=20.0)
    assert (capped.basis, capped.seconds_low, capped.seconds, capped.seconds_high) == (
        "cap",
        20.0,
        20.0,
        20.0,
    )
    bandwidth = 150  # as fast as that it may be, but no faster
    assert (of(fetch_bps=100.0).basis, of(fetch_bps=100.0).seconds_low) == ("one", 1000 / 150)


def test_free_is_done_when_the_reports_are_gone() -> None:
    made = spec(("a", 4), kind="free")
    assert judged(made, beat("a", 3, report())).state == "queued"
    left = judged(made, beat("a", 4, report(6, "freeing")))
    assert (left.state, left.files_done) == ("running", 4)
    done = judged(made, beat("a", 4, report(version=W)))
    assert (done.state, done.files_done, done.bytes_done) == ("done", 10, 1000)


def test_a_narrowed_free_looks_at_what_it_released() -> None:
    made = spec(("a", 4), kind="free", released=(None,))
    assert judged(made, beat("a", 4, report(list_id=W))).state == "done"
    assert judged(made, beat("a", 4, report())).state == "running"


def test_free_of_a_mounted_version_says_what_stays() -> None:
    view = MountReport(dataset="d", tag="v1", version=V, target="/mnt/d", backend="kernel")
    found = judged(spec(("a", 4), kind="free"), beat("a", 4, report(), mounts=(view,)))
    assert found.state == "done" and "/mnt/d" in str(found.error)
    assert found.failures[0].path == "/mnt/d"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12),
            st.integers(0, 12),
            st.sampled_from(["waiting", "fetching", "resident", "failed", "freeing"]),
            st.integers(0, 4),
            st.floats(0, 100),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_done_is_never_said_of_less(nodes: list[tuple[int, int, str, int, float]]) -> None:
    names = [f"n{place}" for place in range(len(nodes))]
    heard = [
        beat(name, generation, report(min(done, total), state, files_total=total), seen_s=seen)
        for name, (done, total, state, generation, seen) in zip(names, nodes, strict=True)
    ]
    job = judged(spec(*((name, 2) for name in names)), *heard, at_s=100)
    assert 0 <= job.files_done <= job.files_total and 0 <= job.bytes_done <= job.bytes_total
    whole = all(s == "resident" and min(d, t) == t == 10 and g >= 2 for d, t, s, g, _ in nodes)
    assert (job.state == "done") is whole
    assert (job.state == "failed") <= (job.error is not None)


def folder(quota: int, used: int, on_disk: int = 10**9) -> DirReport:
    return DirReport(path="/c", medium="nvme", quota=quota, used=used, free_on_disk=on_disk)


def test_an_estimate_has_a_spread_and_says_what_must_go() -> None:
    other = report(version=W, dataset="old")
    node = beat(
        "a",
        1,
        report(5, "fetching"),
        other,
        dirs=(folder(2000, 1700),),
        fetch_bps=100.0,
        fetch_bps_spread=20.0,
    )
    found = estimate(spec(("a", 0)), {"a": node}, {}).nodes[0]
    assert (found.files_missing, found.bytes_missing, found.bytes_free) == (5, 500, 300)
    assert found.seconds == 5.0 and found.seconds_low == 500 / 120 and found.seconds_high == 500 / 80
    # 200 bytes of no version go first, and are enough
    assert found.fits and found.evicts == ()
    full = beat("a", 1, other, dirs=(folder(1000, 1000),))
    tight = estimate(spec(("a", 0)), {"a": full}, {})
    assert tight.nodes[0].fits and tight.nodes[0].evicts == ("old@v1",) and tight.seconds is None
    pinned = Desired(
        node="a", generation=1, versions=(DesiredVersion(dataset="old", tag="v1", version=W, pinned=True),)
    )
    assert not estimate(spec(("a", 0)), {"a": full}, {"a": pinned}).nodes[0].fits


def test_an_estimate_of_what_is_there_costs_nothing() -> None:
    found = estimate(spec(("a", 0)), {"a": beat("a", 1, report(), dirs=(folder(1000, 1000),))}, {})
    assert (found.seconds, found.nodes[0].bytes_missing, found.nodes[0].fits) == (0.0, 0, True)


def share(done: int, total: int, group: int | None, state: str = "resident") -> VersionReport:
    return report(done, state, files_total=total, bytes_total=total * 100, group=group)


def test_a_spread_warm_is_done_when_shares_of_one_generation_add_up() -> None:
    made = spec(("a", 1), ("b", 1), placement="spread")
    half = judged(made, beat("a", 1, share(6, 6, 2)), beat("b", 1, share(1, 4, 2, "fetching")))
    assert (half.state, half.files_done, half.files_total) == ("running", 7, 10)
    assert [(n.files_done, n.files_total) for n in half.nodes] == [(6, 6), (1, 4)]
    assert judged(made, beat("a", 1, share(6, 6, 2)), beat("b", 1, share(4, 4, 2))).state == "done"
    # shares of different generations may leave a pack to nobody
    assert judged(made, beat("a", 1, share(6, 6, 2)), beat("b", 1, share(4, 4, 3))).state == "running"
    # a node that does not know the group yet says nothing of its share
    assert judged(made, beat("a", 1, share(6, 6, 2)), beat("b", 1, share(0, 0, None))).state == "running"
    # one that joined since has a part of it
    joined = [beat("a", 1, share(4, 4, 3)), beat("b", 1, share(4, 4, 3)), beat("c", 0, share(2, 2, 3))]
    assert judged(made, *joined).state == "done"
    assert judged(made, *joined[:2]).state == "running"


def test_each_copy_of_a_spread_version_counts() -> None:
    made = spec(("a", 1), ("b", 1), ("c", 1), placement="spread", copies=2)
    whole = [beat("a", 1, share(8, 8, 2)), beat("b", 1, share(7, 7, 2)), beat("c", 1, share(5, 5, 2))]
    done = judged(made, *whole)
    assert (done.state, done.files_done) == ("done", 10)
    assert judged(made, *whole[:2], beat("c", 1, share(3, 5, 2, "fetching"))).state == "running"
    # there cannot be more copies than nodes
    more = spec(("a", 1), ("b", 1), placement="spread", copies=3)
    assert judged(more, beat("a", 1, share(10, 10, 2)), beat("b", 1, share(10, 10, 2))).state == "done"


def test_an_estimate_of_a_spread_warm_is_of_shares() -> None:
    made = spec(("a", 1), ("b", 1), placement="spread")
    dirs = {
        name: (DirReport(path="/c", medium="ssd", quota=quota, used=0, free_on_disk=quota),)
        for name, quota in (("a", 3000), ("b", 1000))
    }
    heard = {name: beat(name, 1, dirs=dirs[name], fetch_bps=10.0) for name in dirs}
    found = estimate(made, heard, {})
    assert [(n.files_missing, n.bytes_missing, n.seconds) for n in found.nodes] == [
        (8, 750, 75.0),
        (2, 250, 25.0),
    ]
