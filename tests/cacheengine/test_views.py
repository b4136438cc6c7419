"""Views: one suite over every kind that this machine can have. What is mounted is compared with the rows, entry by entry."""

from __future__ import annotations

import errno
import json
import mmap
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cacheengine.content_times import EARLIEST_S, SPAN_S, content_times
from cacheengine.errors import Busy, MountFailed
from cacheengine.views import backends, mountapi, views
from cacheengine.views.image import MTIME_NS, PLAIN, Attributes
from cacheengine.views.views import Backend, View, ViewPlan
from lake.errors import Corrupt, Refused
from lake.packs import write_pack

BACKENDS: tuple[Backend, ...] = ("kernel", "loop", "fuse")
PART = st.text("ab-.0é", min_size=1, max_size=5).filter(lambda part: part not in (".", ".."))
PATH = st.lists(PART, min_size=1, max_size=4).map("/".join)
CONTENT = st.binary(max_size=20) | st.integers(0, 20_000).map(
    lambda size: bytes(size % 251 for _ in range(size))
)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each kind; that all three work here is what the first test says."""
    kind: Backend = request.param
    return kind


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder below which everything is unmounted at the end, whatever the test did."""
    yield tmp_path
    for mount in mountapi.mounts_below(tmp_path):
        mountapi.unmount(mount.target, lazy=True)


def make_plan(place: Path, files: dict[str, bytes], target: str = "view", split: int = 3) -> ViewPlan:
    """Packs of these files, dealt out over `split` packs, their rows, and a plan to mount them."""
    (place / "packs").mkdir(exist_ok=True)
    tables, packs = [], []
    for number in range(split):
        names = sorted(files, key=str.encode)[number::split]
        path = place / "packs" / "new"
        pack = write_pack(path, [(name, files[name]) for name in names])
        path.rename(place / "packs" / f"{pack.id}.tar")
        if pack.id not in packs:
            packs.append(pack.id)
        tables.append(
            pa.table(
                {
                    "path": pack.members["name"],
                    "content_id": pack.members["content_id"],
                    "size": pack.members["size"],
                    "pack": pa.array([pack.id] * len(names), pa.string()),
                    "offset": pack.members["offset"],
                    "mtime_s": content_times(pack.members["content_id"]),
                }
            )
        )
    table = pa.concat_tables(tables)
    table = table.take(pc.sort_indices(table["path"].combine_chunks()))
    rows = place / f"{target}.parquet"
    pq.write_table(table, rows, row_group_size=7)
    return ViewPlan(
        dataset="d",
        tag="v1",
        version="e" * 64,
        target=place / target,
        rows=rows,
        packs=tuple(packs),
        devices=tuple(place / "packs" / f"{pack}.tar" for pack in packs),
        state=place / "state",
    )


def time_of(data: bytes) -> int:
    """The time that a view shows of a file with this content, in seconds."""
    return EARLIEST_S + int(blake3(data).hexdigest()[:8], 16) % SPAN_S


