"""A whole site for the pages: two lakes, a control service with nodes, an IDC that is down, and Airflow over them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cacheengine.wire import Job
from lake.config import StoreConfig
from lake.stores import Store, open_store
from lake.versions import read_available
from tests.plugins.pages import servers, world

SETTINGS = """
here = "idc-a"
[idc.idc-a]
store = "lake-a"
landing = "lake-a"
[idc.idc-b]
store = "lake-b"
control = "{control}"
token = {{ file = "{token}" }}
[idc.idc-c]
store = "lake-c"
control = "http://127.0.0.1:9"
{stores}
"""


@dataclass(frozen=True)
class Site:
    """url: of Airflow; known: `dataset@tag` → version id; jobs: done, failed, running."""

    url: str
    passwords: Mapping[str, str]
    home: Path
    control: str
    a: Store
    b: Store
    known: Mapping[str, str]
    jobs: Mapping[str, Job]
    nodes: world.Nodes


def store_table(config: StoreConfig) -> str:
    lines = [f"[store.{config.name}]"]
    for name, value in config.model_dump(exclude_none=True, exclude={"name"}, mode="json").items():
        lines.append(
            f"{name} = " + (f'{{ env = "{value["env"]}" }}' if isinstance(value, dict) else json.dumps(value))
        )
    return "\n".join(lines)


@contextmanager
def running(base: Path, migrated: Path, lake_a: StoreConfig, lake_b: StoreConfig) -> Iterator[Site]:
    """Everything up, until this ends. idc-c's store is an endpoint where nobody listens."""
    home = base / "outlap"
    home.mkdir(parents=True)
    lake_c = StoreConfig(name="lake-c", idc="idc-c", url="s3://nowhere", endpoint="http://127.0.0.1:9")
    token = base / "token"
    token.write_text(world.TOKEN)
    control_port, port = servers.free_port(), servers.free_port()
    stores = "\n".join(store_table(one) for one in (lake_a, lake_b, lake_c))
    settings = SETTINGS.format(control=f"http://127.0.0.1:{control_port}", token=token, stores=stores)
    (home / "outlap.toml").write_text(settings)
    a, b = open_store(lake_a), open_store(lake_b)
    known = world.publish_all(a, b, base)
    world.refuse(a)
    with servers.control_service(base / "control", home, "idc-b", control_port, token) as control:
        totals = {v: (found.files, found.bytes) for v in known.values() for found in [read_available(a, v)]}
        nodes = world.Nodes(control, totals=totals)
        jobs = world.warm_all(nodes, known)
        beating = nodes.run()
        environment = servers.airflow_home(migrated, base / "airflow", home, port)
        published = {name: f"{name.partition('@')[0]}@{version}" for name, version in known.items()}
        synced = [
            f"{published[name]}|idc-b"
            for name in ("frames-720p@v1", "frames-720p@v2", "frames-720p@v3", "night-rain@v1")
        ]
        events = {
            "published": list(published.values()),
            "synced": synced,
            "running": [f"{published['frames-720p@v4']}|idc-b"],
        }
        seed = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("seed.py")), json.dumps(events)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert seed.returncode == 0, seed.stderr[-3000:]
        try:
            with servers.api_server(environment, port) as url:
                yield Site(url, servers.passwords(environment), home, control, a, b, known, jobs, nodes)
        finally:
            nodes.stop()
            beating.join(10)
