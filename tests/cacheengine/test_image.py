"""The metadata image: what fsck says, that the same rows give the same bytes, and that hostile rows are refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacheengine.image import ImageInfo, build_image
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