def seen(target: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path; checks modes and times, and that each folder lists each name once."""
    found = {}
    for folder, folders, files in os.walk(target, onerror=_raise):
        assert len({*folders, *files}) == len(folders) + len(files)
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o555
        assert Path(folder).stat().st_mtime_ns == MTIME_NS
        assert Path(folder).stat().st_nlink == 2 + len(folders)
        for name in files:
            path = Path(folder) / name
            status = path.lstat()
            assert stat.S_ISREG(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o444
            data = path.read_bytes()
            assert status.st_mtime_ns == status.st_ctime_ns == time_of(data) * 10**9
            assert status.st_blocks == -(-status.st_size // 4096) * 8
            assert len(data) == status.st_size
            found[str(path.relative_to(target))] = data
    return found


def _raise(error: OSError) -> None:
    raise error


def without_clashes(files: dict[str, bytes]) -> dict[str, bytes]:
    folders = {path[:at] for path in files for at, char in enumerate(path) if char == "/"}
    return {path: data for path, data in files.items() if path not in folders}


FILES = {
    "a-b/x": b"x" * 5000,
    "a/b/c": b"hello",
    "a/b/d": bytes(range(256)) * 1024,
    "a/z": b"",
    "b/é ü\n": b"n" * 4096,
    "top": b"t" * 4097,
}


def test_this_machine_has_every_kind_of_view_and_auto_takes_the_kernel(tmp_path: Path) -> None:
    for kind in BACKENDS:
        chosen, why = backends.choose_backend(kind, tmp_path)
        assert chosen == kind
        assert why.startswith("asked for")
    chosen, why = backends.choose_backend("auto", tmp_path)
    assert chosen == "kernel"
    assert "Linux" in why
    assert list(tmp_path.iterdir()) == []


def test_what_was_found_is_said_and_what_is_asked_but_impossible_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused, match="nfs"):
        backends.choose_backend("nfs", tmp_path)
    with pytest.raises(MountFailed, match="up to 250"):
        backends.choose_backend("loop", tmp_path, packs=1000)
    monkeypatch.setattr("platform.release", lambda: "6.1.0-18-amd64")
    assert backends.choose_backend("auto", tmp_path)[0] == "loop"
    assert "6.1.0-18-amd64 is older than 6.12" in backends.choose_backend("auto", tmp_path)[1]
    assert backends.choose_backend("auto", tmp_path, packs=1000)[0] == "fuse"
    with pytest.raises(MountFailed, match=r"older than 6\.12"):
        backends.choose_backend("kernel", tmp_path)
    monkeypatch.setattr("platform.release", lambda: "5.4.0")
    chosen, why = backends.choose_backend("auto", tmp_path)
    assert chosen == "fuse"
    assert "not kernel" in why and "not loop" in why


def test_without_rights_the_choice_is_fuse_and_says_so(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from cacheengine.views.backends import choose_backend;"
        "print(*choose_backend('auto', Path(sys.argv[1])))"
    )
    command = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", script]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True)
    assert done.stdout.startswith("fuse "), done.stderr
    assert "no CAP_SYS_ADMIN" in done.stdout


def test_a_view_is_its_rows(place: Path, backend: Backend) -> None:
    plan = make_plan(place, FILES)
    view = views.mount_view(backend, plan, "because")
    assert (view.backend, view.why, view.packs_local) == (backend, "because", len(plan.packs))
    assert seen(plan.target) == FILES
    assert sorted(path.name for path in (plan.target / "a/b").iterdir()) == ["c", "d"]
    assert views.unmount_view(plan.target, plan.state)
    assert not mountapi.is_mounted(plan.target)
    assert list(plan.state.iterdir()) == []
    assert not views.unmount_view(plan.target, plan.state)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(files=st.dictionaries(PATH, CONTENT, max_size=40).map(without_clashes), split=st.integers(1, 4))
def test_any_rows_are_seen_as_they_are(place: Path, files: dict[str, bytes], split: int) -> None:
    for kind in ("kernel", "fuse"):
        folder = place / "example"
        folder.mkdir()
        plan = make_plan(folder, files, split=split)
        try:
            views.mount_view(kind, plan)
            assert seen(plan.target) == files
        finally:
            views.unmount_view(plan.target, plan.state, lazy=True)
            shutil.rmtree(folder)


def test_an_empty_dataset_is_an_empty_folder(place: Path, backend: Backend) -> None:
    plan = replace(make_plan(place, {}, split=1), packs=(), devices=())
    views.mount_view(backend, plan)
    assert seen(plan.target) == {}
    views.unmount_view(plan.target, plan.state)


def test_every_write_is_refused_as_on_a_read_only_disk(place: Path, backend: Backend) -> None:
    plan = make_plan(place, FILES)
    views.mount_view(backend, plan)
    target = plan.target
    attempts: list[Callable[[], object]] = [
        lambda: (target / "new").write_bytes(b"x"),
        lambda: (target / "top").write_bytes(b"x"),
        lambda: os.open(target / "top", os.O_RDWR),
        lambda: os.truncate(target / "top", 0),
        lambda: (target / "top").unlink(),
        lambda: (target / "top").rename(target / "other"),
        lambda: (target / "folder").mkdir(),
        lambda: (target / "a/b").rmdir(),
        lambda: (target / "top").chmod(0o644),
        lambda: os.chown(target / "top", 1, 1),
        lambda: os.utime(target / "top"),
        lambda: (target / "link").symlink_to("top"),
        lambda: (target / "hard").hardlink_to(target / "top"),
        lambda: os.setxattr(target / "top", "user.a", b"1"),
    ]
    for number, attempt in enumerate(attempts):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS, f"attempt {number}: {caught.value}"
    assert seen(target) == FILES


def test_owner_and_mode_are_those_of_the_mount(place: Path, backend: Backend) -> None:
    plan = make_plan(place, FILES)
    plan = replace(plan, attributes=Attributes(uid=70_000, gid=1234, mode=0o640))
    view = views.mount_view(backend, plan)
    assert views.list_views(plan.state)[0].attributes == view.attributes == plan.attributes
    for folder, _, files in os.walk(plan.target):
        status = Path(folder).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (70_000, 1234, 0o750)
        for name in files:
            status = (Path(folder) / name).stat()
            assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (70_000, 1234, 0o640)
    for uid, said in ((70_000, b""), (70_001, b"Permission denied")):  # the way to the folder is root's alone
        command = ["setpriv", f"--reuid={uid}", "--regid=1", "--clear-groups", "cat", "top"]
        done = subprocess.run(command, capture_output=True, cwd=plan.target)
        assert done.stdout == (b"" if said else FILES["top"])
        assert said in done.stderr
    again = views.mount_view(backend, replace(plan, attributes=PLAIN))
    assert again.attributes == PLAIN
    assert seen(plan.target) == FILES


def test_every_way_of_reading_gives_the_same_bytes(place: Path, backend: Backend) -> None:
    data = os.urandom(300_001)
    plan = make_plan(place, {**FILES, "big": data})
    views.mount_view(backend, plan)
    descriptor = os.open(plan.target / "big", os.O_RDONLY)
    try:
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == data
        out = os.memfd_create("out")
        sent = 0
        while sent < len(data):
            sent += os.sendfile(out, descriptor, sent, len(data) - sent)
        assert os.pread(out, len(data) + 1, 0) == data
        os.close(out)
        parts = [bytearray(1000), bytearray(5), bytearray(200_000)]
        assert os.readv(descriptor, parts) == 201_005
        assert b"".join(parts) == data[:201_005]
        assert os.preadv(descriptor, parts[:2], 299_999) == 2
        assert os.lseek(descriptor, 0, os.SEEK_DATA) == 0
        assert os.lseek(descriptor, 5000, os.SEEK_HOLE) == len(data)
        with pytest.raises(OSError) as caught:
            os.lseek(descriptor, len(data), os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO
        assert os.pread(descriptor, 10, len(data)) == b""
    finally:
        os.close(descriptor)
    if (
        backend == "kernel"
    ):  # Linux has no O_DIRECT on EROFS over files: said at once, as on a tmpfs before 6.6
        with pytest.raises(OSError) as caught:
            _direct(plan.target / "big")
        assert caught.value.errno == errno.EINVAL
    else:
        assert _direct(plan.target / "big") == data
        assert _direct(plan.target / "top") == FILES["top"]


def _direct(path: Path) -> bytes:
    """The file by O_DIRECT reads into page-aligned memory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    found = b""
    try:
        with mmap.mmap(-1, 1 << 17) as buffer:
            while got := os.preadv(descriptor, [buffer], len(found)):
                found += buffer[:got]
                if len(found) % 4096:
                    break  # the end of the file; the next offset would not be aligned
        return found
    finally:
        os.close(descriptor)


def test_inodes_are_one_for_each_name_and_stay(place: Path, backend: Backend) -> None:
    plan = make_plan(place, FILES)

    def inodes() -> dict[str, int]:
        return {str(p.relative_to(plan.target)): p.lstat().st_ino for p in plan.target.rglob("*")}

    views.mount_view(backend, plan)
    before = inodes()
    assert len(set(before.values())) == len(before) == 10
    listed = {entry.name: entry.inode() for entry in os.scandir(plan.target)}
    assert listed == {name: before[name] for name in listed}
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert inodes() == before
    views.unmount_view(plan.target, plan.state)
    views.mount_view(backend, plan)
    assert inodes() == before


def test_a_thousand_readers_at_once(place: Path, backend: Backend) -> None:
    files = {f"f{number:02}": os.urandom(20_000 + number) for number in range(50)}
    plan = make_plan(place, files)
    views.mount_view(backend, plan)
    script = (
        "import os, sys, threading; from pathlib import Path; folder = Path(sys.argv[1]); right = []\n"
        "names = sorted(os.listdir(folder)); everyone = threading.Barrier(1000)\n"
        "whole = {name: (folder / name).read_bytes() for name in names}\n"
        "def read(n):\n"
        " file = os.open(folder / names[n % 50], os.O_RDONLY); everyone.wait()\n"
        " os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)\n"
        " right.append(os.pread(file, 1 << 20, 0) == whole[names[n % 50]]); os.close(file)\n"
        "all_of_them = [threading.Thread(target=read, args=(n,)) for n in range(1000)]\n"
        "[t.start() for t in all_of_them]; [t.join() for t in all_of_them]\n"
        "print(len(right), all(right))"
    )
    limited = f'ulimit -n 4096; exec {sys.executable} -c "$0" "$1"'
    done = subprocess.run(["bash", "-c", limited, script, plan.target], capture_output=True, text=True)
    assert done.stdout == "1000 True\n", done.stderr


def test_what_is_not_there_is_not_there(place: Path, backend: Backend) -> None:
    plan = make_plan(place, FILES)
    views.mount_view(backend, plan)
    for path in ("nope", "a/nope", "a/b/nope", "a-", "a/b/c0", "to"):
        with pytest.raises(FileNotFoundError):
            (plan.target / path).read_bytes()
    with pytest.raises(NotADirectoryError):
        (plan.target / "top/x").read_bytes()
    assert os.statvfs(plan.target).f_namemax == 255
    assert os.statvfs(plan.target).f_bavail == 0


@pytest.mark.fault("A8")
def test_rsync_sees_a_change_that_keeps_the_size(place: Path, backend: Backend) -> None:
    files = {**FILES, "label": b"class: car"}
    copy = place / "copy"
    for changed in (files, {**files, "label": b"class: bus"}):
        plan = make_plan(place, changed)
        views.mount_view(backend, plan)
        subprocess.run(["rsync", "-a", f"{plan.target}/", copy], check=True)
    assert (copy / "label").read_bytes() == b"class: bus"
    again = ["rsync", "-a", "--itemize-changes", f"{plan.target}/", copy]
    assert subprocess.run(again, check=True, capture_output=True).stdout == b""


@pytest.mark.fault("A8")
def test_a_kernel_that_ignores_times_of_compact_inodes_gets_extended_ones(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact = make_plan(place, FILES)
    views.mount_view("kernel", compact)
    monkeypatch.setattr(backends, "shows_compact_times", lambda *_: False)
    extended = make_plan(place, FILES, "extended")
    views.mount_view("kernel", extended)
    assert seen(compact.target) == seen(extended.target) == FILES
    sizes = sorted(path.stat().st_size for path in extended.state.glob("*.erofs"))
    assert len(sizes) == 2 and sizes[0] <= sizes[1]


@pytest.mark.fault("A8")
def test_times_of_compact_inodes_are_tried_and_not_guessed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("kernel", "loop"):
        backends.shows_compact_times.cache_clear()
        assert backends.shows_compact_times(kind, place)
    backends.shows_compact_times.cache_clear()
    # what a kernel before 6.15 shows: the time of the superblock
    probe = mountapi.probe_erofs
    old = os.stat_result((*probe_result(place)[:8], EARLIEST_S, EARLIEST_S))
    monkeypatch.setattr(mountapi, "probe_erofs", lambda image, name: probe(image, name) and old)
    assert not backends.shows_compact_times("kernel", place)
    backends.shows_compact_times.cache_clear()


def probe_result(place: Path) -> os.stat_result:
    return place.stat()


@pytest.mark.fault("A10")
def test_names_that_are_too_long_and_extended_attributes_are_those_of_the_kernel(
    place: Path, backend: Backend
) -> None:
    plan = make_plan(place, FILES)
    views.mount_view(backend, plan)
    for name in ("n" * 256, "a/" + "n" * 256, "n" * 300 + "/x"):
        with pytest.raises(OSError) as caught:
            (plan.target / name).stat()
        assert caught.value.errno == errno.ENAMETOOLONG
    with pytest.raises(FileNotFoundError):
        (plan.target / ("n" * 255)).stat()
    for path in (plan.target, plan.target / "top", plan.target / "a"):
        assert os.listxattr(path) == []
        with pytest.raises(OSError) as caught:
            os.getxattr(path, "user.none")
        assert caught.value.errno in (errno.ENOTSUP, errno.ENODATA)


def test_paths_as_deep_and_as_long_as_they_may_be(place: Path, backend: Backend) -> None:
    files = {"d/" * 1999 + "f": b"deep", "/".join(["é" * 127] * 15) + "/g": b"long", "top": b"top"}
    assert sorted(len(path.encode()) for path in files) == [3, 3826, 3999]
    plan = make_plan(place, files)
    views.mount_view(backend, plan)
    folder = os.open(
        plan.target, os.O_RDONLY
    )  # with the target before them they would be too long to be opened
    try:
        for path, data in files.items():
            with open(path, "rb", opener=lambda name, flags: os.open(name, flags, dir_fd=folder)) as file:
                assert file.read() == data
            above, _, name = path.rpartition("/")
            listed = os.open(above or ".", os.O_RDONLY, dir_fd=folder)
            assert name in os.listdir(listed)  # noqa: PTH208 (of a descriptor)
            os.close(listed)
    finally:
        os.close(folder)


def test_large_folders_and_random_reads(place: Path, backend: Backend) -> None:
    files = {f"many/{number:05}.jpg": b"%d" % number for number in range(3000)}
    files["large"] = os.urandom(3_000_001)
    plan = make_plan(place, files)
    views.mount_view(backend, plan)
    assert {f"many/{path.name}" for path in (plan.target / "many").iterdir()} == files.keys() - {"large"}

    def read(number: int) -> bool:
        with (plan.target / "large").open("rb", buffering=0) as file:
            start = number * 60_013 % len(files["large"])
            file.seek(start)
            return file.read(10_000) == files["large"][start : start + 10_000]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))
        assert all(
            pool.map(
                lambda n: (plan.target / f"many/{n:05}.jpg").read_bytes() == b"%d" % n, range(0, 3000, 7)
            )
        )


