"""The command line: help everywhere, errors that explain themselves, exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lake.errors import Explained, NotFound
from outlap import cli, show
from outlap.commands import show as show_command

COMMANDS = (
    *("demo", "up", "down", "status", "doctor", "simulate", "ingest", "publish", "show", "diff", "lineage"),
    *("verify", "sync"),
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
