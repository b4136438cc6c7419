"""Only checked bytes are ever written into a pack, whoever fetches and wherever bytes come from."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from cacheengine.agent import room, upkeep
from cacheengine.agent.state import Node
from cacheengine.fetching import fetch
from cacheengine.fetching.fetch import REQUEST, PackJob, Sources
from cacheengine.packs import memberwrites, packcache, staging
from cacheengine.packs.memberwrites import Memory, PackFile, Sink
from cacheengine.packs.packcache import Cache
from cacheengine.peers import peers
from cacheengine.wanted import PackWant
from cacheengine.wire import Held
from lake.config import StoreConfig
from lake.packs import pack_key
from lake.stores import Store, get, open_store
from tests.cacheengine.badpeer import BadPeer
from tests.cacheengine.badstore import Proxy
from tests.cacheengine.faulty import again, end, make_node, member, mount, read_cold, warm
from tests.cacheengine.nodes import Dataset, cache_at, make_files, object_path, publish
from tests.cacheengine.test_peers import peers_of
from tests.conftest import Seaweed, wait_until

LONG = "video/long.bin"
WAYS = ("in memory", "in a staged file", "twice")


@contextmanager
def gathered(way: str, cache: Cache) -> Iterator[None]:
    """Long members are gathered in this way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memberwrites, "MEMORY", Memory(256 << 20 if way == "in memory" else 0))
        patch.setattr(memberwrites, "CHECKED_BLOCK", 1000)
        if way == "twice":  # no room for another file
            patch.setattr(staging, "room", lambda directory: 0)
        yield
    assert not list(staging.folder(cache.dirs[0]).glob("*"))


def want_of(data: bytes, offset: int, hashed: bool = True) -> PackWant:
    """A pack of one member at this offset, and some bytes behind it."""
    content_id = np.frombuffer(blake3(data).digest(), np.uint8).reshape(1, 32)
    one = np.array([offset], np.int64), np.array([len(data)], np.int64)
    return PackWant("a" * 64, offset + len(data) + 777, *one, content_id, hashed=hashed)


Spoiling = Callable[[bytes, int], bytes]
SPOILED: dict[str, Spoiling] = {
    "right": lambda data, time: data,
    "a byte": lambda data, time: data[:-1] + bytes([data[-1] ^ 1]),
    "short": lambda data, time: data[:-1],
    "long": lambda data, time: data + b"more",
    "nothing": lambda data, time: b"",
    "other bytes the second time": lambda data, time: data if time == 0 else bytes(len(data)),
    "short the second time": lambda data, time: data if time == 0 else data[: len(data) // 2],
}


@pytest.mark.fault("A1")
@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 9000),
    st.integers(0, 9000),
    st.integers(1, 3000),
    st.sampled_from(sorted(SPOILED)),
    st.sampled_from(WAYS),
    st.booleans(),
    st.integers(0, 1 << 30),
)
def test_a_pack_never_holds_a_byte_of_a_member_that_is_not_right(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    offset: int,
    piece: int,
    spoiled: str,
    way: str,
    is_there: bool,
    seed: int,
) -> None:
    """A long member that comes in pieces, right or spoiled: the pack holds its right bytes or what it held, after every piece."""
    cache = cache_at(tmp_path_factory.getbasetemp() / "property")
    data = random.Random(seed).randbytes(size)
    want, before = want_of(data, offset), (data if is_there else bytes(size))
    fd = packcache.open_pack(cache.dirs[0], want.pack, want.size)
    os.ftruncate(fd, 0)
    os.ftruncate(fd, want.size)
    os.pwrite(fd, before, offset)
    times = 0

    def at_rest() -> bytes:
        return os.pread(fd, size, offset)

    def pour(sink: Sink) -> bool:
        nonlocal times
        sent, times = SPOILED[spoiled](data, times), times + 1
        for at in range(0, len(sent), piece):
            now = at_rest()
            assert all(a in (b, c) for a, b, c in zip(now, before, data, strict=True))
            assert times == 2 or now == before
            sink(memoryview(sent)[at : at + piece])
        return True

    try:
        with gathered(way, cache):
            right = memberwrites.write_long(want, 0, pour, PackFile(fd, cache.dirs[0]))
        fits = spoiled == "right" or ("second time" in spoiled and way != "twice")
        assert right == (fits or data == SPOILED[spoiled](data, 1) == SPOILED[spoiled](data, 0))
        assert at_rest() == data or not right
        assert os.pread(fd, offset, 0) == bytes(offset) and os.pread(fd, 999, offset + size) == bytes(777)
    finally:
        os.close(fd)


