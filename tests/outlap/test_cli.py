"""The command line: help everywhere, errors that explain themselves, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cacheengine.control import groupsettings
from cacheengine.control.groupsettings import GroupSettings
from lake.errors import Explained, NotFound
from outlap import cli, show
from outlap.commands import show as show_command
from outlap.options import AsJson, byte_count
from outlap.stack.settings import StackSettings

COMMANDS = (
    *("demo", "up", "down", "status", "doctor", "simulate", "ingest", "publish", "show", "diff", "lineage"),
    *("verify", "sync", "upload"),
    *("warm", "free", "pin", "unpin", "mount", "umount", "trace", "residency", "top"),
    *("derive", "split", "export", "profile", "repack"),
    *("history", "rollback", "delete", "undelete", "retention", "gc", "delete-drive"),
)


def test_every_command_of_the_design_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert {command.name for command in cli.app.registered_commands} == set(COMMANDS)
    assert {"bench", "quarantine", "nodes", "jobs", "config"} <= {
        group.name or "bench" for group in cli.app.registered_groups
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_it_does_and_offers_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text
    # usage, then at least one sentence about it
    assert len(text.split("Options:")[0].split()) > 12


def test_commands_of_groups_have_help_too(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    for group in cli.app.registered_groups:
        assert group.typer_instance is not None
        for command in group.typer_instance.registered_commands:
            if command.name is None:
                continue
            assert cli.run([group.name or "bench", command.name, "--help"]) == 0
            text = capsys.readouterr().out
            assert "--json" in text, command.name
            assert len(text.split("Options:")[0].split()) > 8, command.name
            seen.append(f"{group.name or 'bench'} {command.name}")
    assert {"jobs ls", "jobs show", "config show", "config set", "nodes drain", "bench read"} <= set(seen), (
        seen
    )


def test_help_does_not_load_the_heavy_libraries() -> None:
    code = (
        "import sys, outlap.cli; outlap.cli.run(['--help'])\n"
        "heavy = {'pyarrow', 'obstore', 'duckdb', 'av', 'httpx', 'airflow', 'numpy', 'boto3'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["publish"],
        ["publish", "x"],
        ["publish", "x", "--from", "a", "--query", "b"],
        ["sync", "a@v1"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_explained_error_is_what_why_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise Explained("the thing", "the cause", "the next step")

    command = next(one for one in cli.app.registered_commands if one.name == "status")
    monkeypatch.setattr(command, "callback", lambda: fail())
    assert cli.run(["status"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: the thing\n  why: the cause\n  next: the next step\n"


@pytest.mark.fault("E10")
def test_errors_under_json_are_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise NotFound("the thing", "the cause", "the next step")

    command = next(one for one in cli.app.registered_commands if one.name == "status")
    monkeypatch.setattr(command, "callback", lambda as_json=False: fail())
    assert cli.run(["status"]) == 1
    assert capsys.readouterr().out == ""
    monkeypatch.undo()

    def named(as_json: AsJson = False) -> None:
        fail()

    monkeypatch.setattr(command, "callback", named)
    assert cli.run(["status", "--json"]) == 1
    said = capsys.readouterr()
    error = {"kind": "NotFound", "what": "the thing", "why": "the cause", "fix": "the next step"}
    assert json.loads(said.out) == {"error": error}
    assert "Traceback" not in said.err
    for wrong in (["sync", "a@v1", "--json"], ["status", "--json", "--nonsense"], ["nonsense", "--json"]):
        assert cli.run(wrong) == 2
        found = json.loads(capsys.readouterr().out)["error"]
        assert found["kind"] == "Usage" and found["what"]


@pytest.mark.fault("E10")
def test_help_has_its_commands_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    text = capsys.readouterr().out
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert [one for one in headings if one != "Options:"] == [
        "This machine:",
        "Data:",
        "Keeping and losing:",
        "Cache:",
    ]
    data = text.split("\nData:\n")[1].split("\nKeeping")[0]
    assert "  ingest " in data and "  publish " in data and "  warm " not in data


@pytest.mark.fault("E10")
@pytest.mark.parametrize(
    ("text", "size"), [("100KB", 100_000), ("800GiB", 800 << 30), ("1.5MiB", 3 << 19), ("1000", 1000)]
)
def test_sizes_are_written_in_one_way(text: str, size: int) -> None:
    assert byte_count(text) == size
    assert StackSettings(node_quota=text if size >= 64 << 20 else "64MiB").node_quota >= 64 << 20  # type: ignore[arg-type]
    assert GroupSettings(bandwidth_bps=text).bandwidth_bps == size  # type: ignore[arg-type]
    assert groupsettings.checked("link.idc-a.idc-b", {"bps": text, "hours": {"3": text}}) == {
        "bps": size,
        "hours": {"3": size},
    }


@pytest.mark.fault("E10")
@pytest.mark.parametrize("text", ["0", "-1", "fast", "10 parsecs", ""])
def test_what_is_no_size_is_wrong_usage(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["warm", "a@v1", f"--bandwidth={text}"]) == 2
    assert "--bandwidth" in capsys.readouterr().err


@pytest.mark.fault("E10")
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ('[airflow]\nnightly = "often"', "nightly"),
        ('[airflow]\nnigthly = "0 2 * * *"', "nigthly"),
        ('[airflw]\nnightly = "0 2 * * *"', "did you mean [airflow]"),
        ("[stack]\nnode_quota = 5", "node_quota"),
        ("[sync]\nlink_wait = 5", "link_wait"),
        ('[node]\nread_wait = "5"', "read_wait"),
    ],
)
def test_doctor_finds_typos_in_every_section(
    settings: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    monkeypatch.delenv("OUTLAP_CONFIG", raising=False)
    (tmp_path / "outlap.toml").write_text(settings)
    assert cli.run(["doctor", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)
    wrong = [one for one in checks if one["name"] == "settings" and one["ok"] is False]
    assert any(told in one["found"] + one["fix"] for one in wrong)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    command = next(one for one in cli.app.registered_commands if one.name == "status")
    monkeypatch.setattr(command, "callback", fail)
    with pytest.raises(ZeroDivisionError):
        cli.run(["status"])


@pytest.mark.parametrize("arguments", [["show"], ["warm", "a@v1"], ["nodes"], ["ingest", "car/drive"]])
def test_without_settings_the_next_step_is_said(
    arguments: list[str],
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    monkeypatch.delenv("OUTLAP_IDC", raising=False)
    monkeypatch.delenv("OUTLAP_CONFIG", raising=False)
    code = cli.run(arguments)
    said = capsys.readouterr()
    if arguments == ["nodes"]:
        # no IDC is no node: an empty table, not a failure
        assert code == 0
        return
    assert code == 1
    assert "outlap up" in said.err


def test_pipes_get_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show.table(("a", "b"), [(1, "x\ty"), (None, "z")], title="never in a pipe")
    assert capsys.readouterr().out == "a\tb\n1\tx y\n\tz\n"


def test_progress_in_a_pipe_is_a_line_each_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    with show.progress() as report:
        for done in range(101):
            report("copy", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"copy: {done} B of 100 B" for done in (0, 25, 50, 75, 100)]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert show.size(count) == text


def test_durations() -> None:
    assert [show.seconds(value) for value in (1.25, 61, 3720)] == ["1.2 s", "1 min 1 s", "1 h 2 min"]


def test_show_names_what_there_is(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a lake that is a folder: publish, show, verify, diff, and a name that nobody published."""
    from pathlib import Path

    home = Path(str(tmp_path))
    (home / "data").mkdir()
    (home / "data" / "a.txt").write_text("one")
    (home / "outlap.toml").write_text(
        f'here = "x"\n[idc.x]\nstore = "s"\n[store.s]\nidc = "x"\nurl = "file://{home}/store"\n'
    )
    monkeypatch.setenv("OUTLAP_HOME", str(home))
    monkeypatch.delenv("OUTLAP_IDC", raising=False)
    assert cli.run(["publish", "words", "--from", str(home / "data")]) == 0
    (home / "data" / "b.txt").write_text("two")
    assert cli.run(["publish", "words", "--from", str(home / "data")]) == 0
    assert cli.run(["show", "words", "--json"]) == 0
    assert cli.run(["verify", "words@v1"]) == 0
    capsys.readouterr()
    assert cli.run(["diff", "words@v1", "words@v2"]) == 0
    assert capsys.readouterr().out == "added\tb.txt\n"
    assert cli.run(["show", "nothing@v1"]) == 1
    assert "words" in capsys.readouterr().err
    with pytest.raises(NotFound):
        show_command.show_version("nothing")
