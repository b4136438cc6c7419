"""What runs in the local stack: each program's command, environment, address and health URL."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from outlap.stack import secrets
from outlap.stack.layout import IDCS, NODES, NODES_IDC, Layout, checkout, scripts

# airflow: its API server, which serves the page too; airflow-part: what has no address of its own
Kind = Literal["store", "control", "node", "airflow", "airflow-part"]
AIRFLOW_KINDS = ("airflow", "airflow-part")
AIRFLOW_PARTS = ("scheduler", "dag-processor", "triggerer")
# every process of a stack carries this variable, so that `down` finds even those whose parent died
MARK = "OUTLAP_STACK_OF"
PROGRAM_MARK = "OUTLAP_STACK_PROGRAM"
VOLUME_MIB = 256
VOLUMES = 400


@dataclass(frozen=True)
class Program:
    """address: where it is spoken to. health: what answers 200 when it is well. log: its output."""

    name: str
    kind: Kind
    command: tuple[str, ...]
    address: str
    health: str
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


def base_environment(layout: Layout) -> dict[str, str]:
    """What every program gets, and no more: nothing of the caller's AIRFLOW__*, OUTLAP_* or secrets leaks in."""
    keep = ("HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
    kept = {name: os.environ[name] for name in keep if name in os.environ}
    path = os.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return {
        **kept,
        "PATH": f"{scripts()}:{path}",
        "PYTHONUNBUFFERED": "1",
        # process titles would otherwise overwrite the environment, and with it our mark
        "SPT_NOENV": "1",
        "OUTLAP_HOME": str(layout.home),
        MARK: str(layout.home),
    }


def _store(layout: Layout, ports: Mapping[str, int], idc: str) -> Program:
    name = f"store-{idc}"
    s3 = ports[f"{name}-s3"]
    command = (
        str(scripts() / "weed"),
        "-logtostderr",
        "server",
        f"-dir={layout.store(idc)}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={ports[f'{name}-master']}",
        f"-master.volumeSizeLimitMB={VOLUME_MIB}",
        f"-volume.port={ports[f'{name}-volume']}",
        f"-volume.max={VOLUMES}",
        # how long it goes on serving after SIGTERM; the default of 10 s is meant for a cluster
        "-volume.preStopSeconds=1",
        "-filer",
        f"-filer.port={ports[f'{name}-filer']}",
        f"-filer.localSocket={layout.sockets / f'{name}-filer.sock'}",
        "-s3",
        f"-s3.port={s3}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={layout.sockets / f'{name}-s3.sock'}",
        f"-s3.config={secrets.store_identities(layout, idc)}",
    )
    address = f"http://127.0.0.1:{s3}"
    return Program(name, "store", command, address, f"{address}/healthz", layout.log(name))


def _control(layout: Layout, ports: Mapping[str, int], idc: str) -> Program:
    name = f"control-{idc}"
    listen = f"127.0.0.1:{ports[name]}"
    environment = {
        "OUTLAP_IDC": idc,
        "OUTLAP_CONTROL_LISTEN": listen,
        "OUTLAP_CONTROL_IDC": idc,
        "OUTLAP_CONTROL_DATABASE": f"sqlite:///{layout.control(idc) / 'control.db'}",
        "OUTLAP_CONTROL_STATE_DIR": str(layout.control(idc)),
        "OUTLAP_CONTROL_ADMIN_TOKEN_FILE": str(secrets.admin_token(layout, idc)),
    }
    command = (sys.executable, "-m", "cacheengine.control")
    address = f"http://{listen}"
    return Program(name, "control", command, address, f"{address}/healthz", layout.log(name), environment)


def _node(layout: Layout, ports: Mapping[str, int], node: str) -> Program:
    environment = {"OUTLAP_IDC": NODES_IDC, "OUTLAP_CONFIG": str(layout.node_settings(node))}
    command = (sys.executable, "-m", "cacheengine.agent")
    address = f"http://127.0.0.1:{ports[node]}"
    return Program(node, "node", command, address, f"{address}/healthz", layout.log(node), environment)


def airflow_environment(layout: Layout, ports: Mapping[str, int], parallelism: int) -> dict[str, str]:
    """Airflow's settings. Secrets come from files by its own `_CMD` settings, never from the environment."""
    address = f"http://127.0.0.1:{ports['airflow']}"
    root = checkout()

    def from_file(name: str) -> str:
        return f"cat {shlex.quote(str(secrets.airflow_secret(layout, name)))}"

    return {
        "OUTLAP_IDC": IDCS[0],
        "AIRFLOW_HOME": str(layout.airflow),
        "AIRFLOW__CORE__DAGS_FOLDER": str(root / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(root / "plugins"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": str(parallelism),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # the test button of connections: its only user is the one who started the stack
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__CORE__FERNET_KEY_CMD": from_file("fernet-key"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{secrets.AIRFLOW_USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(layout.passwords),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(ports["airflow"]),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY_CMD": from_file("api-secret"),
        "AIRFLOW__API_AUTH__JWT_SECRET_CMD": from_file("jwt-secret"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{layout.airflow / 'airflow.db'}",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(layout.logs / "tasks"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports["airflow-worker-logs"]),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports["airflow-trigger-logs"]),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # tasks that go to sleep in a deferral wake within a second
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "NO_COLOR": "1",
    }


def airflow_command(*arguments: str) -> tuple[str, ...]:
    """`airflow …` of this environment."""
    return (str(scripts() / "airflow"), *arguments)


def _airflow(layout: Layout, ports: Mapping[str, int], parallelism: int) -> list[Program]:
    """A program for each part of Airflow, so that one that is sick is restarted alone. All tell their health through the API server."""
    address = f"http://127.0.0.1:{ports['airflow']}"
    environment = airflow_environment(layout, ports, parallelism)

    def part(name: str, kind: Kind, argument: str) -> Program:
        command = (sys.executable, "-m", "outlap.stack.alone", *airflow_command(argument))
        health = f"{address}/api/v2/monitor/health"
        shown = address if kind == "airflow" else ""
        return Program(name, kind, command, shown, health, layout.log(name), environment)

    parts = [part(f"airflow-{name}", "airflow-part", name) for name in AIRFLOW_PARTS]
    return [part("airflow", "airflow", "api-server"), *parts]


def stack_programs(
    layout: Layout, ports: Mapping[str, int], *, airflow: bool, parallelism: int
) -> list[Program]:
    """All of them, in the order in which they are started."""
    found = [_store(layout, ports, idc) for idc in IDCS]
    found += [_control(layout, ports, idc) for idc in IDCS]
    found += [_node(layout, ports, node) for node in NODES]
    if airflow:
        found += _airflow(layout, ports, parallelism)
    return found