def test_a_file_over_4_gib_is_whole(place: Path, backend: Backend) -> None:
    size = (5 << 30) + 17
    pack = place / "large.tar"
    with pack.open("wb") as file:
        file.truncate(size + 4096 - size % 4096)
        os.pwrite(file.fileno(), b"behind 4 GiB", (4 << 30) + 1000)
        os.pwrite(file.fileno(), b"the end", size - 7)
    table = pa.table(
        {"path": ["large", "small"], "size": [size, 7], "pack": ["f" * 64] * 2, "offset": [0, 0]}
    )
    pq.write_table(table, place / "rows.parquet")
    plan = replace(make_plan(place, {}), rows=place / "rows.parquet", packs=("f" * 64,), devices=(pack,))
    views.mount_view(backend, plan)
    assert [(plan.target / name).stat().st_size for name in ("large", "small")] == [size, 7]
    with (plan.target / "large").open("rb") as file:
        assert os.pread(file.fileno(), 12, (4 << 30) + 1000) == b"behind 4 GiB"
        assert os.pread(file.fileno(), 100, size - 7) == b"the end"
        assert os.pread(file.fileno(), 7, 0) == bytes(7)


def test_a_view_is_replaced_in_place_and_open_files_stay(place: Path, backend: Backend) -> None:
    plan = make_plan(place, FILES)
    views.mount_view(backend, plan)
    with (plan.target / "a/b/d").open("rb") as held:
        newer = {**FILES, "more": b"more"}
        views.mount_view(backend, make_plan(place, newer))
        assert seen(plan.target) == newer
        assert held.read() == FILES["a/b/d"]
    assert len(mountapi.mounts_below(plan.target)) == 1
    assert len(views.list_views(plan.state)) == 1


