"""The metadata image: what fsck says, that the same rows give the same bytes, and that hostile rows are refused."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import image as images
from cacheengine.views import mountapi
from cacheengine.views.image import ImageInfo, build_image, device_sizes
from lake.errors import Corrupt, Refused

PACKS = ["a" * 64, "b" * 64]
PART = st.text("abz-.0é", min_size=1, max_size=6).filter(lambda part: part not in (".", ".."))
PATH = st.lists(PART, min_size=1, max_size=4).map("/".join)


def rows(paths: list[str], size: int = 5, pack: str = PACKS[0]) -> pa.Table:
    """A table of these paths, sorted, each at a block of its own."""
    ordered = sorted(paths, key=str.encode)
    return pa.table(
        {
            "path": ordered,
            "size": pa.array([size] * len(ordered), pa.int64()),
            "pack": pa.array([pack] * len(ordered), pa.string()),
            "offset": pa.array([4096 * place for place in range(len(ordered))], pa.int64()),
        }
    )


def fsck(image: Path, packs: int) -> str:
    """What fsck.erofs says; it has to be content."""
    devices = [f"--device={image}" for _ in range(packs)]
    done = subprocess.run(["fsck.erofs", *devices, image], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_clashes(paths: set[str]) -> list[str]:
    """Leave out paths that are a directory of another."""
    folders = {path[:at] for path in paths for at, char in enumerate(path) if char == "/"}
    return sorted(paths - folders)


@settings(max_examples=40, deadline=None)
@given(paths=st.sets(PATH, max_size=200).map(without_clashes), cut=st.integers(1, 50))
def test_any_legal_rows_make_an_image_that_fsck_accepts_and_batches_do_not_show(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("image")
    table = rows(paths)
    whole, cut_up = folder / "whole", folder / "cut"
    info = build_image(whole, [table], PACKS)
    build_image(cut_up, (table.slice(start, cut) for start in range(0, max(1, table.num_rows), cut)), PACKS)
    folders = {path[:at] for path in paths for at, char in enumerate(path) if char == "/"}
    assert info == ImageInfo(len(paths), 5 * len(paths), len(paths) + len(folders) + 1)
    assert whole.read_bytes() == cut_up.read_bytes()
    fsck(whole, len(PACKS))
    shutil.rmtree(folder)


def test_no_rows_and_no_packs_are_an_empty_tree(tmp_path: Path) -> None:
    assert build_image(tmp_path / "i", [], []) == ImageInfo(0, 0, 1)
    fsck(tmp_path / "i", 0)


def test_a_directory_of_many_blocks(tmp_path: Path) -> None:
    paths = [f"d/{number:05}-{'n' * (number % 240)}" for number in range(3000)]
    build_image(tmp_path / "i", [rows(paths)], PACKS)
    fsck(tmp_path / "i", 2)


def test_files_over_4_gib_and_large_owners_fit(tmp_path: Path) -> None:
    large = rows(["large"], size=(5 << 30) + 1)
    info = build_image(tmp_path / "i", [rows(["a", "b"]), large], PACKS, uid=70_000, gid=70_001)
    assert (info.files, info.bytes) == (3, (5 << 30) + 11)
    fsck(tmp_path / "i", 2)
    done = subprocess.run(
        ["dump.erofs", *[f"--device={tmp_path / 'i'}"] * 2, "--path=/large", tmp_path / "i"],
        capture_output=True,
        text=True,
    )
    assert str((5 << 30) + 1) in done.stdout
    assert "Uid: 70000" in done.stdout
    assert "Gid: 70001" in done.stdout


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/..",
        "../a",
        "a/./b",
        "a\0b",
        "n" * 256,
        "a/" + "é" * 128,
        "d/" * 2100 + "f",
    ],
)
def test_hostile_paths_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(Refused):
        build_image(tmp_path / "i", [rows([path])], PACKS)
    assert list(tmp_path.iterdir()) == []


def cut(text: str) -> str:
    """As much of it as 255 bytes of UTF-8 hold."""
    return text.encode()[:255].decode(errors="ignore")


LONG = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=3
).map(lambda text: cut(text * 255))


@settings(max_examples=25, deadline=None)
@given(paths=st.sets(st.lists(LONG, min_size=1, max_size=12).map("/".join), max_size=30))
def test_names_of_255_bytes_in_any_script_are_seen_by_the_kernel(
    tmp_path_factory: pytest.TempPathFactory, paths: set[str]
) -> None:
    named = [path for path in paths if not {".", ".."} & set(path.split("/")) and len(path.encode()) < 4096]
    table = rows(without_clashes(set(named)), size=0)
    folder = tmp_path_factory.mktemp("long")
    (folder / "pack").touch()
    build_image(folder / "i", [table], PACKS)
    fsck(folder / "i", 2)
    with mounted(folder / "i", [folder / "pack"] * 2, folder / "view") as view:
        found = {str(Path(at).relative_to(view) / name) for at, _, files in os.walk(view) for name in files}
    assert found == set(table["path"].to_pylist())
    shutil.rmtree(folder)


@contextmanager
def mounted(image: Path, devices: list[Path], target: Path) -> Iterator[Path]:
    target.mkdir()
    mountapi.mount_erofs(image, devices, target)
    try:
        yield target
    finally:
        mountapi.unmount(target)


def test_ten_thousand_packs_mount_and_each_gives_its_bytes(tmp_path: Path) -> None:
    packs = [f"{number:064x}" for number in range(10_000)]
    table = pa.table(
        {
            "path": [f"{number % 100:02d}/{number:05d}" for number in range(10_000)],
            "size": [5] * 10_000,
            "pack": packs,
            "offset": [4096 * (number % 3) for number in range(10_000)],
        }
    ).sort_by("path")
    build_image(tmp_path / "i", [table], packs)
    images.check(tmp_path / "i", len(packs))
    (tmp_path / "packs").mkdir()
    devices = [tmp_path / "packs" / f"{pack}.tar" for pack in packs]
    for number, (device, size) in enumerate(zip(devices, device_sizes(tmp_path / "i"), strict=True)):
        device.write_bytes(bytes(size - 4096) + (b"%05d" % number).ljust(4096, b"\0"))
    with mounted(tmp_path / "i", devices, tmp_path / "view") as view:
        for number in (0, 1, 255, 256, 4095, 9999, *range(7, 10_000, 501)):
            assert (view / f"{number % 100:02d}/{number:05d}").read_bytes() == b"%05d" % number


@pytest.mark.slow
def test_a_folder_of_a_million_names(tmp_path: Path) -> None:
    names = [f"{number:07d}-{'é' * (number % 60)}" for number in range(1_000_000)]
    build_image(tmp_path / "i", [rows([f"one/{name}" for name in names], size=0)], PACKS)
    fsck(tmp_path / "i", 2)
    (tmp_path / "pack").touch()
    with mounted(tmp_path / "i", [tmp_path / "pack"] * 2, tmp_path / "view") as view:
        assert os.listdir(view / "one") == names  # noqa: PTH208 (a million Path objects)
        assert all((view / "one" / name).is_file() for name in names[::9973])


@pytest.mark.slow
def test_ten_million_rows_fit_a_gibibyte(tmp_path: Path) -> None:
    count, packs, image = 10_000_000, 1000, tmp_path / "i"
    command = [
        sys.executable,
        "-m",
        "benchmarks.image",
        "folders",
        str(count),
        str(packs),
        "compact",
        str(image),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["peak_mib"] <= 1024, done.stdout
    images.check(image, packs)
    (tmp_path / "packs").mkdir()
    devices = [tmp_path / "packs" / pack for pack in images.packs_of(packs)]
    for device, size in zip(devices, device_sizes(image), strict=True):
        device.touch()
        os.truncate(device, size)
    found = 0
    with mounted(image, devices, tmp_path / "view") as view:
        for table in itertools.islice(images.tables("folders", count, packs), 0, None, 10):
            for path, size in zip(
                table["path"].to_pylist()[::997], table["size"].to_pylist()[::997], strict=True
            ):
                assert (view / path).stat().st_size == size, path
        folders = sorted((view / "720p").iterdir())
        for folder in folders:
            found += len(os.listdir(folder / "CAM_FRONT"))  # noqa: PTH208 (10 M Path objects)
        assert found == count


HOSTILE = st.one_of(
    st.text("./\0a\n\\ é", max_size=8),
    st.text(max_size=5),
    st.sampled_from(
        ["n" * 256, "../../etc/passwd", "a" * 255, "a/" * 2048 + "a", "a", "a/b", "b\u202e", "."]
    ),
)
NUMBER = st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from(
    [0, 4096, 8192, 1 << 32, 1 << 43, (1 << 43) - 4096]
)


@settings(max_examples=60, deadline=None)
@given(entries=st.lists(st.tuples(HOSTILE, NUMBER, NUMBER), min_size=1, max_size=6), in_order=st.booleans())
def test_hostile_rows_are_refused_or_give_a_tree_that_the_kernel_reads(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, int, int]], in_order: bool
) -> None:
    """The kernel parses the image, so nothing that a manifest says may make one that is wrong."""
    if in_order:
        entries = sorted(
            {path: entry for entry in entries for path in entry[:1]}.values(), key=lambda e: e[0].encode()
        )
    folder = tmp_path_factory.mktemp("hostile")
    table = pa.table(
        {
            "path": pa.array([path for path, _, _ in entries], pa.string()),
            "size": pa.array([size for _, size, _ in entries], pa.int64()),
            "pack": pa.array([PACKS[0]] * len(entries)),
            "offset": pa.array([offset for _, _, offset in entries], pa.int64()),
        }
    )
    try:
        build_image(folder / "i", [table], PACKS)
    except (Refused, Corrupt):
        assert list(folder.iterdir()) == []
    else:
        fsck(folder / "i", 2)
        (folder / "pack").touch()
        with mounted(folder / "i", [folder / "pack"] * 2, folder / "view") as view:
            seen = {
                str(Path(at).relative_to(view) / name): (Path(at) / name).stat().st_size
                for at, _, names in os.walk(view)
                for name in names
            }
            assert seen == {path: size for path, size, _ in entries}
            for path, size in seen.items():
                with (view / path).open(
                    "rb"
                ) as file:  # the pack is empty: zeros or an error, and nothing else
                    try:
                        assert not any(file.read(min(size, 5000)))
                    except OSError as error:
                        assert error.errno == errno.EIO
    shutil.rmtree(folder)


def test_names_of_255_bytes_are_legal(tmp_path: Path) -> None:
    build_image(tmp_path / "i", [rows(["n" * 255, "é" * 127 + "/x", "a\nb"])], PACKS)
    fsck(tmp_path / "i", 2)


@pytest.mark.parametrize(
    ("paths", "where"),
    [
        (["b", "a"], "order"),
        (["a", "a"], "twice"),
        (["a", "a/b"], "file and folder"),
        (["a", "a-b", "a/b"], "apart"),
    ],
)
def test_rows_that_are_no_tree_are_corrupt(tmp_path: Path, paths: list[str], where: str) -> None:
    table = rows(paths).set_column(0, "path", pa.array(paths))
    with pytest.raises(Corrupt):
        build_image(tmp_path / "i", [table], PACKS)
    with pytest.raises(Corrupt):
        build_image(tmp_path / "i", [table.slice(place, 1) for place in range(table.num_rows)], PACKS)
    assert not (tmp_path / "i").exists(), where


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("size", -1),
        ("size", None),
        ("offset", -4096),
        ("offset", 512),
        ("offset", None),
        ("pack", "c" * 64),
        ("pack", None),
    ],
)
def test_locations_that_cannot_be_are_corrupt(tmp_path: Path, column: str, value: int | str | None) -> None:
    table = rows(["a", "b"])
    place = table.schema.get_field_index(column)
    changed = pa.array([value, table[column][1].as_py()], table.schema.field(place).type)
    with pytest.raises(Corrupt):
        build_image(tmp_path / "i", [table.set_column(place, column, changed)], PACKS)


def test_more_packs_than_an_image_can_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="65536 packs"):
        build_image(tmp_path / "i", [], ["a" * 64] * 65536)


def test_an_old_image_stays_when_the_new_one_cannot_be_made(tmp_path: Path) -> None:
    build_image(tmp_path / "i", [rows(["a"])], PACKS)
    before = (tmp_path / "i").read_bytes()
    with pytest.raises(Refused):
        build_image(tmp_path / "i", [rows(["b", "../c"])], PACKS)
    assert (tmp_path / "i").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["i"]
