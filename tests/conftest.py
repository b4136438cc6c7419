"""Real parts for tests: two SeaweedFS stores, started once, with fresh buckets for each test."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import httpx
import pytest

from lake.config import SecretRef, StoreConfig
from lake.stores import Store, open_store

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
KEY_ID, KEY = "tester", "tester-secret"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest goes first, so that the others run beside it and not before it."""
    items.sort(key=lambda item: item.path.parts[-2:] != ("outlap", "test_loop.py"))


def free_port() -> int:
    """A port that is free now, and whose +10000 (SeaweedFS takes it for gRPC) is too."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            if port + 10_000 > 65_535:
                continue
            try:
                two.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Poll until the condition holds; fail naming it."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {timeout_s} s for {what}")
        time.sleep(0.05)


@dataclass
class Seaweed:
    """A running SeaweedFS. stop() and start() let a test take the store away and bring it back."""

    folder: Path
    ports: dict[str, int]
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    def start(self) -> None:
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "t", "credentials": [{"accessKey": KEY_ID, "secretKey": KEY}], "actions": actions}
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(Path(sys.executable).parent / "weed"),
                    "server",
                    f"-dir={data}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-master.port={self.ports['master']}",
                    f"-volume.port={self.ports['volume']}",
                    "-filer",
                    f"-filer.port={self.ports['filer']}",
                    "-s3",
                    f"-s3.port={self.ports['s3']}",
                    # else it takes fixed ports, and two runs at once would collide
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    f"-s3.config={self.folder / 's3.json'}",
                    "-volume.max=2000",
                    "-master.volumeSizeLimitMB=128",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._ready, "SeaweedFS")

    def _ready(self) -> bool:
        try:
            if httpx.get(self.endpoint, timeout=2).status_code >= 500:
                return False
            bucket = f"probe-{secrets.token_hex(4)}"
            self.client().create_bucket(Bucket=bucket)
            self.client().delete_bucket(Bucket=bucket)
        except Exception:
            return False
        return True

    def client(self):  # type: ignore[no-untyped-def]
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=KEY,
            region_name="us-east-1",
        )

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """One SeaweedFS for the whole run; tests that stop it must start it again."""
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    server = Seaweed(tmp_path_factory.mktemp("seaweed"), ports)
    server.start()
    yield server
    server.stop()


MakeStore = Callable[..., Store]


@pytest.fixture
def store_config(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StoreConfig]]:
    """store_config(name="lake", idc="idc-a", read_only=False): settings of a store with a fresh bucket."""
    monkeypatch.setenv("TEST_STORE_KEY_ID", KEY_ID)
    monkeypatch.setenv("TEST_STORE_KEY", KEY)

    buckets: list[str] = []

    def make(name: str = "lake", idc: str = "idc-a", *, read_only: bool = False) -> StoreConfig:
        bucket = f"{name}-{secrets.token_hex(6)}"
        seaweed.client().create_bucket(Bucket=bucket)
        buckets.append(bucket)
        return StoreConfig(
            name=name,
            idc=idc,
            url=f"s3://{bucket}",
            endpoint=seaweed.endpoint,
            access_key_id=SecretRef(env="TEST_STORE_KEY_ID"),
            secret_access_key=SecretRef(env="TEST_STORE_KEY"),
            read_only=read_only,
        )

    yield make
    # each bucket takes seven of the server's volumes, and they are not endless
    if seaweed.process is not None:
        for bucket in buckets:
            seaweed.client().delete_bucket(Bucket=bucket)


@pytest.fixture
def make_store(store_config: Callable[..., StoreConfig]) -> MakeStore:
    """make_store(name="lake", idc="idc-a", read_only=False): a store with a fresh bucket in real SeaweedFS."""
    return lambda *args, **kwargs: open_store(store_config(*args, **kwargs))


@pytest.fixture
def make_folder_store(tmp_path: Path) -> MakeStore:
    """The same in a directory: for tests of what does not depend on the kind of store."""

    def make(name: str = "lake", idc: str = "idc-a", *, read_only: bool = False) -> Store:
        url = f"file://{tmp_path / 'stores' / name}"
        return open_store(StoreConfig(name=name, idc=idc, url=url, read_only=read_only))

    return make


@pytest.fixture
def two_idcs(make_store: MakeStore) -> tuple[Store, Store]:
    """The lakes of idc-a and idc-b."""
    return make_store("lake-a", "idc-a"), make_store("lake-b", "idc-b")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings beside the project."""
    if not REAL.is_dir():
        pytest.skip("no real recordings lie beside the project (../shared/data)")
    return REAL
