"""The compiled reader counts what it read, and fails where a file does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import reader
from benchmarks.reader import Unmeasured

SIZES = [0, 1, 4095, 4096, 1 << 20, (1 << 20) + 1, 3_000_000] + [700] * 30


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader.compile_reader(tmp_path_factory.mktemp("reader"))


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A list of files in two levels of folders."""
    names = []
    for place, size in enumerate(SIZES):
        path = tmp_path / "files" / f"d{place % 3}" / f"a name {place}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        names.append(str(path.relative_to(tmp_path / "files")))
    return reader.write_list(tmp_path / "list", tmp_path / "files", names)


@pytest.mark.parametrize(("readers", "passes"), [(1, 1), (4, 1), (1, 3), (7, 2), (100, 1)])
def test_every_file_is_read_to_its_end(program: Path, listed: Path, readers: int, passes: int) -> None:
    seen = reader.run_list(program, "read", listed, readers, passes)
    assert (seen.files, seen.bytes) == (len(SIZES) * passes, sum(SIZES) * passes)
    assert seen.seconds > 0
    assert reader.run_list(program, "stat", listed, readers, passes).bytes == sum(SIZES) * passes


def test_a_hot_read_goes_on_for_a_while(program: Path, listed: Path) -> None:
    once = reader.run_list(program, "read", listed, 2)
    seen = reader.read_hot(program, listed, 2, once.seconds * 20)
    assert seen.files % len(SIZES) == 0
    assert seen.bytes == seen.files // len(SIZES) * sum(SIZES)


def test_a_walk_meets_every_file(program: Path, listed: Path) -> None:
    root = listed.parent / "files"
    assert reader.walk(program, "readdir", root).files == len(SIZES)
    folders = sum(path.stat().st_size for path in root.iterdir())
    assert reader.walk(program, "walk", root).bytes == sum(SIZES) + folders


def test_files_are_made(program: Path, tmp_path: Path) -> None:
    names = [f"f{place}" for place in range(50)]
    listed = reader.write_list(tmp_path / "list", tmp_path, names)
    assert reader.run_list(program, "make", listed, 3).files == 50
    assert all((tmp_path / name).stat().st_size == 0 for name in names)


@pytest.mark.parametrize("readers", [1, 3])
def test_a_file_that_cannot_be_read_is_no_figure(program: Path, listed: Path, readers: int) -> None:
    with listed.open("a") as out:
        out.write(f"{listed.parent}/files/missing\n")
    with pytest.raises(Unmeasured, match="missing: No such file"):
        reader.run_list(program, "read", listed, readers)
    with pytest.raises(Unmeasured, match="No such file"):
        reader.walk(program, "walk", listed.parent / "nowhere")


def test_a_file_of_another_length_than_it_says_is_no_figure(program: Path, tmp_path: Path) -> None:
    listed = reader.write_list(tmp_path / "list", Path("/proc/self"), ["status"])
    with pytest.raises(Unmeasured, match="status"):
        reader.run_list(program, "read", listed, 1)


def test_memory_of_processes_is_theirs() -> None:
    mine = reader.resident_bytes([os.getpid()])
    assert 1 << 20 < mine < 1 << 40
    assert reader.resident_bytes([os.getpid(), 2**22 + 1]) >= mine // 2
    assert reader.slab_bytes() > 1 << 20
