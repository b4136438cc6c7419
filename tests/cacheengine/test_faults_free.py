"""What a free takes away, what it leaves, and what it says: real agents, real mounts, a real control service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cacheengine import wanted as wants
from cacheengine.agent import letgo, reconcile, residency, room, rows, shares
from cacheengine.agent.state import Node, key_of, resident_of, take_desired
from cacheengine.packs import packcache
from cacheengine.wire import Desired, DesiredVersion, FreeRequest
from lake.config import StoreConfig
from lake.errors import StoreDown
from lake.stores import Store, open_store
from tests.cacheengine.faulty import desire, end, make_node, warm
from tests.cacheengine.nodes import Dataset, make_files, publish
from tests.cacheengine.test_agent import (
    Files,
    Idc,
    assert_reads_right,
    drop_pages,
    files,
    idc,
    lake,
    name,
    shared,
)
from tests.conftest import wait_until

__all__ = ["files", "idc", "lake", "name", "shared"]

MIB = 1 << 20


def requests_of(idc: Idc) -> float:
    """Requests that the agent sent to the store since it was started."""
    address = json.loads((idc.state / "agent.json").read_text())["address"]
    text = httpx.get(f"{address}/metrics").text
    return float(re.search(r"^outlap_node_store_requests_total (\S+)", text, re.M)[1])  # type: ignore[index]


def packs_of(idc: Idc, data: Dataset) -> dict[str, tuple[int, int]]:
    """Pack → (inode, bytes on the disk)."""
    found = (path for path in idc.cache.rglob("*.tar") if path.stem in data.packs)
    return {path.stem: ((s := path.stat()).st_ino, s.st_blocks * 512) for path in found}


@pytest.mark.fault("A11")
@pytest.mark.parametrize("knew_the_list", [False, True], ids=["a new list", "a list that it knew"])
def test_what_stays_of_half_a_version_is_never_dropped_and_costs_no_request(
    idc: Idc, lake: Store, tmp_path: Path, files: Files, name: str, knew_the_list: bool
) -> None:
    dataset = re.sub("[^a-z0-9]+", "-", name)
    data = publish(lake, tmp_path, files(120, 20_000, 60_000), dataset, pack_bytes=512 << 10)
    assert idc.warm(data).state == "done"
    paths = sorted(data.files)
    freed, stays = paths[:60], paths[60:]
    if knew_the_list:
        assert idc.warm(data, files=tuple(stays)).state == "done"
    before, asked = packs_of(idc, data), requests_of(idc)
    with idc.control() as control:
        request = FreeRequest(dataset=dataset, ref=data.tag, files=tuple(freed))
        job = control.wait(control.free(request).id, timeout_s=60)
    assert job.state == "done"
    wait_until(
        lambda: (
            [(r.state, r.files_resident) for r in idc.reports().values() if r.version == data.version]
            == [("resident", 60)]
        ),
        "what stays",
    )
    assert requests_of(idc) == asked
    after = packs_of(idc, data)
    # packs of what stays alone are untouched, and all that stays was there throughout: no pack is another file than before
    assert sum(after.get(pack) == one for pack, one in before.items()) >= 2
    assert all(before[pack][0] == inode for pack, (inode, _) in after.items())
    assert sum(size for _, size in after.values()) < 0.6 * sum(size for _, size in before.values())
    view = idc.mount(data)
    drop_pages()
    assert_reads_right(view, data.files)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreConfig:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    return StoreConfig(name="lake", idc="a", url=f"file://{tmp_path / 'lake'}")


@pytest.fixture
def node(store: StoreConfig, tmp_path: Path) -> Iterator[Node]:
    made = make_node(tmp_path, store)
    yield made
    end(made)


def shared_packs(store: StoreConfig, tmp_path: Path) -> tuple[Dataset, Dataset]:
    """Two versions that share packs: the second has one file more, which comes last."""
    made = make_files(40, 1000, 60_000)
    handle = open_store(store)
    one = publish(handle, tmp_path, made, "one", pack_bytes=300 << 10)
    more = {**made, "720p/more.jpg": b"more" * 1000}
    return one, publish(handle, tmp_path, more, "two", pack_bytes=300 << 10)


def held(node: Node) -> int:
    return sum(size for d in node.cache.dirs for size, _ in packcache.packs_on_disk(d).values())


def inodes_of(node: Node) -> dict[str, int]:
    """Pack → inode: another one would be another file."""
    return {path.stem: path.stat().st_ino for d in node.cache.dirs for path in d.path.rglob("packs/*/*.tar")}


def away() -> Store:
    raise StoreDown("the store lake", "it does not answer", "start it")


def run_actions(node: Node) -> list[str]:
    """All that the loop would do now; what was done."""
    done = []
    while (action := reconcile.next_action(node)) is not None:
        done.append(action.kind)
        reconcile.take(node, action)
    return done


@pytest.mark.fault("A11")
@pytest.mark.parametrize("known", [False, True], ids=["rows never seen", "rows lost"])
def test_nothing_goes_while_rows_of_what_is_desired_are_unknown(
    node: Node, store: StoreConfig, tmp_path: Path, known: bool
) -> None:
    one, two = shared_packs(store, tmp_path)
    if known:
        assert warm(node, two) == "resident"
        wants.forget_want(node.config.views, two.version)
    assert warm(node, one) == "resident"
    before, handle, inodes = held(node), node.store(), inodes_of(node)
    node.store = away
    desire(node, two)  # and no longer the other one
    assert run_actions(node) == ["rows", "warm"]
    with pytest.raises(rows.RowsUnknown, match="does not answer"):
        letgo.release(node, next(key for key, s in node.statuses.items() if s.state == "freeing"))
    with pytest.raises(rows.RowsUnknown):
        room.keep_below_watermarks(_overfull(node))
    assert held(node) == before
    node.store = lambda: handle
    for key in node.desired:
        node.lost_rows.pop(key)
        node.statuses[key].retry_ns = 0
    assert run_actions(node) == ["rows", "release", "warm"]
    assert [s.state for s in node.statuses.values()] == ["resident"]
    shared = {pack: inode for pack, inode in inodes.items() if pack in two.packs}
    assert len(shared) >= 3 and shared.items() <= inodes_of(node).items()


def _overfull(node: Node) -> Node:
    """The node, with readers that wait for more room than there is."""
    counts = node.config.state_dir / "counts"
    counts.mkdir(exist_ok=True)
    (counts / "1.room").write_text(str(2 << 30))
    return node


@pytest.mark.fault("A11")
def test_a_version_that_the_store_denies_holds_nothing_fast(
    node: Node, store: StoreConfig, tmp_path: Path
) -> None:
    one, _ = shared_packs(store, tmp_path)
    assert warm(node, one) == "resident"
    gone = DesiredVersion(dataset="gone", tag="v1", version="e" * 64)
    take_desired(node, Desired(node="n1", generation=9, versions=(gone,)))
    assert run_actions(node) == ["rows", "release", "warm"]
    assert held(node) == 0


@pytest.mark.fault("A11")
def test_old_bytes_of_what_is_desired_outlive_their_time(store: StoreConfig, tmp_path: Path) -> None:
    node = make_node(tmp_path, store, ttl_s=0.0001)
    try:
        one, two = shared_packs(store, tmp_path)
        assert warm(node, one) == "resident"
        before = held(node)
        node.store = away
        desire(node, two)
        with pytest.raises(rows.RowsUnknown):
            room.drop_old(node)
        assert held(node) == before
    finally:
        end(node)


@pytest.mark.fault("A11")
def test_a_node_that_forgot_its_group_keeps_what_may_be_its_share(
    node: Node, store: StoreConfig, tmp_path: Path
) -> None:
    one, _ = shared_packs(store, tmp_path)
    assert warm(node, one) == "resident"
    before = held(node)
    spread = DesiredVersion(dataset=one.name, tag=one.tag, version=one.version, placement="spread")
    take_desired(node, Desired(node="n1", generation=9, versions=(spread,)))
    assert node.groups == () and shares.kept((), "n1", spread, ["a" * 64]).all()
    key = key_of(spread)
    letgo.shed(node, key, rows.want_of(node, key))
    room.keep_below_watermarks(_overfull(node))
    assert held(node) == before


@pytest.mark.fault("A11")
def test_what_is_desired_while_a_release_runs_stays(
    node: Node, store: StoreConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = shared_packs(store, tmp_path)
    assert warm(node, one) == "resident"
    (key,) = node.desired
    want = rows.want_of(node, key)
    desire(node)
    trim, trimmed = letgo.trim, []

    def first_then_asked_again(*arguments: object) -> int:
        if not trimmed:  # the first pack is being trimmed when the version is asked for again
            desire(node, one)
        trimmed.append(arguments[1])
        return trim(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(letgo, "trim", first_then_asked_again)
    letgo.release(node, key)
    assert resident_of(node, want)[0] == 40 and trimmed
    assert residency.my_places(node, node.desired[key], want)[0]


def test_rows_of_a_list_are_those_that_the_store_gives(
    node: Node, store: StoreConfig, tmp_path: Path
) -> None:
    one, _ = shared_packs(store, tmp_path)
    views, elsewhere = node.config.views, tmp_path / "elsewhere"
    whole = wants.save_want(node.store(), views, one.version)
    paths = sorted(one.files)[5:25]
    made = wants.narrow_want(whole, "list", paths)
    asked = wants.save_want(node.store(), elsewhere, one.version, "list", paths)
    assert made is not None and (made.files, made.bytes, made.packs) == (
        asked.files,
        asked.bytes,
        asked.packs,
    )
    assert [t.to_pylist() for t in wants.read_rows(made.index)] == [
        t.to_pylist() for t in wants.read_rows(asked.index)
    ]
    for mine, theirs in zip(wants.read_packs(made), wants.read_packs(asked), strict=True):
        assert mine.keys().offset.tolist() == theirs.keys().offset.tolist()
        assert mine.content_id.tolist() == theirs.content_id.tolist()
    assert wants.load_want(views, one.version, "list") == made
    assert wants.narrow_want(made, "other", sorted(one.files)[:3]) is None
    assert [w.list_id for w in wants.saved_of_version(views, one.version)] == [None, "list"]