@pytest.mark.parametrize(("first", "second"), [("kernel", "fuse"), ("fuse", "kernel"), ("loop", "kernel")])
def test_the_kind_of_a_view_can_change(place: Path, first: Backend, second: Backend) -> None:
    plan = make_plan(place, FILES)
    views.mount_view(first, plan)
    views.mount_view(second, plan)
    assert seen(plan.target) == FILES
    assert [view.backend for view in views.list_views(plan.state)] == [second]
    assert len(mountapi.mounts_below(plan.target)) == 1


def test_views_are_found_again_by_another_process(place: Path, backend: Backend) -> None:
    plan = make_plan(place, FILES)
    script = (
        "import pickle, sys; from cacheengine.views.views import mount_view;"
        "backend, plan = pickle.load(sys.stdin.buffer); mount_view(backend, plan)"
    )
    subprocess.run([sys.executable, "-c", script], input=pickle.dumps((backend, plan)), check=True)
    (view,) = views.list_views(plan.state)
    assert isinstance(view, View)
    assert (view.dataset, view.tag, view.target, view.backend, view.mounted) == (
        "d",
        "v1",
        plan.target,
        backend,
        True,
    )
    assert (view.packs, view.devices, view.rows) == (plan.packs, plan.devices, plan.rows)
    assert seen(plan.target) == FILES
    mountapi.unmount(plan.target)  # behind our back, or a restart of the machine
    (view,) = views.list_views(plan.state)
    assert not view.mounted
    views.mount_view(backend, plan)
    assert seen(plan.target) == FILES


