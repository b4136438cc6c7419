"""Settings of one node: `[node]` of the settings files, or OUTLAP_NODE_<KEY> variables (lists and tables as JSON)."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator, model_validator

from cacheengine.wire import Medium, Role
from lake.config import Config, SecretRef, read_secret
from lake.errors import Refused
from lake.stores import Store, lake_store, open_store


class CacheDirConfig(BaseModel):
    """One cache directory. quota: bytes, or `200GiB`; above high × quota bytes fetched on demand go, down to low × quota."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: Path
    medium: Medium = "ssd"
    quota: ByteSize
    high: float = Field(default=0.95, gt=0, le=1)
    low: float = Field(default=0.85, gt=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> CacheDirConfig:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class NodeConfig(BaseModel):
    """listen: address of the agent (port 0: any free one). advertise: the URL that others reach it by (default: from listen).
    token: how it speaks to control. client_token: what its own clients must show (default: the token of its IDC, and the
    node's own is always good). store: a store of the settings (default: the
    lake of its IDC). fetch_concurrency: requests to the store at once, of at most 8 MiB each.
    read_wait_s: the longest that a reader waits for bytes that are not resident. fetchfs_processes: packs that are not resident are
    shared out over so many processes (default: one a core, four at most).
    scrub_every_s: how often all resident bytes are read and hashed again (0: never), scrub_rate: at most so many bytes a second.
    ttl_s: bytes that no desired version wants go when they are so old (default: when room is needed).
    peer_listen: where packs are served to peers (default: the address of listen, any port; a client serves none), peer_advertise:
    HOST:PORT that peers reach it by. peer_secret: what peers show each other (default: what control hands out). peer_streams: answers
    to peers at once. tls_cert, tls_key, tls_ca: with them peers speak TLS, and each shows a certificate of that authority.
    fill_rate: bytes a second that a node fetches of what only follows a change of the group.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(default_factory=socket.gethostname, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    idc: str = ""
    role: Role = "gpu"
    labels: dict[str, str] = Field(default_factory=dict)
    listen: str = "127.0.0.1:0"
    advertise: str | None = None
    control: str | None = None
    token: SecretRef | None = None
    client_token: SecretRef | None = None
    cache_dirs: tuple[CacheDirConfig, ...] = Field(min_length=1)
    mounts: Path
    state_dir: Path
    fetch_concurrency: int = Field(default=8, ge=1, le=256)
    store: str | None = None
    read_wait_s: float = Field(default=30.0, gt=0)
    fetchfs_processes: int = Field(default_factory=lambda: min(4, len(os.sched_getaffinity(0))), ge=1, le=64)
    scrub_every_s: float = Field(default=7 * 86400.0, ge=0)
    scrub_rate: ByteSize = Field(default=ByteSize(64 << 20))
    ttl_s: float | None = Field(default=None, gt=0)
    peer_listen: str | None = None
    peer_advertise: str | None = None
    peer_secret: SecretRef | None = None
    peer_streams: int = Field(default=32, ge=1, le=1024)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    fill_rate: ByteSize = Field(default=ByteSize(64 << 20), gt=0)

    @field_validator("cache_dirs", "labels", "token", "client_token", "peer_secret", mode="before")
    @classmethod
    def _json(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError("it is not JSON") from error

    @field_validator("mounts", "state_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.absolute()

    @model_validator(mode="after")
    def _tls_whole(self) -> NodeConfig:
        files = (self.tls_cert, self.tls_key, self.tls_ca)
        if any(files) and not all(files):
            raise ValueError("tls_cert, tls_key and tls_ca go together")
        return self

    @property
    def views(self) -> Path:
        """Where rows of versions lie, for images, trees and readers of packs."""
        return self.state_dir / "views"

    @property
    def fetchfs(self) -> Path:
        """Where the processes of fetchfs show packs: each in a folder of its own here, named by its number from 0 on."""
        return self.state_dir / "fetchfs"

    def fetchfs_of(self, pack: str) -> int:
        """The number of the process that serves a pack."""
        return int(pack[:8], 16) % self.fetchfs_processes

    def fetchfs_file(self, pack: str) -> Path:
        """Where a pack is seen that is not resident."""
        return self.fetchfs / str(self.fetchfs_of(pack)) / f"{pack}.tar"

    @property
    def file(self) -> Path:
        """These settings, resolved, for the processes that the agent starts."""
        return self.state_dir / "node.json"


def load_node(config: Config) -> NodeConfig:
    """The node's settings, completed from those of its IDC. Raises Refused, NotFound."""
    node = config.section("node", NodeConfig)
    name = node.idc or config.idc
    if not name:
        raise Refused(
            "the settings [node]", "they name no IDC", "set OUTLAP_NODE_IDC, or `here` in outlap.toml"
        )
    idc = config.idc_named(name)
    return node.model_copy(
        update={
            "idc": name,
            "control": node.control or idc.control,
            "token": node.token or idc.token,
            "client_token": node.client_token or idc.token,
            "store": node.store or idc.store,
        }
    )


def write_node_file(node: NodeConfig) -> None:
    """Secrets stay references. Raises OSError."""
    node.file.write_text(node.model_dump_json(indent=1), encoding="utf-8")


def read_node_file(path: Path) -> NodeConfig:
    """What write_node_file wrote. Raises Refused."""
    try:
        return NodeConfig.model_validate_json(path.read_text(encoding="utf-8"), extra="ignore")
    except (OSError, ValidationError) as error:
        raise Refused(
            f"the node's settings {path}", str(error), "start the agent again: it writes them"
        ) from error


def node_store(config: Config, node: NodeConfig) -> Store:
    """The store that the node reads from; it never writes there."""
    if node.store is None:
        return lake_store(config, node.idc)
    return open_store(config.store_named(node.store), node.idc)


def store_opener(config: Config, node: NodeConfig) -> Callable[[str], Store]:
    """Opens a store by name, as seen from the node, once: objects published in place name theirs. Raises NotFound."""
    return cache(lambda name: open_store(config.store_named(name), node.idc))


def other_stores(config: Config, node: NodeConfig) -> Callable[[], Sequence[Store]]:
    """Lakes of the other IDCs as seen from the node, opened when one is needed: packs have the same name everywhere."""

    @cache
    def opened() -> tuple[Store, ...]:
        names = [idc.store for name, idc in sorted(config.idcs.items()) if name != node.idc]
        return tuple(open_store(config.store_named(name), node.idc) for name in dict.fromkeys(names))

    return opened


def node_token(node: NodeConfig) -> str | None:
    """How the node speaks to control; None when the settings name no token."""
    return read_secret(node.token) if node.token is not None else None


def client_tokens(node: NodeConfig) -> frozenset[str]:
    """What clients of the agent may show; empty when the settings name none."""
    return frozenset(read_secret(ref) for ref in (node.token, node.client_token) if ref is not None)
