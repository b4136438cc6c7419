"""20,000 small frames into a store and out again: as packs, as single objects (an obstore loop), and by rclone copy.

A SeaweedFS of its own on this machine; its counter of S3 requests says what each way asked of it. Every way ends with the same bytes
in files; ours also with every hash checked. Nobody waits for the disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import boto3
import numpy as np
import obstore
from blake3 import blake3

from benchmarks import lakeobjects, rivals
from lake import packs, stores
from lake.config import SecretRef, StoreConfig
from lake.stores import Store

PARALLEL = 16
KEY_ID, KEY = "bench", "bench-secret"
SMALL = (2_000, 30_000)
PACK_BYTES = 32 << 20
AT_ONCE = 4


@dataclass(frozen=True)
class Seaweed:
    endpoint: str
    metrics: str
    store: Store
    packed: Store
    in_place: Store


@dataclass(frozen=True)
class Moved:
    """seconds until all bytes are there; requests that the store counted."""

    seconds: float
    requests: int


def _free() -> int:
    """A port that is free, and whose +10000 (SeaweedFS takes it for gRPC) is below the end."""
    while (port := rivals.free_port()) > 55_000:
        pass
    return port


@contextmanager
def seaweed(folder: Path) -> Iterator[Seaweed]:
    """A SeaweedFS with an empty bucket `bench`."""
    folder.mkdir(parents=True)
    ports = {name: _free() for name in ("master", "volume", "filer", "s3", "metrics")}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "b", "credentials": [{"accessKey": KEY_ID, "secretKey": KEY}], "actions": actions}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    command = [
        rivals.program("weed"),
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
    ]
    command += [f"-master.port={ports['master']}", f"-volume.port={ports['volume']}", "-filer", "-s3"]
    command += [
        f"-filer.port={ports['filer']}",
        f"-s3.port={ports['s3']}",
        f"-s3.config={folder / 's3.json'}",
    ]
    # else it takes fixed ports, and two at once would collide
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-volume.max=200", "-master.volumeSizeLimitMB=128", f"-metricsPort={ports['metrics']}"]
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=KEY,
        region_name="us-east-1",
    )

    def ready() -> bool:
        try:
            client.create_bucket(Bucket="bench")
        except Exception:
            return False  # not up yet: asked again until the time is over
        return True

    os.environ["BENCH_KEY_ID"], os.environ["BENCH_KEY"] = KEY_ID, KEY
    config = StoreConfig(
        name="bench",
        idc="here",
        url="s3://bench",
        endpoint=endpoint,
        access_key_id=SecretRef(env="BENCH_KEY_ID"),
        secret_access_key=SecretRef(env="BENCH_KEY"),
    )
    with rivals.started(command, folder / "log", ready):
        # two lakes: in one, a version that is packed already would not be taken in place
        lakes = [
            stores.open_store(config.model_copy(update={"name": name, "url": f"s3://bench/{name}"}))
            for name in ("packed", "in-place")
        ]
        metrics = f"http://127.0.0.1:{ports['metrics']}/metrics"
        yield Seaweed(endpoint, metrics, stores.open_store(config), *lakes)


def requests(server: Seaweed) -> int:
    """S3 requests since the start, by the store's own counter."""
    with urllib.request.urlopen(server.metrics, timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r"^SeaweedFS_s3_request_total\{[^}]*\} ([0-9.e+]+)$", text, re.MULTILINE)
    return int(sum(map(float, found)))


def make_frames(folder: Path, count: int) -> int:
    """`count` files of 2 to 30 kB that do not compress, 1,000 to a folder; bytes in all."""
    random, total = np.random.default_rng(5), 0
    sizes = random.integers(*SMALL, count).tolist()
    for number, size in enumerate(sizes):
        path = folder / f"{number // 1000:03d}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.bytes(size))
        total += size
    return total


def _timed(server: Seaweed, work: Callable[[], object]) -> Moved:
    before, started = requests(server), time.perf_counter()
    work()
    return Moved(time.perf_counter() - started, requests(server) - before)


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))


def _put_packs(server: Seaweed, source: Path, scratch: Path) -> list[str]:
    """Some at a time: one is packed and hashed while others are on their way."""
    groups: list[list[str]] = [[]]
    room = 0
    for name in _names(source):
        size = (source / name).stat().st_size
        if room + size > PACK_BYTES:
            groups.append([])
            room = 0
        groups[-1].append(name)
        room += size

    def one(group: list[str]) -> str:
        path = scratch / f"{group[0].replace('/', '-')}.tar"
        pack = packs.write_pack(path, ((name, (source / name).read_bytes()) for name in group))
        packs.put_pack(server.store, pack.id, path)
        path.unlink()
        return pack.id

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, groups))