def test_a_view_in_use_is_busy_unless_taken_down_lazily(place: Path, backend: Backend) -> None:
    plan = make_plan(place, FILES)
    views.mount_view(backend, plan)
    with (plan.target / "a/b/d").open("rb") as held:
        with pytest.raises(Busy, match="open"):
            views.unmount_view(plan.target, plan.state)
        assert seen(plan.target) == FILES
        assert [view.target for view in views.list_views(plan.state)] == [plan.target]
        assert views.unmount_view(plan.target, plan.state, lazy=True)
        assert held.read() == FILES["a/b/d"]
    assert not mountapi.is_mounted(plan.target)
    assert views.list_views(plan.state) == []


def test_a_view_never_hides_what_others_put_there(place: Path, backend: Backend) -> None:
    plan = make_plan(place, FILES)
    plan.target.mkdir()
    (plan.target / "mine").write_bytes(b"x")
    with pytest.raises(Refused, match="files in it"):
        views.mount_view(backend, plan)
    (plan.target / "mine").unlink()
    subprocess.run(["mount", "-t", "tmpfs", "none", plan.target], check=True)
    with pytest.raises(Busy, match="tmpfs"):
        views.mount_view(backend, plan)
    with pytest.raises(Busy, match="not by us"):
        views.unmount_view(plan.target, plan.state)
    assert views.list_views(plan.state) == []


