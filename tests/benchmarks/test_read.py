"""`outlap bench read`: whole, quickly; and its mounts and processes are gone after, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import rivals, walks
from benchmarks.rivals import program
from cacheengine.views import mountapi
from tests.conftest import wait_until

SYSTEMS = (
    "kernel view",
    "loop view",
    "pyfuse3 tree",
    "kernel view through fetchfs",
    "JuiceFS",
    "rclone mount",
)
KINDS = ("frames (30–300 kB)", "files (2–14 kB)")


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """start(*options): `outlap bench read` that works below tmp_path/disk."""
    (tmp_path / "disk").mkdir()

    def begin(*options: str) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).parent / "outlap"), "bench", "read", *options]
        environment = {**os.environ, "TMPDIR": str(tmp_path / "disk")}
        with (tmp_path / "log").open("w") as log:
            return subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                # whoever runs the tests in the background of a script has it ignored, and children inherit that
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    return begin


def left(folder: Path) -> list[str]:
    """Processes that name the folder, mounts below it and files in it."""
    found = [str(mount.target) for mount in mountapi.mounts_below(folder)]
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = command.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{folder}/outlap-bench-" in text:
            found.append(text)
    return found + [str(path) for path in folder.iterdir()]


@pytest.mark.slow
def test_it_measures_everything_and_leaves_nothing(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("--quick", "--json", "--write", str(tmp_path / "page.md"))
    shown, _ = process.communicate(timeout=280)
    assert process.returncode == 0, (tmp_path / "log").read_text()
    value = json.loads(shown)
    names = {row["name"] for row in value["rows"]}
    cases = [
        f"{kind}, {state}, {who}"
        for kind in KINDS
        for state in ("cold", "hot")
        for who in ("1 reader", "4 readers")
    ]
    assert {f"{case}: {system}" for case in cases for system in (*SYSTEMS, value["machine"]["disk"])} <= names
    assert {f"{verb}, 2,000 files, {state}: {system}" for verb in walks.WALKS for state in ("cold", "hot")
            for system in ("kernel view", "pyfuse3 tree", "JuiceFS")} <= names  # fmt: skip
    assert {row["goal"] for row in value["rows"] if row["name"].startswith("warm from packs")} == {
        ">= 0.9", ">= 2", ">= 0.85"
    }  # fmt: skip
    assert all(row["value"] > 0 for row in value["rows"] if not row["name"].startswith("memory"))
    [requests] = [row for row in value["rows"] if row["name"] == "store requests of a warm-up"]
    assert requests["value"] <= 20
    assert requests["value"] / requests["ratio"] == pytest.approx(200)  # JuiceFS: one for each frame
    page = (tmp_path / "page.md").read_text()
    assert "](page-read.svg)" in page and (tmp_path / "page-read.svg").stat().st_size > 1000
    assert left(tmp_path / "disk") == []


def test_what_a_signal_left_while_it_started_goes(tmp_path: Path) -> None:
    (tmp_path / "of-this-run").mkdir()
    mine, other = (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", str(folder)])
        for folder in (tmp_path / "of-this-run", tmp_path / "of-another")
    )
    try:
        subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "of-this-run"], check=True)
        rivals.sweep(tmp_path / "of-this-run")
        assert mine.wait(30) == -signal.SIGKILL
        assert other.poll() is None
        assert mountapi.mounts_below(tmp_path) == []
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()
        for mount in mountapi.mounts_below(tmp_path):
            mountapi.unmount(mount.target, lazy=True)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_ended_early_it_leaves_nothing(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], how: signal.Signals
) -> None:
    disk = tmp_path / "disk"
    process = start("--quick")
    try:
        wait_until(lambda: mountapi.mounts_below(disk) or process.poll() is not None, "a mount", 200)
        process.send_signal(how)
        process.communicate(timeout=200)
        assert process.returncode != 0
        assert left(disk) == []
    finally:
        process.kill()
        process.wait()


def test_where_it_cannot_measure_it_says_why(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").rmdir()
    (tmp_path / "disk").symlink_to("/dev/shm")
    process = start("--quick")
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert "tmpfs is no disk" in (tmp_path / "log").read_text()


def test_juicefs_shows_the_tree_that_was_loaded_and_counts_its_requests(tmp_path: Path) -> None:
    names = walks.tree_names(450)
    with rivals.redis(tmp_path / "redis") as (port, _):
        url = f"redis://127.0.0.1:{port}"
        (tmp_path / "tree").mkdir()
        with walks.juicefs_tree(tmp_path / "tree", url, names) as both:
            for seen in both:
                found = sorted(str(path.relative_to(seen.target)) for path in seen.target.glob("*/*"))
                assert found == names
                assert len(list(seen.target.iterdir())) == 3
                assert seen.pids  # one process, or one that watches it too
        rivals.format_juicefs(f"{url}/0", tmp_path / "bucket")
        with rivals.juicefs(tmp_path / "j", tmp_path / "cache-1", f"{url}/0") as writer:
            for place in range(7):
                (writer.target / str(place)).write_bytes(os.urandom(5000))
        with rivals.juicefs(tmp_path / "j", tmp_path / "cache-2", f"{url}/0") as warmed:
            assert rivals.juicefs_gets(warmed.target) == 0
            rivals.run(program("juicefs"), "warmup", str(warmed.target))
            assert rivals.juicefs_gets(warmed.target) == 7
    assert mountapi.mounts_below(tmp_path) == []
