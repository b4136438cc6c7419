"""One drive's failure is that drive's outcome: whatever is raised, the others go on, and the end says what failed and what to do."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lake import catalog, landing, quarantine, stores
from lake.config import StoreConfig
from lake.stores import open_store
from outlap import cli, ingest_worker
from outlap.batch import Failure, attempt, exit_code
from outlap.commands import doctor
from outlap.synthetic import Clip, make_recording
from tests.outlap.test_quarantine import SETTINGS, home, run  # noqa: F401
from transforms.ingest import ingest_drive
from transforms.recipe import Recipe

SMALL = Clip(width=640, height=360, fps=10, frames=5, codec="libx264", gop=5, params="threads=1")


def store(home: Path, name: str = "lake") -> stores.Store:  # noqa: F811
    return open_store(StoreConfig(name=name, idc="idc-a", url=f"file://{home}/{name}"))


def good(folder: Path) -> Path:
    """A folder with a recording that says when it began."""
    folder.mkdir(parents=True, exist_ok=True)
    make_recording(folder / "CAM.mp4", SMALL)
    return folder


def odd_video(path: Path) -> None:
    """4:4:4 of 641 x 361 pixels, as a screen recorder leaves it."""
    with av.open(str(path), "w") as out:
        out.metadata["creation_time"] = "2026-06-01T08:00:00Z"
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 641, 361, "yuv444p"
        for number in range(5):
            planes = np.full((3, 361, 641), 40 * number + 20, np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


@pytest.mark.fault("C12")
def test_what_cannot_be_ingested_does_not_keep_the_others_from_it(
    home: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder without recordings, a name that is not there, an unreadable folder, an odd picture, among good drives."""
    drives = [good(home / f"drive-{number}") for number in range(3)]
    (home / "empty").mkdir()
    (home / "odd").mkdir()
    odd_video(home / "odd" / "odd.mp4")
    (home / "bad").mkdir()
    (home / "bad" / "CAM.mp4").write_bytes(b"")
    arguments = [
        str(drives[0]),
        str(home / "empty"),
        str(home / "odd"),
        str(home / "none"),
        str(home / "bad"),
    ]
    arguments += [str(path) for path in drives[1:]]
    reports = run(capsys, "ingest", *arguments, code=3)
    assert [(report["uri"].rpartition("/")[2], report["outcome"]) for report in reports] == [
        ("drive-0", "ingested"),
        ("empty", "failed"),
        ("odd", "ingested"),
        ("none", "failed"),
        ("bad", "quarantined"),
        ("drive-1", "ingested"),
        ("drive-2", "ingested"),
    ]
    assert "no recordings" in reports[1]["failure"]["why"] and reports[1]["failure"]["fix"]
    assert cli.run(["ingest", str(home / "empty"), str(drives[0])]) == 3
    said = capsys.readouterr().out
    assert "failed\tcause\tnext" in said and "name a folder that has some" in said


@pytest.mark.fault("C12")
@pytest.mark.parametrize("kind", ["yuv420p", "yuv422p10le", "yuv444p", "yuvj420p", "nv12"])
def test_a_picture_with_odd_sides_has_the_colours_of_its_even_neighbour(kind: str) -> None:
    from transforms.pictures import to_jfif

    def frame(width: int, height: int) -> av.VideoFrame:
        noise = np.random.default_rng(1).integers(16, 235, (400, 700), np.uint8)
        made = av.VideoFrame(width, height, kind)
        made.colorspace = 1
        for plane in made.planes:
            sample = np.uint16 if kind.endswith("le") else np.uint8
            wide = plane.line_size // np.dtype(sample).itemsize
            pixels = np.zeros((plane.height, wide), sample)
            filled = min(700, wide)
            pixels[:, :filled] = noise[: plane.height, :filled]
            plane.update(pixels.tobytes())
        return made

    even, odd = to_jfif(frame(642, 362)), to_jfif(frame(641, 361))
    assert (odd.width, odd.height) == (641, 361)
    for whole, part in zip(even.planes, odd.planes, strict=True):
        seen = [
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
                : part.height, : part.width
            ]
            for plane in (whole, part)
        ]
        assert np.array_equal(*seen)