def test_a_mount_that_fails_leaves_nothing_and_the_old_view_stays(place: Path, backend: Backend) -> None:
    plan = make_plan(place, FILES)
    missing = replace(plan, devices=(*plan.devices[:-1], place / "gone.tar"))
    with pytest.raises(MountFailed):
        views.mount_view(backend, missing)
    assert list(plan.state.iterdir()) == []
    assert mountapi.mounts_below(place) == []
    views.mount_view(backend, plan)
    with pytest.raises(MountFailed):
        views.mount_view(backend, missing)
    assert seen(plan.target) == FILES
    (view,) = views.list_views(plan.state)
    assert view.devices == plan.devices
    other = make_plan(
        place, {"other": b"o"}, split=1
    )  # other rows at the same place, and a device that is gone
    with pytest.raises(MountFailed):
        views.mount_view(backend, replace(other, devices=(place / "gone.tar",)))
    assert seen(plan.target) == FILES
    views.mount_view(backend, other)
    assert seen(plan.target) == {"other": b"o"}
    assert len(list(plan.state.glob("*.erofs"))) == (backend != "fuse")


def test_a_pack_that_is_cut_short_is_no_device(place: Path, backend: Backend) -> None:
    plan = make_plan(place, FILES)
    os.truncate(plan.devices[0], 4096)
    with pytest.raises(MountFailed, match="shorter"):
        views.mount_view(backend, plan)


