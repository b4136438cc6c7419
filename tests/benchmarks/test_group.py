"""`outlap bench group`, small: real nodes warm, the store sends one copy, and peers serve what nginx serves."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import group, peerget, systems
from benchmarks.group import FREE, Size, measure
from benchmarks.report import cells, to_markdown
from cacheengine.views import mountapi


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder in which the kernel's pages can be dropped."""
    folder = Path(tempfile.mkdtemp(prefix="outlap-bench-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def test_two_nodes_and_the_ways_to_get_ranges(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "PACK_BYTES", 1 << 20)
    found = measure(disk, tmp_path, Size(frames=60, nodes=(1, 2), rounds=1, gets=1, links=(FREE,)))
    rows = {(row.name, row.against): row for row in found.rows}
    copy = "one copy of the files"
    for nodes in ("1 node", "2 nodes"):
        case = f"warm of {nodes} from {FREE[0]}"
        for counter in ("bytes of the store", "bytes on the store's link"):
            ratio = rows[f"{case}: {counter}", copy].ratio
            assert ratio is not None and 1 <= ratio < 1.4, (case, counter, ratio)
        taken = rows[f"{case}: bytes of peers", copy].ratio
        assert taken == 0 if nodes == "1 node" else 0.9 < taken < 1.1
    gets = [row for row in found.rows if row.name.startswith(peerget.PEER)]
    assert {row.against for row in gets} == {peerget.NGINX, peerget.DISK}
    assert len(gets) == 2 * len(peerget.SHAPES) * 2 * len(peerget.CONNECTIONS)
    assert all(row.value > 0 and len(cells(row)) == 7 for row in gets)
    assert "# outlap bench group" in to_markdown(found)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_whose_mount_is_not_seen_has_no_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountapi, "mounts", list)
    assert systems.kind_of_disk(tmp_path) == "unknown"