@pytest.mark.fault("A1")
def test_one_module_writes_into_packs() -> None:
    """Others that write at a place in a file have files of their own: a probe of a disk, an image."""
    writers = re.compile(r"os\.(pwrite|pwritev|copy_file_range|sendfile)\(|mmap\(")
    root = Path(memberwrites.__file__).parents[1]
    found = {
        path.relative_to(root).as_posix() for path in root.rglob("*.py") if writers.search(path.read_text())
    }
    assert found == {
        "packs/memberwrites.py",
        "packs/staging.py",
        "packs/disks.py",
        "peers/peerserver.py",  # to a socket
        "views/image.py",
    }


@pytest.mark.fault("A1")
def test_an_object_without_a_hash_is_written_when_all_of_it_has_come(tmp_path: Path) -> None:
    cache, data = cache_at(tmp_path / "cache"), os.urandom(5000)
    want = want_of(b"names the object, not its bytes" * 200, 512, hashed=False)
    data = os.urandom(int(want.length[0]))
    fd = packcache.open_pack(cache.dirs[0], want.pack, want.size)
    seen = []

    def breaks(sink: Sink) -> bool:
        sink(memoryview(data)[:4000])
        seen.append(os.pread(fd, want.size, 0))
        return False

    for way in WAYS:
        with gathered(way, cache):
            assert not memberwrites.write_long(want, 0, breaks, PackFile(fd, cache.dirs[0]))
    assert set(seen) == {bytes(want.size)} == {os.pread(fd, want.size, 0)}
    os.close(fd)


@pytest.fixture
def store(make_folder_store: Callable[..., Store]) -> Store:
    return make_folder_store()


def published(store: Store, folder: Path) -> tuple[Dataset, PackWant]:
    """(a long member and short ones in a pack, the long one's place in it)"""
    files = make_files(5, 1000, 9000) | {LONG: os.urandom(REQUEST + 12345)}
    data = publish(store, folder, files, pack_bytes=1 << 30)
    raw = object_path(store, data.packs[0]).read_bytes()
    one = want_of(files[LONG], raw.index(files[LONG]))
    return data, PackWant(data.packs[0], len(raw), one.offset, one.length, one.content_id)


@contextmanager
def watched(path: Path, want: PackWant, right: bytes) -> Iterator[None]:
    """Read the member's bytes in the pack's file again and again: they are right at every moment."""
    wrong, done, start = list[int](), threading.Event(), int(want.offset[0])

    def look() -> None:
        with path.open("rb") as file:
            while not done.is_set():
                found = os.pread(file.fileno(), len(right), start)
                if found != right:
                    wrong.append(
                        next(at for at, (a, b) in enumerate(zip(found, right, strict=True)) if a != b)
                    )

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert wrong == []


