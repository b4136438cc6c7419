"""Shared by tests of faults: a node inside the test, with real mounts and a real fetchfs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import tomli_w

from cacheengine import wanted as wants
from cacheengine.agent import known_mounts, mounts, residency, upkeep
from cacheengine.agent.state import Node, load_state, take_desired
from cacheengine.node import CacheDirConfig, NodeConfig, write_node_file
from cacheengine.packs import disks, packcache
from cacheengine.packs.packcache import open_cache
from cacheengine.views import mountapi
from cacheengine.wire import Desired, DesiredVersion, MountRequest
from lake.config import StoreConfig
from lake.stores import open_store
from tests.cacheengine.nodes import Dataset


def make_node(
    folder: Path, store: StoreConfig, dirs: Sequence[CacheDirConfig] | None = None, **changes: object
) -> Node:
    """A node whose store is also in the settings that its fetchfs reads (OUTLAP_HOME must be `folder`)."""
    settings = NodeConfig.model_validate(
        {
            "name": "n1",
            "idc": store.idc,
            "store": store.name,
            "cache_dirs": tuple(dirs or [CacheDirConfig(path=folder / "cache", quota=1 << 30)]),
            "mounts": folder / "mounts",
            "state_dir": folder / "state",
            "fetch_concurrency": 4,
            **changes,
        }
    )
    for path in (settings.views, settings.mounts):
        path.mkdir(parents=True, exist_ok=True)
    value = json.loads(store.model_dump_json(exclude_none=True, exclude={"name"}))
    tables = {"here": store.idc, "idc": {store.idc: {"store": store.name}}, "store": {store.name: value}}
    (folder / "outlap.toml").write_text(tomli_w.dumps(tables))
    write_node_file(settings)
    handle = open_store(store)
    node = Node(settings, open_cache(settings.cache_dirs, settings.state_dir), lambda: handle, "boot")
    node.open_named = lambda name: handle
    load_state(node)
    known_mounts.recover(node)
    return node


def desire(node: Node, *data: Dataset) -> None:
    versions = tuple(DesiredVersion(dataset=d.name, tag=d.tag, version=d.version) for d in data)
    take_desired(node, Desired(node="n1", generation=node.generation + 1, versions=versions))


def warm(node: Node, data: Dataset) -> str:
    """Desire it alone, make it resident; the state that it came to."""
    desire(node, data)
    return again(node)


def again(node: Node) -> str:
    """Warm what is desired once more; the state of the last."""
    state = ""
    for key in list(node.desired):
        residency.warm(node, key)
        state = node.statuses[key].state
    return state


def causes(node: Node) -> str:
    return "\n".join(f"{f.path}: {f.cause}" for s in node.statuses.values() for f in s.failures)


def mount(node: Node, data: Dataset, backend: str = "auto") -> Path:
    request = MountRequest(dataset=data.name, ref=data.tag).model_copy(update={"backend": backend})
    return Path(mounts.mount(node, request).target)


def member(node: Node, data: Dataset, path: str) -> tuple[Path, int]:
    """(file of the pack on the node, offset of that file's bytes in it)."""
    want = wants.load_want(node.config.views, data.version)
    assert want is not None
    for place, part in enumerate(wants.read_packs(want)):
        for row, name in enumerate(wants.paths_at(want, place, part.offset >= 0)):
            if name == path:
                home = packcache.find_pack(node.cache, part.pack)
                assert home is not None
                return packcache.pack_path(home, part.pack), int(part.offset[row])
    raise AssertionError(path)


def flip(file: Path, offset: int) -> None:
    """Change one byte on the disk, behind the back of everyone."""
    fd = os.open(file, os.O_RDWR)
    byte = os.pread(fd, 1, offset)
    os.pwrite(fd, bytes([byte[0] ^ 0xFF]), offset)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def read_cold(path: Path) -> bytes:
    """The file's bytes, not from the page cache of the view."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def seen(view: Path, files: dict[str, bytes]) -> dict[str, int]:
    """What a reader of all files saw: how many were right, wrong, or an error."""
    found = {"right": 0, "wrong": 0, "error": 0}
    for path, data in files.items():
        try:
            found["right" if read_cold(view / path) == data else "wrong"] += 1
        except OSError:
            found["error"] += 1
    return found


def end(node: Node) -> None:
    """Unmount all views and end fetchfs."""
    node.ending.set()
    for record in list(node.mounts):
        mountapi.unmount(Path(record), lazy=True)
    for mount in mountapi.mounts_below(node.config.fetchfs):
        mountapi.unmount(mount.target, lazy=True)
    counters = [*node.config.state_dir.glob("*.counters"), *node.config.state_dir.glob("images/*.counters")]
    for path in counters:
        try:
            os.kill(int(json.loads(path.read_text())["pid"]), signal.SIGKILL)
        except ProcessLookupError:
            continue
    for directory in node.cache.dirs:
        disks.forget(directory.path)


def probes(node: Node, count: int = 9) -> None:
    for _ in range(count):
        upkeep.look_at_disks(node)
