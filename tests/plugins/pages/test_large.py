"""The pages over 1,000 versions and 1,000 nodes. `pytest -m slow -s tests/plugins/pages/test_large.py` prints what each route takes."""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from cacheengine.client import Control
from cacheengine.wire import DirReport, Heartbeat, VersionReport, WarmRequest
from lake import manifests, refs, stores
from lake.canonical import blake3_hex
from lake.config import StoreConfig
from lake.stores import Store, open_store
from lake.versions import Available, PackUse, write_available
from tests.plugins.pages import servers, site, world

VERSIONS, NODES, HELD, WINDOW, ROWS = 1000, 1000, 20, 24, 200
TIMES = 15
START_NS = 1_780_000_000 * 10**9
QUERY = "select * from frames where output = '720p'"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def make_versions(a: Store, b: Store) -> list[str]:
    """1,000 versions of one dataset, each of 24 parts: it drops the oldest of the one before and has one more. 900 are at b too."""
    parts, locations, packs = [], [], []
    for place in range(VERSIONS + WINDOW):
        ids = [blake3_hex(f"{place}/{row}".encode()) for row in range(ROWS)]
        paths = [f"{place:06d}/{row:06d}.jpg" for row in range(ROWS)]
        table = pa.table(
            {"path": paths, "content_id": ids, "size": pa.array([50_000 + place] * ROWS, pa.int64())}
        )
        parts.append(manifests.put_part(a, table)[0])
        pack = blake3_hex(str(place).encode())
        offsets = pa.array(np.arange(ROWS, dtype=np.int64) * 65_536)
        located = pa.table({"pack": [pack] * ROWS, "offset": offsets, "size": table["size"]})
        locations.append(manifests.put_locations(a, located))
        packs.append(PackUse(pack, ROWS * 65_536, ROWS, ROWS * (50_000 + place)))
    columns = [(name, str(kind)) for name, kind in manifests.KEY_COLUMNS]
    made = []
    for first in range(VERSIONS):
        mine = slice(first, first + WINDOW)
        version, data = manifests.make_root(columns, parts[mine])
        stores.put(a, manifests.root_key(version), data)
        size = sum(part.bytes for part in parts[mine])
        there = Available(version, WINDOW * ROWS, size, tuple(locations[mine]), tuple(packs[mine]))
        write_available(a, there)
        origin = {"by": "airflow", "dag": "publish_dataset", "run": f"nightly__{first}", "query": QUERY}
        ref = refs.Ref("frames", f"v{first + 1}", version, START_NS + first * 10**13, origin)
        refs.write_ref(a, ref)
        if first < 900:
            stores.put(b, manifests.root_key(version), data)
            write_available(b, there)
            refs.write_ref(b, ref)
        made.append(version)
    refs.move_ref(a, refs.Ref("frames", refs.LATEST, made[-1], time.time_ns(), {}))
    return made


def beat(control: str, made: list[str]) -> None:
    """1,000 nodes, each with 20 versions."""
    files, size = WINDOW * ROWS, 1 << 30

    def heartbeat(place: int) -> None:
        state = ("resident", "fetching", "failed")[(place % 50 == 0) + (place % 97 == 0)]
        versions = tuple(
            VersionReport(
                dataset="frames", tag=f"v{at + 1}", version=made[at], state=state, files_total=files,  # type: ignore[arg-type]
                files_resident=files if state == "resident" else place % files, bytes_total=size, bytes_resident=size,
            )
            for at in range(880, 880 + HELD)
        )  # fmt: skip
        disks = tuple(
            DirReport(
                path=f"/cache/{at}", medium="nvme", quota=4 << 40, used=place << 30, free_on_disk=1 << 40
            )
            for at in range(4)
        )
        message = Heartbeat(
            node=f"gpu-{place:04d}", idc="idc-b", address=f"10.0.{place // 250}.{place % 250}:8900", role="gpu",
            labels={"rack": f"r{place // 40}"}, agent_version="1", boot_id="1", generation=10**6, dirs=disks, versions=versions,
            fetch_bps=1e9, hit_bytes=place << 40, miss_bytes=1 << 40,
        )  # fmt: skip
        answer = httpx.post(
            f"{control}/v1/nodes/{message.node}/heartbeat",
            content=message.model_dump_json(),
            headers={"Authorization": f"Bearer {world.TOKEN}", "Content-Type": "application/json"},
            trust_env=False,
            timeout=60,
        )
        assert answer.status_code == 200, answer.text

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(heartbeat, range(NODES)))


def test_routes_are_quick_on_1000_versions_and_1000_nodes(airflow_database: None, tmp_path: Path) -> None:
    lakes = [
        StoreConfig(name=f"lake-{name}", idc=f"idc-{name}", url=f"file://{tmp_path / name}")
        for name in ("a", "b", "c")
    ]
    token, home = tmp_path / "token", tmp_path / "outlap"
    token.write_text(world.TOKEN)
    home.mkdir()
    control_port, port = servers.free_port(), servers.free_port()
    tables = "\n".join(site.store_table(one) for one in lakes)
    settings = site.SETTINGS.format(control=f"http://127.0.0.1:{control_port}", token=token, stores=tables)
    (home / "outlap.toml").write_text(settings)
    a, b = open_store(lakes[0]), open_store(lakes[1])
    made = make_versions(a, b)
    migrated = Path(os.environ["AIRFLOW_HOME"]) / "airflow.db"
    environment = servers.airflow_home(migrated, tmp_path / "airflow", home, port)
    with (
        servers.control_service(tmp_path / "control", home, "idc-b", control_port, token) as control,
        servers.api_server(environment, port) as url,
    ):
        beat(control, made)
        with Control(control, world.TOKEN) as client:
            jobs = [client.warm(WarmRequest(dataset="frames", ref=f"v{at}")) for at in range(881, 901)]
        beat(control, made)
        print()
        measure(url, servers.passwords(environment)["ben"], made[-1], jobs[0].id)


def measure(url: str, password: str, version: str, job: str) -> None:
    """Print what each route takes: the first time, and the middle and the worst of those after it."""
    routes = [
        "datasets", "datasets/frames", "datasets/frames?page=10", f"datasets/frames/{version}", f"way/frames/{version}", "jobs",
        f"jobs/idc-b/{job}", "nodes", "nodes?sort=hit_part&order=desc&page=7", "nodes?holds=frames@v890", "nodes/idc-b/gpu-0007",
        "residency", "sync", "sync/idc-b", "sync/idc-c", "quarantine",
    ]  # fmt: skip
    with httpx.Client(base_url=url, trust_env=False, timeout=120) as client:
        login = {"username": "ben", "password": password}
        client.headers["Authorization"] = (
            f"Bearer {client.post('/auth/token', json=login).json()['access_token']}"
        )
        print(f"{'route':58} {'first':>8} {'p50':>8} {'worst':>8}  ms   {'answer':>8}")
        for route in routes:
            taken: list[float] = []
            answer: Any = None
            for _ in range(TIMES + 1):
                begun = time.perf_counter()
                answer = client.get(f"/outlap/ui/data/{route}")
                taken.append((time.perf_counter() - begun) * 1000)
                assert answer.status_code == 200, answer.text
                assert len(answer.json().get("rows", ())) <= 50
                time.sleep(0.2)
            first, later = taken[0], sorted(taken[1:])
            name = route.replace(version, "ID").replace(job, "ID")
            print(
                f"{name:58} {first:8.0f} {statistics.median(later):8.0f} {later[-1]:8.0f}       {len(answer.content) / 1024:6.1f} KiB"
            )
