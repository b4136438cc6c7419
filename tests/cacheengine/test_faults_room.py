"""Room that readers need: what is evicted is free on the disk, and readers that do not all fit take turns."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from cacheengine.agent import mounts
from cacheengine.agent.reconcile import watch_room
from cacheengine.agent.state import Node
from cacheengine.node import CacheDirConfig
from cacheengine.packs import packcache, room_queue
from cacheengine.views.tree import Devices
from lake.config import StoreConfig
from lake.errors import Refused
from lake.stores import open_store
from tests.cacheengine.faulty import end, make_node, mount, read_cold, seen, warm
from tests.cacheengine.nodes import make_files, publish
from tests.conftest import wait_until

MIB = 1 << 20


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreConfig:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    return StoreConfig(name="lake", idc="a", url=f"file://{tmp_path / 'lake'}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, whose use is that of the cache alone."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def make(lake: StoreConfig, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """A node whose room is watched as the agent does it."""
    made: list[tuple[Node, threading.Thread]] = []

    def make_it(quota: int, path: Path, **changes: object) -> Node:
        dirs = [CacheDirConfig(path=path, quota=quota)]
        node = make_node(tmp_path, lake, dirs, **changes)
        thread = threading.Thread(target=watch_room, args=(node,))
        thread.start()
        made.append((node, thread))
        return node

    yield make_it
    for node, thread in made:
        end(node)
        thread.join()


def fetched(node: Node) -> int:
    """Bytes that readers fetched so far."""
    counts = (node.config.state_dir / "counts").glob("*.json")
    return sum(int(json.loads(path.read_bytes())["miss_bytes"]) for path in counts)


def read_slowly(path: Path, seconds: float) -> bytes:
    """As a training does that works on what it read: in pieces, from the disk."""
    size, parts = path.stat().st_size, []
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(
            file.fileno(), 0, 0, os.POSIX_FADV_RANDOM
        )  # the kernel asks for no more than is read
        while part := file.read(MIB // 4):
            parts.append(part)
            time.sleep(seconds * len(part) / size)
    return b"".join(parts)


@pytest.mark.fault("A7")
@pytest.mark.parametrize(("pack_bytes", "processes"), [(MIB, 2), (64 * MIB, 1)])
def test_readers_that_do_not_all_fit_take_turns(
    make: Callable[..., Node], lake: StoreConfig, tmp_path: Path, pack_bytes: int, processes: int
) -> None:
    """Three files of which one fits at a time, in packs of their own or in one."""
    files = make_files(3, 12 * MIB, 12 * MIB)
    data = publish(open_store(lake), tmp_path, files, pack_bytes=pack_bytes)
    node = make(16 * MIB, tmp_path / "cache", fetchfs_processes=processes, read_wait_s=120.0)
    view = mount(node, data)
    with ThreadPoolExecutor(3) as pool:
        got = dict(zip(files, pool.map(lambda path: read_slowly(view / path, 7.0), files), strict=True))
    assert got == files
    wait_until(lambda: fetched(node) >= data.bytes, "the counts")
    assert fetched(node) <= 2 * data.bytes


@pytest.mark.fault("A7")
def test_more_readers_than_fit_all_get_their_turn(
    make: Callable[..., Node], lake: StoreConfig, tmp_path: Path
) -> None:
    files = make_files(12, 3 * MIB, 3 * MIB)
    data = publish(open_store(lake), tmp_path, files, pack_bytes=MIB)
    node = make(8 * MIB, tmp_path / "cache", fetchfs_processes=2, read_wait_s=120.0)
    view = mount(node, data)
    with ThreadPoolExecutor(12) as pool:
        got = dict(zip(files, pool.map(lambda path: read_slowly(view / path, 0.5), files), strict=True))
    assert got == files
    wait_until(lambda: fetched(node) >= data.bytes, "the counts")
    assert fetched(node) <= 2 * data.bytes


@pytest.mark.fault("A7")
def test_a_file_that_never_fits_is_an_error_at_once(
    make: Callable[..., Node], lake: StoreConfig, tmp_path: Path
) -> None:
    files = make_files(1, 12 * MIB, 12 * MIB)
    data = publish(open_store(lake), tmp_path, files)
    node = make(8 * MIB, tmp_path / "cache", fetchfs_processes=1, read_wait_s=600.0)
    view = mount(node, data)
    with pytest.raises(OSError):
        (view / next(iter(files))).read_bytes()
    log = (node.config.state_dir / "fetchfs-0.log").read_text()
    assert "the largest cache directory takes" in log and "larger quota" in log


@pytest.mark.fault("A7")
def test_a_reader_that_stops_midway_does_not_keep_the_room(
    make: Callable[..., Node], lake: StoreConfig, tmp_path: Path
) -> None:
    files = make_files(2, 12 * MIB, 12 * MIB)
    data = publish(open_store(lake), tmp_path, files, pack_bytes=MIB)
    node = make(16 * MIB, tmp_path / "cache", fetchfs_processes=1, read_wait_s=120.0)
    view = mount(node, data)
    one, two = files
    with (view / one).open("rb", buffering=0) as file:
        assert file.read(MIB) == files[one][:MIB]
        assert (view / two).read_bytes() == files[two]
        rest = []
        while part := file.read(MIB):
            rest.append(part)
        assert b"".join(rest) == files[one][MIB:]


@pytest.mark.fault("A7")
def test_the_queue_is_in_order_and_forgets_who_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "waiting"
    assert room_queue.is_empty(folder)
    code = (
        "import sys, time; from pathlib import Path; from cacheengine.packs import room_queue\n"
        f"with room_queue.waiting(Path({str(folder)!r})):\n print('in', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "in\n"
    with room_queue.waiting(folder) as first, room_queue.waiting(folder) as second:
        assert not room_queue.is_first(first)
        other.kill()
        other.wait()
        assert room_queue.is_first(first) and not room_queue.is_first(second)
    assert room_queue.is_empty(folder) and list(folder.iterdir()) == []


def on_disk(node: Node) -> tuple[int, int]:
    """(bytes that files of the cache directory have, bytes that its disk has given away)."""
    status = os.statvfs(node.cache.dirs[0].path)
    return packcache.used(node.cache.dirs[0]), (status.f_blocks - status.f_bfree) * status.f_frsize


def open_packs(node: Node) -> dict[int, int]:
    """Process of fetchfs → how many packs it has open, and -1 times the number of those that are unlinked when there are any."""
    found = {}
    for path in node.config.state_dir.glob("fetchfs-*.counters"):
        pid = int(json.loads(path.read_text())["pid"])
        names = []
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                names.append(str(entry.readlink()))
        packs = [name for name in names if ".tar" in name]
        unlinked = sum(name.endswith("(deleted)") for name in packs)
        found[pid] = -unlinked if unlinked else len(packs)
    return found


@pytest.mark.fault("A5")
def test_what_is_evicted_is_free_on_the_disk(
    disk: Path, make: Callable[..., Node], lake: StoreConfig, tmp_path: Path
) -> None:
    """Ten times what fits is read on demand, from many packs: the disk gives away what the files have, and no reader fails."""
    files = make_files(400, 200_000, 200_000)
    data = publish(open_store(lake), tmp_path, files, pack_bytes=MIB)
    assert len(data.packs) > 70
    node = make(12 * MIB, disk, fetchfs_processes=2, read_wait_s=120.0)
    view = mount(node, data)
    with ThreadPoolExecutor(4) as pool:
        assert dict(zip(files, pool.map(lambda path: read_cold(view / path), files), strict=True)) == files
    wait_until(lambda: set(open_packs(node).values()) == {0}, "fetchfs to close its packs")
    wait_until(lambda: on_disk(node)[0] <= 12 * MIB, "the watermark")
    had, given = on_disk(node)
    assert given <= had + MIB // 4
    assert all(count >= 0 for count in open_packs(node).values())


@pytest.fixture
def few_files() -> Iterator[int]:
    """The soft limit of open files, as low as a daemon may find it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    yield 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.fault("A5")
@pytest.mark.parametrize("backend", ["fuse", "auto"])
def test_a_view_of_more_packs_than_the_limit_of_open_files(
    few_files: int, make: Callable[..., Node], lake: StoreConfig, tmp_path: Path, backend: str
) -> None:
    files = make_files(few_files + 50, 5000, 9000)
    data = publish(open_store(lake), tmp_path, files, pack_bytes=1)
    assert len(data.packs) == len(files)
    node = make(1 << 30, tmp_path / "cache", fetchfs_processes=1, read_wait_s=120.0)
    view = mount(node, data, backend)
    assert seen(view, files)["right"] == len(files)  # through fetchfs
    mounts.umount(node, str(view))
    assert warm(node, data) == "resident"
    view = mount(node, data, backend)
    assert seen(view, files)["right"] == len(files)


@pytest.mark.fault("A5")
def test_a_tree_that_may_not_open_its_packs_says_so(few_files: int, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.tar" for number in range(few_files + 50)]
    for path in paths:
        path.touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(Refused, match=r"250 packs on this node.*LimitNOFILE"):
        Devices(paths, None)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
