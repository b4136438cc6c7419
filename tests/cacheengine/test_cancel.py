"""A warm on a real node: capped, cancelled on the way, and resumed where it was; what comes from peers is capped alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cacheengine.wire import SettingRequest, WarmRequest
from lake.config import StoreConfig
from lake.stores import open_store
from tests.cacheengine.groups import Nodes
from tests.cacheengine.nodes import make_files, publish
from tests.conftest import wait_until

CAP = 2 << 20


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Nodes]:
    store = StoreConfig(name="lake-a", idc="idc-a", url=f"file://{tmp_path / 'lake'}")
    found = Nodes(tmp_path / "home", store)
    found.folder.mkdir()
    found.start_control()
    found.start("n1")
    yield found
    found.end()


def test_a_capped_warm_is_cancelled_and_goes_on_where_it_was(group: Nodes, tmp_path: Path) -> None:
    data = publish(open_store(group.store), tmp_path, make_files(200, 80_000, 120_000), "city")
    with group.control() as control:
        control.change_setting(SettingRequest(key="bandwidth_bps", value=CAP))
        job = control.warm(WarmRequest(dataset="city"))
        wait_until(lambda: control.job(job.id).bytes_done > 0, "the first bytes")
        cancelled = control.cancel(job.id)
        assert cancelled.state == "cancelled" and cancelled.bytes_done < data.bytes
        wait_until(lambda: [v.state for v in control.nodes()[0].versions] == ["waiting"], "the warm to end")
        (kept,) = control.nodes()[0].versions
        assert 0 < kept.bytes_resident < data.bytes
        control.change_setting(SettingRequest(key="bandwidth_bps", value=None))
        again = control.wait(control.resume(job.id).id, timeout_s=60)
        assert (again.state, again.files_done) == ("done", 200)
    # nothing that was there came again, but for gaps between members that were asked for twice
    assert data.bytes <= group.counter("n1", "store_bytes") < 1.1 * data.bytes

    group.start("n2")
    with group.control() as control:
        job = control.warm(WarmRequest(dataset="city", nodes="n2", bandwidth_bps=CAP))
        wait_until(lambda: control.job(job.id).bytes_done > 0, "the first bytes")
        assert control.cancel(job.id).state == "cancelled"
    assert 0 < group.counter("n2", "peer_bytes") < data.bytes
    assert group.counter("n2", "store_bytes") < 0.1 * data.bytes