def test_rows_that_name_an_unknown_pack_are_refused(place: Path, backend: Backend) -> None:
    plan = make_plan(place, FILES)
    fewer = replace(plan, packs=plan.packs[:-1], devices=plan.devices[:-1])
    with pytest.raises((Corrupt, MountFailed), match=r"not named|no pack that was named"):
        views.mount_view(backend, fewer)
    with pytest.raises(Refused):
        views.mount_view(backend, replace(plan, devices=plan.devices[:-1]))


def test_resident_files_need_no_process_of_ours(place: Path) -> None:
    plan = make_plan(place, FILES)
    before = {path.name for path in Path("/proc").iterdir() if path.name.isdigit()}
    views.mount_view("kernel", plan)
    mine = [path for path in Path("/proc").iterdir() if path.name.isdigit() and path.name not in before]
    assert not [path for path in mine if b"cacheengine" in _command(path)]


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_a_killed_tree_gives_errors_and_is_mounted_anew(place: Path) -> None:
    plan = make_plan(place, FILES)
    view = views.mount_view("fuse", plan)
    assert view.pid is not None
    os.kill(view.pid, signal.SIGKILL)
    with pytest.raises(OSError) as caught:
        while True:
            (plan.target / "top").stat()
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    assert views.list_views(plan.state)[0].mounted  # it is, and it is dead; asking never touches it
    views.mount_view("fuse", plan)
    assert seen(plan.target) == FILES


def test_the_tree_counts_what_it_sends_and_says_what_failed(place: Path) -> None:
    plan = make_plan(place, FILES)
    remote = place / "remote"
    remote.mkdir()
    with (place / "state-of-remote").open("w"):
        far = plan.devices[0].rename(remote / plan.devices[0].name)
    plan = replace(plan, devices=(far, *plan.devices[1:]), fetchfs=remote)
    views.mount_view("fuse", plan)
    assert views.list_views(plan.state)[0].packs_local == len(plan.packs) - 1
    assert seen(plan.target) == FILES
    (plan.target / "a-b/x").read_bytes()
    far.unlink()
    bad = [path for path in FILES if FILES[path] and not _readable(plan.target / path)]
    assert bad
    (counters,) = plan.state.glob("*.counters")
    (logfile,) = plan.state.glob("*.log")
    while not (found := json.loads(counters.read_text()))["errors"]:
        pass
    assert far.name in found["last_error"]
    assert '"level": "error"' in logfile.read_text()


def _readable(path: Path) -> bool:
    """Whether it can be read anew, without the kept pages."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return bool(os.read(descriptor, 100))
    except OSError as error:
        assert error.errno == errno.EIO
        return False
    finally:
        os.close(descriptor)


def test_paths_too_long_for_the_kernels_strings_still_mount(place: Path) -> None:
    deep = place / ("n" * 200) / ("m" * 100)
    deep.mkdir(parents=True)
    plan = make_plan(deep, FILES)
    views.mount_view("kernel", plan)
    assert seen(plan.target) == FILES


def test_mountinfo_is_read_with_its_escapes(place: Path) -> None:
    plan = replace(make_plan(place, FILES), target=place / "with space\tand\\more")
    views.mount_view("kernel", plan)
    mount = mountapi.mount_at(plan.target)
    assert mount is not None
    assert (mount.kind, mount.target) == ("erofs", plan.target)
    (place / "link").symlink_to(place)
    assert mountapi.is_mounted(place / "link" / plan.target.name)
    assert views.unmount_view(plan.target, plan.state)
