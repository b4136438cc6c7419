"""Settings of the stack itself, and the settings files that it writes for everyone else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator

from lake.config import Config
from outlap.stack import secrets
from outlap.stack.layout import IDCS, NODES, NODES_IDC, Layout

GIB = 1 << 30


class StackSettings(BaseModel):
    """`[stack]` of outlap.toml, or OUTLAP_STACK_PORTS=name=port,…, OUTLAP_STACK_NODE_QUOTA and so on.

    node_quota: bytes that each node may cache. wait_s: how long `up` waits for everything to be healthy.
    parallelism: tasks that Airflow runs at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    ports: dict[str, int] = Field(default_factory=dict)
    node_quota: Annotated[ByteSize, Field(ge=64 << 20)] = ByteSize(8 * GIB)
    wait_s: Annotated[float, Field(gt=0)] = 240.0
    parallelism: Annotated[int, Field(ge=1, le=64)] = 4

    @field_validator("ports", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [item.split("=", 1) for item in value.split(",") if item.strip()]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("give name=port,name=port")
        return {name.strip(): int(port) for name, port in pairs}


def stack_settings(config: Config) -> StackSettings:
    """Raises Refused for what cannot be."""
    return config.section("stack", StackSettings)


def _address(ports: dict[str, int], name: str) -> str:
    return f"http://127.0.0.1:{ports[name]}"


def lake_settings(layout: Layout, ports: dict[str, int]) -> dict[str, Any]:
    """The tables of stack/outlap.toml: see lake/config.py for what each key means."""
    tables: dict[str, Any] = {"here": IDCS[0], "idc": {}, "store": {}}
    for idc in IDCS:
        letter = idc[-1]
        tables["idc"][idc] = {
            "store": f"lake-{letter}",
            "control": _address(ports, f"control-{idc}"),
            "token": {"file": str(secrets.admin_token(layout, idc))},
        }
        buckets = [f"lake-{letter}"]
        if idc == IDCS[0]:
            tables["idc"][idc]["landing"] = f"landing-{letter}"
            buckets.append(f"landing-{letter}")
        for bucket in buckets:
            tables["store"][bucket] = {
                "idc": idc,
                "url": f"s3://{bucket}",
                "endpoint": _address(ports, f"store-{idc}-s3"),
                "access_key_id": {"file": str(secrets.key_id(layout, idc))},
                "secret_access_key": {"file": str(secrets.secret_key(layout, idc))},
            }
    return tables


def node_settings(layout: Layout, ports: dict[str, int], node: str, quota: int) -> dict[str, Any]:
    """The tables of stack/<node>.toml: `[node]` as cacheengine.node.NodeConfig reads it."""
    folder = layout.node(node)
    return {
        "here": NODES_IDC,
        "node": {
            "name": node,
            "idc": NODES_IDC,
            "role": "gpu",
            "listen": f"127.0.0.1:{ports[node]}",
            "control": _address(ports, f"control-{NODES_IDC}"),
            "token": {"file": str(secrets.admin_token(layout, NODES_IDC))},
            "cache_dirs": [{"path": str(folder / "cache"), "medium": "ssd", "quota": quota}],
            "mounts": str(folder / "mounts"),
            "state_dir": str(folder / "state"),
        },
    }


def write_settings(layout: Layout, ports: dict[str, int], settings: StackSettings) -> None:
    """stack/outlap.toml and one file for each node. They name where secrets are, never what they are."""
    _write(layout.settings, lake_settings(layout, ports))
    for node in NODES:
        _write(layout.node_settings(node), node_settings(layout, ports, node, settings.node_quota))


def _write(path: Path, tables: dict[str, Any]) -> None:
    text = "# Written by `outlap up`, removed by `outlap down`. Your own settings go to $OUTLAP_HOME/outlap.toml.\n\n"
    secrets.write_private(path, text + tomli_w.dumps(tables))
