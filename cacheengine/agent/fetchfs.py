"""The processes of fetchfs: each is a mount of its own below `<state>/fetchfs`, and a pack's id says which one serves it.

They are started when a view first needs one, in sessions of their own, and outlive the agent. Packs are independent, so what is one
thing in a process (a fetch that several readers wait for, marks that are pending) never spans two.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from cacheengine.node import NodeConfig
from cacheengine.views import mountapi, views
from lake.errors import Explained

log = structlog.get_logger()


def folder(config: NodeConfig, number: int) -> Path:
    """Where a process shows its packs."""
    return config.fetchfs / str(number)


def is_dead(mountpoint: Path) -> bool:
    """Whether a daemon's mount is there no more, or nobody answers behind it."""
    if not mountapi.is_mounted(mountpoint):
        return True
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ESHUTDOWN)
    return False


def mount_of(config: NodeConfig, number: int) -> int | None:
    """The device number of a process's mount, another for each that was started; None when it is not there."""
    try:
        return folder(config, number).stat().st_dev if mountapi.is_mounted(folder(config, number)) else None
    except OSError:
        return None


def ensure(config: NodeConfig, numbers: Iterable[int]) -> dict[int, Explained | OSError | None]:
    """Start those of the processes that do not answer, all at once: number → None, or why it could not be started."""
    dead = [number for number in numbers if is_dead(folder(config, number))]
    if not dead:
        return {}
    if mountapi.is_mounted(config.fetchfs):  # one process for all packs, of an agent before this one
        mountapi.unmount(config.fetchfs, lazy=True)
    with ThreadPoolExecutor(len(dead)) as pool:
        return dict(zip(dead, pool.map(lambda number: _started(config, number), dead), strict=True))


def _started(config: NodeConfig, number: int) -> Explained | OSError | None:
    try:
        start(config, number)
    except (Explained, OSError) as error:
        return error
    return None


def start(config: NodeConfig, number: int) -> subprocess.Popen[bytes]:
    """Start one, in place of what is mounted there. Raises MountFailed, OSError."""
    name = f"fetchfs-{number}"
    mountapi.unmount(folder(config, number), lazy=True)
    process = views.start_daemon(
        "cacheengine.ondemand.fetchfs",
        folder(config, number),
        ["--node-config", str(config.file), "--name", name],
        config.state_dir / f"{name}.log",
        config.state_dir / f"{name}.counters",
    )
    log.info("fetchfs_started", pid=process.pid, mountpoint=str(folder(config, number)))
    return process