@pytest.mark.fault("A1")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("source", ["store", "peer"])
def test_who_fetches_a_member_that_another_one_checked_leaves_it_right(
    store: Store, tmp_path: Path, way: str, source: str
) -> None:
    data, want = published(store, tmp_path)
    cache, right = cache_at(tmp_path / "cache"), data.files[LONG]
    assert fetch.fetch(store, [PackJob(want, cache.dirs[0])], 1) == []
    path = packcache.pack_path(cache.dirs[0], want.pack)
    wrong = bytes(byte ^ 0xFF for byte in right)
    bad = BadPeer("wrong", right)
    with closing(bad), watched(path, want, right), gathered(way, cache):
        sources = fetch.STORE_ALONE
        if source == "peer":
            sources = Sources(
                near=peers.for_warm(peers_of(other=bad.address), Held(version=""), lambda: False)
            )
            assert fetch.fetch(store, [PackJob(want, cache.dirs[0])], 1, sources=sources) == []
            assert bad.asked == 1
        else:
            object_path(store, want.pack).chmod(0o644)
            raw = object_path(store, want.pack).read_bytes()
            object_path(store, want.pack).write_bytes(raw.replace(right, wrong))
            assert len(fetch.fetch(store, [PackJob(want, cache.dirs[0])], 1)) == 1


@pytest.mark.fault("A1")
def test_a_staged_file_counts_and_goes_with_a_killed_process(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = StoreConfig(name="lake", idc="a", url=store.where)
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    node = make_node(tmp_path, config)
    directory = node.cache.dirs[0]
    before = packcache.used(directory)
    fd = staging.open_staged(directory, 3 << 20)
    assert fd is not None
    assert packcache.used(directory) >= before + (3 << 20)
    killed = (
        "import os, sys\nfrom tests.cacheengine.nodes import cache_at\nfrom cacheengine.packs import staging\n"
        "from pathlib import Path\nassert staging.open_staged(cache_at(Path(sys.argv[1])).dirs[0], 1 << 20)\nos._exit(9)"
    )
    for clean in (lambda: room.tidy(node), lambda: upkeep.look_at_disks(node)):
        subprocess.run([sys.executable, "-c", killed, str(directory.path)], check=False)
        assert len(list(staging.folder(directory).iterdir())) == 2
        clean()
        assert len(list(staging.folder(directory).iterdir())) == 1  # ours, which is in use
    staging.close_staged(fd)
    assert not list(staging.folder(directory).iterdir())
    end(node)


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[Proxy]:
    made = Proxy(seaweed.endpoint)
    yield made
    made.close()


@pytest.fixture
def node(
    store_config: Callable[..., StoreConfig], proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Node, StoreConfig]]:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    config = store_config("lake", "a")
    spoiled = config.model_copy(update={"endpoint": proxy.endpoint, "read_only": True})
    made = make_node(tmp_path, spoiled, fetchfs_processes=1)
    yield made, config
    proxy.later.set()
    end(made)


@pytest.mark.fault("A1")
def test_a_warm_that_gets_wrong_bytes_late_spoils_nothing_that_a_reader_has_got(
    node: tuple[Node, StoreConfig], proxy: Proxy, tmp_path: Path
) -> None:
    made, config = node
    store = open_store(config)
    files = {LONG: os.urandom(2 * REQUEST + 4321)} | make_files(3, 1000, 9000)
    data = publish(store, tmp_path, files, pack_bytes=1 << 30)
    view = mount(made, data)
    proxy.fault = "wrong later"
    states: list[str] = []
    warming = threading.Thread(target=lambda: states.append(warm(made, data)))
    warming.start()
    wait_until(lambda: proxy.held, "the warm's requests")
    proxy.fault = "none"
    assert read_cold(view / LONG) == files[LONG]  # through fetchfs: another process
    path, offset = member(made, data, LONG)
    [pack] = data.packs
    raw = get(store, pack_key(pack))
    want = want_of(files[LONG], raw.index(files[LONG]))
    want = PackWant(pack, len(raw), want.offset, want.length, want.content_id)
    wait_until(lambda: packcache.resident(made.cache, want).all(), "its mark")
    with watched(path, want, files[LONG]):
        proxy.fault = "503"
        proxy.later.set()
        warming.join()
        proxy.fault = "none"
        assert again(made) == "resident"
    assert offset == want.offset[0]
    for name, content in files.items():
        assert read_cold(view / name) == content