def _get_packs(server: Seaweed, ids: list[str], target: Path) -> None:
    """Whole packs into files, hashed as they come: what a node reads frames from."""

    def one(pack_id: str) -> None:
        digest = blake3()
        with (target / f"{pack_id}.tar").open("wb") as out:
            for piece in stores.stream(server.store, packs.pack_key(pack_id)):
                digest.update(piece)
                out.write(piece)
        if digest.hexdigest() != pack_id:
            raise AssertionError(pack_id)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, ids))


def _loop_put(server: Seaweed, source: Path) -> None:
    async def work() -> None:
        limit = asyncio.Semaphore(PARALLEL)

        async def one(name: str) -> None:
            async with limit:
                await obstore.put_async(server.store.obs, f"loop/{name}", (source / name).read_bytes())

        await asyncio.gather(*(one(name) for name in _names(source)))

    asyncio.run(work())


def _loop_get(server: Seaweed, names: list[str], target: Path) -> None:
    async def work() -> None:
        limit = asyncio.Semaphore(PARALLEL)

        async def one(name: str) -> None:
            async with limit:
                answer = await obstore.get_async(server.store.obs, f"loop/{name}")
                data = await answer.bytes_async()
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(data))

        await asyncio.gather(*(one(name) for name in names))

    asyncio.run(work())


def _rclone(server: Seaweed, source: str, target: str) -> None:
    remote = {
        "RCLONE_CONFIG_W_TYPE": "s3",
        "RCLONE_CONFIG_W_PROVIDER": "SeaweedFS",
        "RCLONE_CONFIG_W_ENDPOINT": server.endpoint,
        "RCLONE_CONFIG_W_ACCESS_KEY_ID": KEY_ID,
        "RCLONE_CONFIG_W_SECRET_ACCESS_KEY": KEY,
        "RCLONE_CONFIG": os.devnull,
    }
    many = ("--transfers", str(PARALLEL), "--checkers", str(PARALLEL))
    rivals.run(rivals.program("rclone"), "copy", source, target, *many, env={**os.environ, **remote})


def _objects(server: Seaweed, folder: Path, rounds: int) -> dict[str, Moved]:
    """What is done with frames that are single objects already; warm and rclone copy both into memory."""
    done = {"pack": _timed(server, lambda: lakeobjects.pack_on_the_way(server.packed, server.store, folder))}
    found: list[str] = []
    in_place = _timed(
        server, lambda: found.append(lakeobjects.publish_in_place(server.in_place, server.store))
    )
    asked: dict[str, int] = {}

    def counted(name: str, work: Callable[[Path], object]) -> Callable[[Path], float]:
        def run(target: Path) -> float:
            one = _timed(server, partial(work, target))
            asked[name] = one.requests
            return one.seconds

        return run

    ways: dict[str, Callable[[Path], object]] = {
        "warm": lambda target: lakeobjects.warm(server.in_place, server.store, found[0], target),
        "warm rclone": lambda target: _rclone(server, "w:bench/loop", str(target)),
    }
    seconds = lakeobjects.fastest(rounds, *(counted(name, work) for name, work in ways.items()))
    return {
        **done,
        "in place": in_place,
        **{name: Moved(took, asked[name]) for name, took in zip(ways, seconds, strict=True)},
    }


def measure(folder: Path, count: int, rounds: int) -> tuple[int, dict[str, Moved]]:
    """(bytes, {"put packs": …, "get rclone": …, "pack": …, "warm": …})."""
    source, done = folder / "source", dict[str, Moved]()
    size = make_frames(source, count)
    names, ids = _names(source), list[str]()
    with seaweed(folder / "weed") as server:
        # the first writes make SeaweedFS grow its volumes
        for number in range(8):
            stores.put(server.store, f"first/{number}", bytes(1 << 20))
        done["put packs"] = _timed(server, lambda: ids.extend(_put_packs(server, source, folder)))
        done["put obstore"] = _timed(server, lambda: _loop_put(server, source))
        done["put rclone"] = _timed(server, lambda: _rclone(server, str(source), "w:bench/rclone"))
        gets: tuple[tuple[str, Callable[[Path], object]], ...] = (
            ("packs", lambda target: _get_packs(server, ids, target)),
            ("obstore", lambda target: _loop_get(server, names, target)),
            ("rclone", lambda target: _rclone(server, "w:bench/rclone", str(target))),
        )
        for name, get in gets:
            target = folder / f"out-{name}"
            target.mkdir()
            done[f"get {name}"] = _timed(server, partial(get, target))
            shutil.rmtree(target)
        done |= _objects(server, folder, rounds)
    return size, done
