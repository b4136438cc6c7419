"""Parts of the demo: input, reading back, and what it asks of Airflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from blake3 import blake3
from hypothesis import example, given
from hypothesis import strategies as st

from lake.errors import NotFound
from lake.names import PART
from outlap import airflow_api as api
from outlap.demo_input import Input
from outlap.demo_read import read_all
from outlap.errors import DemoFailed, NotHere
from outlap.recordings import LocalDrive, find_drive, legal_name, local_drive


@given(st.text(max_size=200))
@example("0...")
def test_any_name_becomes_a_legal_one(text: str) -> None:
    name = legal_name(text)
    assert PART.fullmatch(name) and ".." not in name


def test_a_drive_is_named_by_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my drive"
    folder.mkdir()
    (folder / "cam.mp4").write_bytes(b"one")
    (folder / "README.md").write_text("no recording")
    first = local_drive(folder, "car")
    assert (list(first.files), first.left_out) == (["cam.mp4"], ("README.md",))
    assert first.name == "my-drive" and first.older_name.startswith("my-drive-")
    (folder / "cam.mp4").write_bytes(b"two")
    corrected = local_drive(folder, "car")
    assert corrected.name == first.name and corrected.older_name != first.older_name
    assert local_drive(folder, "car", "other").name == "other"


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotHere, match="no recordings"):
        local_drive(tmp_path, "car")


def test_two_files_that_would_be_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a b.mp4").write_bytes(b"1")
    (tmp_path / "a-b.mp4").write_bytes(b"2")
    with pytest.raises(NotHere, match="same name"):
        local_drive(tmp_path, "car")


def test_an_empty_recording_is_a_drive_to_judge_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "zero.mp4").write_bytes(b"")
    assert list(local_drive(tmp_path / "zero.mp4", "car").files) == ["zero.mp4"]


def test_uris_are_paths_or_drives_of_the_landing(tmp_path: Path) -> None:
    (tmp_path / "cam.mp4").write_bytes(b"one")
    local = find_drive(str(tmp_path / "cam.mp4"), "car")
    assert isinstance(local, LocalDrive) and local.vehicle == "car"
    assert find_drive("car-7/drive-1", "car") == ("car-7", "drive-1")
    with pytest.raises(NotFound, match="no such file"):
        find_drive("nothing", "car")


def test_the_query_takes_only_these_drives() -> None:
    found = Input("demo", "car", (LocalDrive("car", "a", {}), LocalDrive("car", "b", {})))
    assert "drive in ('a', 'b')" in found.query


def _expected(files: dict[str, bytes]) -> dict[str, tuple[str, int]]:
    return {name: (blake3(data).hexdigest(), len(data)) for name, data in files.items()}


def test_reading_back_finds_every_difference(tmp_path: Path) -> None:
    files = {"a/1.jpg": b"one", "a/2.jpg": b"two", "b.jpg": b""}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert read_all(tmp_path, _expected(files)) == (6, ())
    (tmp_path / "a/1.jpg").write_bytes(b"onE")
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "extra").write_bytes(b"")
    _, wrong = read_all(tmp_path, _expected(files))
    assert [line.rsplit("/", 1)[-1].split(":")[0] for line in wrong] == ["extra", "1.jpg", "b.jpg"]


def test_results_lose_airflows_wrapping() -> None:
    wrapped = {"dead": {"__classname__": "builtins.tuple", "__version__": 1, "__data__": [{"a": 1}]}}
    assert api.plain(wrapped) == {"dead": [{"a": 1}]}


class Fake:
    """An Airflow of which each answer is given: (method, path) → JSON, or a list of them in turn."""

    def __init__(self, answers: dict[tuple[str, str], Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        key = (request.method, request.url.path.removeprefix("/api/v2"))
        self.asked.append(key)
        answer = self.answers[key]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def session(self) -> api.Airflow:
        client = httpx.Client(base_url="http://airflow", transport=httpx.MockTransport(self))
        return api.Airflow("http://airflow", "admin", "secret-password", client)


def _row(state: str, **more: Any) -> dict[str, Any]:
    return {"dag_id": "d", "dag_run_id": "r", "state": state, "partition_key": None, "duration": 2.0, **more}


def test_a_failed_task_shows_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "POLL_S", 0.0)
    task = {"task_id": "warm", "map_index": 0, "try_number": 2, "rendered_map_index": None}
    log = {
        "content": [
            {"event": "::group::noise"},
            {
                "event": "Task failed",
                "error_detail": [{"exc_type": "AirflowException", "exc_value": "no room\nfor it"}],
            },
        ]
    }
    fake = Fake(
        {
            ("GET", "/dags/d/dagRuns/r/taskInstances"): [
                {"task_instances": [{**task, "state": "running"}]},
                {"task_instances": [{**task, "state": "failed"}]},
            ],
            ("GET", "/dags/d/dagRuns/r"): [_row("running"), _row("failed")],
            ("GET", "/dags/d/dagRuns/r/taskInstances/warm/logs/2"): log,
        }
    )
    said: list[str] = []
    with pytest.raises(DemoFailed) as failed:
        api.follow(fake.session(), api.Run("d", "r", "running", None, None), said.append)
    assert "warm [0]" in failed.value.what
    assert "no room" in failed.value.why and "::group::" not in failed.value.why
    assert said == ["d: warm [0] running", "d: warm [0] failed"]


def test_an_expired_token_is_renewed() -> None:
    fake = Fake(
        {
            ("GET", "/dags/d/dagRuns"): [
                httpx.Response(401),
                httpx.Response(200, json={"dag_runs": [_row("success")]}),
            ],
            ("POST", "/auth/token"): httpx.Response(201, json={"access_token": "new"}),
        }
    )
    session = fake.session()
    assert [run.id for run in api.runs(session, "d")] == ["r"]
    assert session.client.headers["Authorization"] == "Bearer new"
    assert "secret-password" not in repr(session)


def test_an_event_that_starts_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "POLL_S", 0.0)
    rows = {
        "dag_runs": [
            _row("success", partition_key="k"),
            _row("success", dag_run_id="x", partition_key="other"),
        ]
    }
    fake = Fake({("GET", "/dags/d/dagRuns"): rows})
    with pytest.raises(DemoFailed, match="no event"):
        api.new_run(fake.session(), "d", {"r"}, "k", lambda line: None, patience_s=0)
    assert api.new_run(fake.session(), "d", set(), "k", lambda line: None).id == "r"


def test_a_dag_that_cannot_be_read_is_an_error_with_its_cause() -> None:
    errors = {"import_errors": [{"filename": "d.py", "stack_trace": "Traceback\nImportError: no such thing"}]}
    fake = Fake({("GET", "/dags"): {"dags": []}, ("GET", "/importErrors"): errors})
    with pytest.raises(DemoFailed, match="no such thing"):
        api.wait_for_dags(fake.session(), ["d"], lambda line: None)


def test_the_summary_can_be_shown_and_is_json() -> None:
    from outlap.demo_summary import as_pairs

    summary = json.loads((Path(__file__).parent / "summary.json").read_text())
    lines = dict(as_pairs(summary))
    for name in (
        "input",
        "ingested",
        "published",
        "synced",
        "warmed",
        "trained",
        "hit rate",
        "store bytes",
        "Airflow",
    ):
        assert str(lines[name]).strip()
    assert "every byte equal" in str(lines["read on node-b1"])
