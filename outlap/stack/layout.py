"""Where the local stack keeps its files: one folder, $OUTLAP_HOME, and nothing outside it but short socket paths."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

IDCS = ("idc-a", "idc-b")
NODES = ("node-b1", "node-b2")
NODES_IDC = "idc-b"
# sun_path has 108 bytes, and supervisord binds `<socket>.<pid>` first
SOCKET_PATH_MAX = 90


@dataclass(frozen=True)
class Layout:
    """All paths of the stack below `home`."""

    home: Path

    @property
    def stack(self) -> Path:
        return self.home / "stack"

    @property
    def secrets(self) -> Path:
        return self.stack / "secrets"

    @property
    def ports(self) -> Path:
        return self.stack / "ports.json"

    @property
    def settings(self) -> Path:
        """What lake.config reads while the stack is up."""
        return self.stack / "outlap.toml"

    @property
    def record(self) -> Path:
        """What was started: names, addresses, health URLs."""
        return self.stack / "stack.json"

    @property
    def events(self) -> Path:
        """One JSON line for each crash and each restart."""
        return self.stack / "events.jsonl"

    @property
    def supervisor_config(self) -> Path:
        return self.stack / "supervisord.conf"

    @property
    def supervisor_pid(self) -> Path:
        return self.stack / "supervisord.pid"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def airflow(self) -> Path:
        return self.home / "airflow"

    @property
    def passwords(self) -> Path:
        """User name → password of the Airflow page, as its simple auth manager reads it."""
        return self.secrets / "airflow-passwords.json"

    def log(self, program: str) -> Path:
        return self.logs / f"{program}.log"

    def store(self, idc: str) -> Path:
        return self.home / "stores" / idc

    def control(self, idc: str) -> Path:
        return self.home / "control" / idc

    def node(self, node: str) -> Path:
        return self.home / "nodes" / node

    def node_settings(self, node: str) -> Path:
        return self.stack / f"{node}.toml"

    @property
    def sockets(self) -> Path:
        """Folder of Unix sockets: in `stack` where the path is short enough, else a private one in /tmp."""
        if len(str(self.stack / "seaweedfs-store-idc-a-filer.sock")) <= SOCKET_PATH_MAX:
            return self.stack
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path("/tmp") / f"outlap-{os.getuid()}-{digest}"  # noqa: S108 (made 0700, checked by make_folders)

    @property
    def supervisor_socket(self) -> Path:
        return self.sockets / "supervisor.sock"


def make_folders(layout: Layout) -> None:
    """Every folder the programs expect, private to this user where secrets lie."""
    layout.home.mkdir(parents=True, exist_ok=True)
    for folder in (layout.stack, layout.secrets, layout.logs, layout.airflow, *map(layout.control, IDCS)):
        _make_private(folder)
    if layout.sockets != layout.stack:
        layout.sockets.mkdir(mode=0o700, exist_ok=True)
        found = layout.sockets.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{layout.sockets} belongs to someone else")
    for idc in IDCS:
        _make_private(layout.store(idc))
    for node in NODES:
        for part in ("cache", "mounts", "state"):
            (layout.node(node) / part).mkdir(parents=True, exist_ok=True)


def _make_private(folder: Path) -> None:
    """Make a folder that only this user enters; files of releases before 0.2.0 in it were readable to all."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for path in folder.glob("*.db*"):
        path.chmod(0o600)


def checkout() -> Path:
    """The project's folder: where `dags/` and `plugins/` lie."""
    return Path(__file__).resolve().parents[2]


def scripts() -> Path:
    """The folder of this environment's commands (`weed`, `airflow`, `supervisord`)."""
    return Path(sys.executable).parent
