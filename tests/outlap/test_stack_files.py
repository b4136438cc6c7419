"""What `up` writes: the supervisor's configuration, settings, secrets."""

from __future__ import annotations

import configparser
import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervisor.options import UnhosedConfigParser, expand

from cacheengine.node import load_node
from lake.config import load_config, read_secret
from outlap.errors import StackError
from outlap.stack import leftovers, ports, secrets, supervisor
from outlap.stack.layout import IDCS, NODES, SOCKET_PATH_MAX, Layout, make_folders
from outlap.stack.programs import Program, airflow_environment, stack_programs
from outlap.stack.settings import StackSettings, stack_settings, write_settings

CHOSEN = ports.choose(ports.NAMES, {}, {}, "test", free=lambda port: True)


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    monkeypatch.delenv("OUTLAP_IDC", raising=False)
    monkeypatch.delenv("OUTLAP_CONFIG", raising=False)
    found = Layout(tmp_path)
    make_folders(found)
    secrets.make_secrets(found)
    write_settings(found, CHOSEN, StackSettings())
    yield found
    leftovers.clear_sockets(found)


def _sections(layout: Layout, programs: list[Program]) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read_string(supervisor.configuration(layout, programs))
    return parser


WORD = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=30)


@given(word=WORD, value=WORD)
def test_any_word_survives_the_configuration_or_is_refused(word: str, value: str) -> None:
    program = Program("p", "node", ("run", word), "http://x", "http://x", Path("/l"), {"KEY": value})
    parser = UnhosedConfigParser()
    try:
        parser.read_string(supervisor.configuration(Layout(Path("/h")), [program]))
    except StackError:
        assert any(len(f"x{text}x".splitlines()) > 1 or {"#", ";"} & set(text) for text in (word, value))
        return
    words = shlex.split(expand(parser["program:p"]["command"], {}, "command"))
    assert words == ["/usr/bin/env", f"KEY={value}", "OUTLAP_STACK_PROGRAM=p", "run", word]


def test_a_line_break_cannot_add_settings() -> None:
    program = Program("p", "node", ("run", "a\n[program:evil]"), "x", "x", Path("/l"))
    with pytest.raises(StackError):
        supervisor.configuration(Layout(Path("/h")), [program])


def test_each_program_restarts_and_ends_with_its_children(layout: Layout) -> None:
    programs = stack_programs(layout, CHOSEN, airflow=True, parallelism=4)
    parser = _sections(layout, programs)
    names = ["store-idc-a", "store-idc-b", "control-idc-a", "control-idc-b", "node-b1", "node-b2", "airflow"]
    names += ["airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"]
    assert [program.name for program in programs] == names
    for name in names:
        section = parser[f"program:{name}"]
        assert (section["autorestart"], section["stopasgroup"], section["killasgroup"]) == ("true",) * 3
    assert "TICK_5" in parser[f"eventlistener:{supervisor.WATCH}"]["events"]


def test_everything_listens_on_this_machine_only(layout: Layout) -> None:
    programs = stack_programs(layout, CHOSEN, airflow=True, parallelism=4)
    assert all(program.health.startswith("http://127.0.0.1:") for program in programs)
    assert {program.kind for program in programs if not program.address} == {"airflow-part"}
    assert all(program.health.startswith(program.address) for program in programs)
    stores = [program for program in programs if program.kind == "store"]
    assert all({"-ip=127.0.0.1", "-ip.bind=127.0.0.1"} <= set(program.command) for program in stores)
    assert airflow_environment(layout, CHOSEN, 4)["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert all(load_node_settings(layout, node).listen.startswith("127.0.0.1:") for node in NODES)


def load_node_settings(layout: Layout, node: str):  # type: ignore[no-untyped-def]
    """As the agent reads them."""
    os.environ["OUTLAP_CONFIG"] = str(layout.node_settings(node))
    try:
        return load_node(load_config())
    finally:
        del os.environ["OUTLAP_CONFIG"]


def test_settings_are_what_the_lake_and_the_nodes_read(layout: Layout) -> None:
    config = load_config()
    assert set(config.idcs) == set(IDCS)
    assert set(config.stores) == {"lake-a", "landing-a", "lake-b"}
    assert config.idc == "idc-a"
    assert config.idc_named("idc-a").landing == "landing-a"
    for idc in IDCS:
        token = config.idc_named(idc).token
        assert token is not None and read_secret(token) == secrets.admin_token(layout, idc).read_text()
    for node in NODES:
        found = load_node_settings(layout, node)
        assert (found.name, found.idc, found.role) == (node, "idc-b", "gpu")
        assert found.cache_dirs[0].path.is_dir()


def test_secrets_are_private_and_stand_nowhere_else(layout: Layout) -> None:
    programs = stack_programs(layout, CHOSEN, airflow=True, parallelism=4)
    supervisor.write_configuration(layout, programs)
    kept = [path for path in layout.secrets.iterdir() if not path.name.endswith(".json")]
    values = [path.read_text() for path in kept] + [secrets.airflow_password(layout)]
    assert len(set(values)) == len(values) >= 10
    assert stat.S_IMODE(layout.secrets.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in layout.secrets.iterdir())
    others = [
        path for path in layout.home.rglob("*") if path.is_file() and layout.secrets not in path.parents
    ]
    assert layout.settings in others and layout.supervisor_config in others
    for path in others:
        text = path.read_text()
        assert not any(value in text for value in values), path


def test_secrets_are_made_once(layout: Layout) -> None:
    before = {path.name: path.read_bytes() for path in layout.secrets.iterdir()}
    secrets.make_secrets(layout)
    assert {path.name: path.read_bytes() for path in layout.secrets.iterdir()} == before


@pytest.mark.parametrize("length", [10, 60, 200])
def test_socket_paths_are_short(length: int) -> None:
    layout = Layout(Path("/" + "h" * length))
    assert len(str(layout.supervisor_socket)) <= SOCKET_PATH_MAX


def test_settings_of_the_stack_come_from_files_and_variables(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    (layout.home / "outlap.toml").write_text("[stack]\nports = { airflow = 8080 }\nparallelism = 2\n")
    assert stack_settings(load_config()).ports == {"airflow": 8080}
    monkeypatch.setenv("OUTLAP_STACK_PORTS", "airflow=9090, node-b1=9091")
    found = stack_settings(load_config())
    assert found.ports == {"airflow": 9090, "node-b1": 9091}
    assert found.parallelism == 2


def test_airflow_is_as_the_issue_asks(layout: Layout) -> None:
    found = airflow_environment(layout, CHOSEN, 4)
    assert found["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert found["AIRFLOW__CORE__PARALLELISM"] == "4"
    assert found["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert found["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] == "False"
    assert (Path(found["AIRFLOW__CORE__DAGS_FOLDER"]) / "publish_dataset.py").exists()