@pytest.mark.fault("C12")
def test_a_process_that_is_killed_ends_its_drive_alone(
    home: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    for number in range(3):
        good(home / f"drive-{number}")
        landing.upload_drive(store(home, "landing"), home / f"drive-{number}", "car", f"d{number}")
    tasks = [ingest_worker.DriveTask("car", f"d{number}") for number in range(3)]
    pids: set[int] = set()

    def kill_the_second(what: str, done: int, total: int) -> None:
        children = _children()
        pids.update(children)
        if what.startswith("car/d1: "):
            for pid in children:
                os.kill(pid, signal.SIGKILL)

    found = [
        (task.drive, report["outcome"], report.get("failure"))
        for task, report in ingest_worker.ingest_each(tasks, Recipe(), tmp_path, kill_the_second)
    ]
    assert [(drive, outcome) for drive, outcome, _ in found] == [
        ("d0", "ingested"),
        ("d1", "failed"),
        ("d2", "ingested"),
    ]
    assert "SIGKILL" in found[1][2]["why"] and found[1][2]["fix"]
    assert len(pids) == 2 and not pids & set(_children())
    # nothing is left in its way: the same drive again
    assert [
        report["outcome"] for _, report in ingest_worker.ingest_each(tasks, Recipe(), tmp_path, print)
    ] == [
        "already",
        "ingested",
        "already",
    ]


def _children() -> list[int]:
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


@pytest.mark.fault("C12")
@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(28, "No space left on device"), ZeroDivisionError("x"), RuntimeError()]
)
def test_whatever_is_raised_is_told_and_ends_one_item(error: Exception) -> None:
    def fail() -> None:
        raise error

    done = attempt("car/d1", fail)
    assert isinstance(done, Failure) and type(error).__name__ in done.why and done.fix
    assert attempt("car/d1", lambda: 3) == 3
    with pytest.raises(KeyboardInterrupt):
        attempt("car/d1", lambda: _raise(KeyboardInterrupt()))
    assert [exit_code(one) for one in ([], [True], [True, False], [False])] == [0, 0, 3, 1]


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.fault("C12")
def test_a_machine_that_lacks_memory_is_no_fault_of_the_recording(
    home: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four tries end for want of memory; the drive is not in quarantine, and the fifth takes it."""
    good(home / "d")
    uploads, lake = store(home, "landing"), store(home)
    landing.upload_drive(uploads, home / "d", "car", "d")
    with monkeypatch.context() as patch:
        patch.setattr("transforms.cutting.cut_channel", lambda *_: _raise(MemoryError()))
        for _ in range(4):
            with pytest.raises(MemoryError):
                ingest_drive(uploads, lake, "car", "d", Recipe(), tmp_path, keep=True)
    assert quarantine.names(lake) == []
    assert ingest_drive(uploads, lake, "car", "d", Recipe(), tmp_path, keep=True).outcome == "ingested"


@pytest.mark.fault("C12")
def test_retry_and_dismiss_go_on_after_a_drive_that_is_not_there(
    home: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    for drive in ("one", "two", "three"):
        (home / drive).mkdir()
        (home / drive / "CAM.mp4").write_bytes(b"")
        run(capsys, "ingest", str(home / drive), "--vehicle", "car", code=1)
    good(home / "two")
    landing.upload_drive(store(home, "landing"), home / "two", "car", "two")
    stores.put(store(home), "quarantine/car/three.json", b"{")  # one that nobody can read
    assert [entry["drive"] for entry in run(capsys, "quarantine", "ls", code=3)] == ["one", "two"]
    reports = run(capsys, "quarantine", "retry", "car/none", "car/one", "car/two", code=3)
    assert [report["outcome"] for report in reports] == ["failed", "quarantined", "ingested"]
    reports = run(capsys, "quarantine", "dismiss", "car/none", "car/one", "car/three", code=3)
    assert [report["outcome"] for report in reports] == ["failed", "dismissed", "dismissed"]
    assert run(capsys, "quarantine", "ls") == []


@pytest.mark.fault("C12")
def test_a_check_that_breaks_is_a_check_that_is_not_ok(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def _disk() -> Any:
        raise OSError(5, "Input/output error")
        yield

    monkeypatch.setattr(doctor, "FINDERS", (_disk, doctor._python))
    assert cli.run(["doctor", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)
    assert [(check["name"], check["ok"]) for check in checks] == [("disk", False), ("Python", True)]
    assert "Input/output error" in checks[0]["found"]


@pytest.mark.fault("E7")
def test_a_corrected_drive_takes_the_place_of_the_refused_one(
    home: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = home / "morning"
    folder.mkdir()
    (folder / "CAM.mp4").write_bytes(b"")
    (folder / "LEFT.mp4").write_bytes(b"no video")
    assert run(capsys, "ingest", str(folder), "--vehicle", "car", code=1)[0]["uri"] == "car/morning"
    (folder / "LEFT.mp4").unlink()
    good(folder)
    assert run(capsys, "ingest", str(folder), "--vehicle", "car")[0]["outcome"] == "ingested"
    assert run(capsys, "quarantine", "ls") == []
    kept = [info.key for info in stores.list_objects(store(home, "landing"), "landing/")]
    assert sorted(key.rpartition("/")[2] for key in kept) == ["CAM.mp4", "COMPLETE.json"], (
        "nothing of the refused one"
    )
    assert [cut.drive for cut in catalog.drives_in(store(home))] == ["morning"]
    assert run(capsys, "ingest", str(folder), "--vehicle", "car")[0]["outcome"] == "already"
    # what was ingested never changes: other recordings of that name are refused before anything is overwritten
    make_recording(folder / "CAM.mp4", Clip(**{**vars(SMALL), "frames": 7}))
    (failed,) = run(capsys, "ingest", str(folder), "--vehicle", "car", code=1)
    assert "never change" in failed["failure"]["why"] and "--drive" in failed["failure"]["fix"]
    assert [info.key for info in stores.list_objects(store(home, "landing"), "landing/")] == kept
    assert run(capsys, "ingest", str(folder), "--vehicle", "car", "--drive", "b")[0]["outcome"] == "ingested"


@pytest.mark.fault("E7")
def test_a_drive_of_the_older_release_keeps_its_name(
    home: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Release 0.1.0 named local drives by their content: the same recordings are not a second drive."""
    from outlap.recordings import local_drive

    folder = good(home / "morning")
    older = local_drive(folder, "car").older_name
    assert (
        run(capsys, "ingest", str(folder), "--vehicle", "car", "--drive", older)[0]["outcome"] == "ingested"
    )
    (report,) = run(capsys, "ingest", str(folder), "--vehicle", "car")
    assert (report["outcome"], report["uri"]) == ("already", f"car/{older}")


@pytest.mark.fault("E7")
def test_a_dismissed_drive_is_listed_no_more_and_comes_back_with_other_content(
    home: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = home / "d1"
    folder.mkdir()
    (folder / "CAM.mp4").write_bytes(b"")
    run(capsys, "ingest", str(folder), "--vehicle", "car", code=1)
    assert run(capsys, "quarantine", "dismiss", "car/d1")[0]["outcome"] == "dismissed"
    assert run(capsys, "quarantine", "ls") == []
    (entry,) = run(capsys, "quarantine", "ls", "--dismissed")
    assert (
        entry["findings"][0]["rule"] == "empty-file" and entry["dismissed_by"] and entry["dismissed_ns"] > 0
    )
    assert run(capsys, "quarantine", "dismiss", "car/d1")[0]["dismissed_ns"] == entry["dismissed_ns"]
    assert run(capsys, "quarantine", "show", "car/d1")["drive"] == "d1"
    # refused again with other content: in quarantine again, and dismissed no more
    (folder / "CAM.mp4").write_bytes(b"no video")
    run(capsys, "ingest", str(folder), "--vehicle", "car", code=1)
    assert [one["drive"] for one in run(capsys, "quarantine", "ls")] == ["d1"]
    assert run(capsys, "quarantine", "ls", "--dismissed") == []
    run(capsys, "quarantine", "dismiss", "car/d1")
    good(folder)
    assert run(capsys, "ingest", str(folder), "--vehicle", "car")[0]["outcome"] == "ingested"
    assert run(capsys, "quarantine", "ls", "--dismissed") == []


@pytest.mark.fault("C10")
def test_recipes_from_the_command_line(
    home: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = good(home / "d1")
    first = run(capsys, "ingest", str(folder), "--vehicle", "car", "--rate-hz", "10")[0]["recipe"]
    query = ["--query", "select * from frames"]
    assert run(capsys, "publish", "front", *query)["files"] == 5
    second = run(capsys, "ingest", str(folder), "--vehicle", "car")[0]["recipe"]
    assert run(capsys, "publish", "front", *query)["files"] == 1
    listed = run(capsys, "recipes", "ls", "car/d1")
    assert [one["recipe"] for one in listed] == [second[:16], first[:16]]
    assert [one["settings"]["cut"] for one in listed] == ["keyframes", {"rate_mhz": 10_000}]
    assert cli.run(["recipes", "ls"]) == 0
    said = capsys.readouterr().out
    assert "10 Hz; 4k q90; 720p q90" in said and "key frames" in said
    assert "current one" in run(capsys, "recipes", "drop", "car/d1", second[:8], code=1)
    assert run(capsys, "recipes", "use", "car/d1", first[:8])["current"] == first[:16]
    assert run(capsys, "publish", "front", *query)["tag"] == "v1"
    assert run(capsys, "recipes", "drop", "car/d1", second[:8])["recipe"] == second[:16]
    assert [one["recipe"] for one in run(capsys, "recipes", "ls")] == [first[:16]]
    assert "VEHICLE/DRIVE" in run(capsys, "recipes", "ls", "car", code=1)
