"""Everything that is read side by side: the plain file system, each of our views, JuiceFS and rclone, mounted on the same files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import datasets, reader, rivals
from benchmarks.datasets import Version
from cacheengine.agent import fetchfs as processes
from cacheengine.node import NodeConfig, write_node_file
from cacheengine.packs.packcache import Cache
from cacheengine.views import mountapi, views
from cacheengine.views.views import Backend, ViewPlan
from lake.errors import Explained

KERNEL, LOOP, TREE = "kernel view", "loop view", "pyfuse3 tree"
NEAR = "kernel view through fetchfs"
JUICEFS, RCLONE = "JuiceFS", "rclone mount"
JUICEFS_AS_IT_IS = "JuiceFS, its own times"
DAEMONS_EVERY, RCLONE_EVERY, RCLONE_SHARE = 4, 8, 10
VIEWS: tuple[tuple[Backend, str], ...] = (("kernel", KERNEL), ("loop", LOOP), ("fuse", TREE))

Say = Callable[[str], None]


@dataclass(frozen=True)
class System:
    """folders: kind of files → where they are seen. pids: its daemons. every: takes part in each so many rounds, the first
    among them: a daemon takes several times as long. share: reads one in so many of the files.
    """

    name: str
    folders: Mapping[str, Path]
    pids: tuple[int, ...] = ()
    every: int = 1
    share: int = 1


def kind_of_disk(folder: Path) -> str:
    """The file system that holds a folder, such as ext4; unknown where its mount is not seen, as in a chroot."""
    place = folder.resolve()
    holding = [mount for mount in mountapi.mounts() if place.is_relative_to(mount.target)]
    holding.sort(key=lambda mount: len(mount.target.parts))
    return holding[-1].kind if holding else "unknown"


@contextmanager
def view(
    backend: Backend,
    version: Version,
    devices: tuple[Path, ...],
    state: Path,
    target: Path,
    fetchfs: Path | None = None,
) -> Iterator[views.View]:
    """A mounted view of a version, as a node mounts it; state: where its image and records lie."""
    packs = tuple(part.id for part in version.want.packs)
    plan = ViewPlan(
        dataset=version.files.kind,
        tag="v1",
        version=version.want.version,
        target=target,
        rows=version.want.index,
        packs=packs,
        devices=devices,
        state=state,
        fetchfs=fetchfs,
    )
    with mounted(backend, plan) as found:
        yield found


@contextmanager
def mounted(backend: Backend, plan: ViewPlan) -> Iterator[views.View]:
    """The view of a plan until the context ends. Raises MountFailed where this machine cannot have it."""
    try:
        yield views.mount_view(backend, plan)
    finally:
        with suppress(Explained):
            views.unmount_view(plan.target, plan.state, lazy=True)


@contextmanager
def fetchfs(folder: Path, version: Version, cache: Path) -> Iterator[NodeConfig]:
    """A node in the IDC of the folder store, over a cache directory, with as many processes of fetchfs as one has here."""
    state = version.views.parent
    lines = ['here = "here"', "[idc.here]", 'store = "lake"', "[store.lake]", 'idc = "here"']
    lines += [f'url = "{version.store.where}"', "read_only = true"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "outlap.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "name": "bench",
        "idc": "here",
        "store": "lake",
        "cache_dirs": [{"path": str(cache), "quota": 64 << 30}],
        "mounts": str(folder / "mounts"),
        "state_dir": str(state),
    }
    node = NodeConfig.model_validate(settings)
    write_node_file(node)
    before = os.environ.get("OUTLAP_HOME")
    os.environ["OUTLAP_HOME"] = str(folder)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(node.fetchfs_processes):
            started.append(processes.start(node, number))
        yield node
    finally:
        if before is None:
            del os.environ["OUTLAP_HOME"]
        else:
            os.environ["OUTLAP_HOME"] = before
        for number, process in enumerate(started):
            with suppress(Explained):
                mountapi.unmount(processes.folder(node, number), lazy=True)
            process.terminate()
            process.wait(30)


def open_views(stack: ExitStack, versions: Mapping[str, Version], cache: Cache, folder: Path) -> list[System]:
    """Each view of each version over the warm cache, and the kernel view of which fetchfs serves every pack."""
    found = []
    for backend, name in VIEWS:
        folders, pids = {}, []
        for kind, version in versions.items():
            target = folder / backend / kind
            devices = datasets.pack_paths(version, cache)
            seen = stack.enter_context(view(backend, version, devices, folder / f"{backend}-state", target))
            folders[kind] = target
            pids += [seen.pid] if seen.pid is not None else []
        found.append(System(name, folders, tuple(pids), DAEMONS_EVERY if pids else 1))
    one = next(iter(versions.values()))
    node = stack.enter_context(fetchfs(folder / "near", one, cache.dirs[0].path))
    folders = {}
    for kind, version in versions.items():
        devices = tuple(node.fetchfs_file(part.id) for part in version.want.packs)
        target = folder / "near-views" / kind
        stack.enter_context(view("kernel", version, devices, folder / "near-state", target, node.fetchfs))
        folders[kind] = target
    return [*found, System(NEAR, folders, (), DAEMONS_EVERY)]


def open_juicefs(
    stack: ExitStack, versions: Mapping[str, Version], folder: Path, database: str, say: Say
) -> System:
    """JuiceFS with the same files, written through a mount of it, then warmed into an empty cache on the disk."""
    rivals.format_juicefs(database, folder / "bucket")
    with rivals.juicefs(folder, folder / "cache-of-writer", database) as writer:
        for kind, version in versions.items():
            say(f"writing {len(version.files.names)} {kind} into JuiceFS")
            (writer.target / kind).mkdir()
            _copy(version.files.folder, writer.target / kind)
    seen = stack.enter_context(rivals.juicefs(folder, folder / "cache", database))
    for kind in versions:
        rivals.run(rivals.program("juicefs"), "warmup", str(seen.target / kind))
    return System(JUICEFS, {kind: seen.target / kind for kind in versions}, seen.pids, DAEMONS_EVERY)


def _copy(source: Path, target: Path) -> None:
    """All folders of a tree at once: JuiceFS writes small files as fast as it is asked to in parallel."""
    processes = [subprocess.Popen(["cp", "-r", str(each), str(target)]) for each in sorted(source.iterdir())]
    if any([process.wait() for process in processes]):
        raise Explained(f"copying {source} to {target}", "cp failed", "see what it said")


def open_rclone(
    stack: ExitStack, program: Path, versions: Mapping[str, Version], plain: Path, folder: Path, say: Say
) -> System:
    """rclone mount of the plain files, every file read once, so that its cache on the disk has all of them."""
    seen = stack.enter_context(rivals.rclone(folder, plain))
    for kind, version in versions.items():
        say(f"reading {len(version.files.names)} {kind} through rclone, to warm it")
        names = reader.write_list(folder / f"warm-{kind}", seen.target / kind, version.files.names)
        reader.run_list(program, "read", names, 8)
    folders = {kind: seen.target / kind for kind in versions}
    return System(RCLONE, folders, seen.pids, RCLONE_EVERY, RCLONE_SHARE)


def tree_rows(path: Path, names: list[str], pack: str) -> None:
    """Rows of a version of empty files: what a walk asks for is in the image, not in packs."""
    columns = {
        "path": pa.array(names),
        "size": pa.array([0] * len(names), pa.int64()),
        "pack": pa.array([pack] * len(names)),
        "offset": pa.array([0] * len(names), pa.int64()),
    }
    pq.write_table(pa.table(columns), path)
