"""The real local stack, without Airflow: up, status, a crash, a second up, down leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lake import stores
from lake.config import load_config
from outlap import cli
from outlap.errors import StackError
from outlap.stack import leftovers, supervisor
from outlap.stack import up as starting
from outlap.stack.down import down
from outlap.stack.layout import Layout, make_folders
from outlap.stack.status import Process, read_status
from outlap.stack.up import up

CLEAN = ("OUTLAP_IDC", "OUTLAP_CONFIG", "OUTLAP_STACK_PORTS")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """A stack that is up. Its home is long, so that its sockets must lie elsewhere."""
    home = tmp_path_factory.mktemp("h") / ("long-" * 20) / "with blank"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTLAP_HOME", str(home))
        for name in CLEAN:
            patch.delenv(name, raising=False)
        found = Layout(home)
        try:
            up(airflow=False)
            yield found
        finally:
            down()


def _until(true: Callable[[], bool], patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


def _process(layout: Layout, name: str) -> Process:
    return next(one for one in read_status(layout).processes if one.name == name)


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = cli.run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_status_names_every_process(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = _json(capsys, "status")
    assert code == 0 and found["healthy"]
    names = {one["name"] for one in found["processes"]}
    assert names == {"store-idc-a", "store-idc-b", "control-idc-a", "control-idc-b", "node-b1", "node-b2"}
    for one in found["processes"]:
        assert Path(f"/proc/{one['pid']}").exists()
        assert httpx.get(f"{one['address']}/healthz", trust_env=False).status_code == 200


def test_the_stores_are_two_and_take_objects(layout: Layout) -> None:
    config = load_config()
    a, b = stores.lake_store(config, "idc-a"), stores.lake_store(config, "idc-b")
    stores.put(a, "t/one", b"1")
    assert stores.get(a, "t/one") == b"1"
    assert not stores.exists(b, "t/one")
    assert not stores.exists(stores.landing_store(config, "idc-a"), "t/one")
    assert not list(stores.list_objects(b, ""))  # the probe of `up` is gone


def test_nodes_report_to_control(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    def alive() -> bool:
        code, found = _json(capsys, "nodes")
        return code == 0 and [node["node"] for node in found["idc-b"] if node["alive"]] == [
            "node-b1",
            "node-b2",
        ]

    _until(alive)


def test_a_version_goes_from_folder_to_mount(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("one")
    assert _json(capsys, "publish", "words", "--from", str(tmp_path / "in"))[0] == 0
    code, synced = _json(capsys, "sync", "words@v1", "--to", "idc-b")
    assert (code, synced["packs_copied"]) == (0, 1)
    code, job = _json(capsys, "warm", "words@v1")
    assert (code, job["state"], job["files_done"]) == (0, "done", 1)
    target = tmp_path / "view"
    assert _json(capsys, "mount", "words@v1", str(target), "--node", "node-b2")[0] == 0
    assert (target / "a.txt").read_text() == "one"
    code, mounted = _json(capsys, "residency", "words")
    assert (code == 0 and [str(target)] in [row["mounts"] for row in mounted]) or target.is_mount()
    assert _json(capsys, "umount", str(target), "--node", "node-b2")[0] == 0
    assert not target.is_mount()
    assert cli.run(["warm", "nothing@v1"]) == 1
    assert "words" in capsys.readouterr().err


def test_a_crashed_process_is_restarted_and_told(layout: Layout) -> None:
    before = _process(layout, "control-idc-a")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    _until(lambda: _process(layout, "control-idc-a").pid not in (None, before.pid))
    _until(lambda: _process(layout, "control-idc-a").healthy)
    _until(lambda: any(event.program == "control-idc-a" for event in read_status(layout).events))


def test_a_second_up_is_one_clear_error(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    before = supervisor.running_pid(layout)
    assert cli.run(["up"]) == 1
    said = capsys.readouterr().err
    assert str(layout.home) in said and "up already" in said and "outlap down" in said
    assert supervisor.running_pid(layout) == before


@pytest.mark.fault("B3")
def test_up_when_it_is_up_already_is_a_success(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    before = supervisor.running_pid(layout)
    code, found = _json(capsys, "up", "--no-airflow")
    assert (code, found["up"], found["was_up"]) == (0, True, True)
    assert len(found["programs"]) == 6
    assert cli.run(["up", "--no-airflow"]) == 0
    assert "up already: 6 programs" in capsys.readouterr().out
    assert supervisor.running_pid(layout) == before


@pytest.mark.fault("B3")
def test_up_says_what_it_waits_for(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starting, "TELL_EVERY_S", 0.5)
    control = _process(layout, "control-idc-b").pid
    assert control is not None
    os.kill(control, signal.SIGSTOP)
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        if "waiting for" in line:
            os.kill(control, signal.SIGCONT)

    assert up(airflow=False, say=hear).was_up
    (waiting, *_) = [line for line in said if "waiting for" in line]
    assert "control-idc-b (does not answer" in waiting


@pytest.mark.fault("C14")
def test_what_holds_secrets_is_for_its_user_alone(layout: Layout) -> None:
    databases = [layout.control(idc) / "control.db" for idc in ("idc-a", "idc-b")]
    for path in databases:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for folder in (layout.stack, layout.secrets, layout.logs, layout.airflow, layout.store("idc-a")):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # what an earlier release left open is closed
    databases[0].chmod(0o644)
    layout.airflow.chmod(0o755)
    (layout.airflow / "airflow.db").touch(0o644)
    make_folders(layout)
    assert stat.S_IMODE(databases[0].stat().st_mode) == 0o600
    assert stat.S_IMODE((layout.airflow / "airflow.db").stat().st_mode) == 0o600
    (layout.airflow / "airflow.db").unlink()
    assert stat.S_IMODE(layout.airflow.stat().st_mode) == 0o700


def test_demo_without_airflow_says_what_to_do(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["demo"]) == 1
    said = capsys.readouterr().err
    assert "without Airflow" in said and "outlap down" in said


def test_z_down_leaves_nothing(layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Last of the file: a view is still mounted, and an orphan carries the stack's mark."""
    assert _json(capsys, "mount", "words@v1", "--node", "node-b1")[0] == 0
    assert leftovers.mounts(layout)
    pids = [one.pid for one in read_status(layout).processes]
    ports = [int(one.address.rsplit(":", 1)[1]) for one in read_status(layout).processes]
    orphan = subprocess.Popen(
        ["sleep", "600"], env={"OUTLAP_STACK_OF": str(layout.home)}, start_new_session=True
    )
    code, done = _json(capsys, "down")
    assert code == 0 and done["was_up"]
    assert orphan.wait(timeout=10) != 0 and orphan.pid in done["ended"]
    assert leftovers.mounts(layout) == [] and done["unmounted"]
    assert leftovers.processes(layout) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    from outlap.stack.ports import is_free

    assert all(is_free(port) for port in ports)
    assert not layout.settings.exists()
    assert not layout.sockets.exists()
    assert layout.secrets.exists() and layout.store("idc-a").exists()
    assert cli.run(["status"]) == 1
    assert cli.run(["down", "--delete-data"]) == 0
    assert {path.name for path in layout.home.iterdir()} == {"stack"}


def test_a_program_that_cannot_start_is_named_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control service of which the database is a folder: `up` says so, and `down` clears up."""
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path / "h"))
    for name in CLEAN:
        monkeypatch.delenv(name, raising=False)
    whole = starting.stack_programs
    monkeypatch.setattr(
        starting,
        "stack_programs",
        lambda *args, **more: [p for p in whole(*args, **more) if p.kind == "control"],
    )
    layout = Layout(tmp_path / "h")
    (layout.control("idc-a") / "control.db").mkdir(parents=True)
    try:
        with pytest.raises(StackError) as failed:
            up(airflow=False)
        assert "control-idc-a" in failed.value.what
        assert "again and again" in failed.value.why
        assert "control.db" in failed.value.why or "database" in failed.value.why  # of its log
        assert "outlap down" in failed.value.fix
    finally:
        down()
    assert leftovers.processes(layout) == []
