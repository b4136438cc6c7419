"""The processes behind the pages: a control service, an Airflow API server with a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

BIN = Path(sys.executable).parent
USERS = "ann:viewer,ben:user,kim:admin"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def process(
    command: list[str], environment: Mapping[str, str], log: Path, url: str, wait_s: float = 120
) -> Iterator[None]:
    """A server that answers at `url` while this holds."""
    with log.open("wb") as out:
        started = subprocess.Popen(command, env={**environment}, stdout=out, stderr=out)

    def answers() -> bool:
        assert started.poll() is None, log.read_text()[-3000:]
        try:
            return httpx.get(url, trust_env=False, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(answers, f"{url}: {log}", wait_s)
        yield
    finally:
        started.terminate()
        started.wait(30)


def until(condition: Callable[[], object], what: str, timeout_s: float = 30) -> None:
    """Poll until it holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


@contextmanager
def control_service(folder: Path, config_home: Path, idc: str, port: int, token: Path) -> Iterator[str]:
    """The address of a control service that takes a node for dead after 3 s."""
    environment = {
        **os.environ,
        "OUTLAP_HOME": str(config_home),
        "OUTLAP_CONTROL_IDC": idc,
        "OUTLAP_CONTROL_LISTEN": f"127.0.0.1:{port}",
        "OUTLAP_CONTROL_STATE_DIR": str(folder),
        "OUTLAP_CONTROL_ADMIN_TOKEN_FILE": str(token),
        "OUTLAP_CONTROL_POLL_S": "0.2",
        "OUTLAP_CONTROL_DEAD_AFTER_S": "3",
        "OUTLAP_CONTROL_DEAD_GRACE_S": "600",
    }
    folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "cacheengine.control"]
    with process(command, environment, folder / "log", f"{url}/healthz"):
        yield url


def airflow_home(migrated: Path, home: Path, outlap_home: Path, port: int) -> dict[str, str]:
    """The environment of an Airflow of its own, whose database is a copy of the migrated one."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(migrated, home / "airflow.db")
    return {
        **os.environ,
        "OUTLAP_HOME": str(outlap_home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": USERS,
    }


@contextmanager
def api_server(environment: Mapping[str, str], port: int) -> Iterator[str]:
    """The address of a running `airflow api-server`."""
    url = f"http://127.0.0.1:{port}"
    command = [
        str(BIN / "airflow"),
        "api-server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    log = Path(environment["AIRFLOW_HOME"]) / "log"
    with process(command, environment, log, f"{url}/api/v2/version"):
        yield url


def passwords(environment: Mapping[str, str]) -> dict[str, str]:
    """user → password, as Airflow made them up."""
    text = (Path(environment["AIRFLOW_HOME"]) / "simple_auth_manager_passwords.json.generated").read_text()
    return dict(json.loads(text))
