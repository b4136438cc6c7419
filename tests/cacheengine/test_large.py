"""A node that holds ten million files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cacheengine import wanted as wants
from cacheengine.node import CacheDirConfig
from cacheengine.packs import have as haves
from cacheengine.packs import packcache
from cacheengine.wire import Desired, DesiredVersion
from lake.config import StoreConfig
from lake.stores import open_store
from tests.cacheengine.test_agent import Idc
from tests.conftest import wait_until

ROWS = 10_000_000


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_agent_starts_in_seconds_and_stays_small(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    command = [sys.executable, "-m", "benchmarks.lakerows", "build", str(lake), str(ROWS)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    version = (lake / "old").read_text()
    config = StoreConfig(name="lake", idc="idc-a", url=f"file://{lake / 'store'}")
    idc = Idc(tmp_path / "home", config, quota=1 << 40)
    idc.configure()
    idc.token.write_text("a-token-of-this-test-alone")
    idc.state.mkdir(parents=True)
    wanted = Desired(
        node="n1", generation=1, versions=(DesiredVersion(dataset="d", tag="v1", version=version),)
    )
    (idc.state / "desired.json").write_text(wanted.model_dump_json())
    cache = packcache.open_cache([CacheDirConfig(path=idc.cache, quota=1 << 40)])
    folder = idc.state / "views"
    want = wants.save_want(open_store(config), folder, version)
    for part in wants.read_packs(want):  # what a warm leaves, but for the bytes
        os.close(packcache.open_pack(cache.dirs[0], part.pack, part.size))
        record = packcache.have_path(cache.dirs[0], part.pack)
        record.write_bytes(haves.encode(part.keys(), part.size))
    try:
        began = time.monotonic()
        idc.start_agent()
        answers = time.monotonic() - began
        wait_until(lambda: idc.reports()[version].state == "resident", "all of it", 120)
        looked = time.monotonic() - began
        report = idc.reports()[version]
        assert report.files_resident == report.files_total == want.files > 0.99 * ROWS
        status = Path(f"/proc/{idc.processes['agent'].pid}/status").read_text()
        [peak] = [int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmHWM:")]
        print(f"answers after {answers:.1f} s, has looked at all records after {looked:.1f} s, {peak} MiB")
        assert peak <= 512
    finally:
        idc.end()
