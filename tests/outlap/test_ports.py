"""Ports: free, kept, asked, and never two for one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlap.errors import StackError
from outlap.stack import ports


def _taken(chosen: dict[str, int]) -> list[int]:
    pairs = ((name, port) for name, port in chosen.items())
    return [
        one
        for name, port in pairs
        for one in ([port, port + 10_000] if name in ports.STORE_PORTS else [port])
    ]


@settings(max_examples=50)
@given(
    busy=st.sets(st.integers(ports.LOWEST, ports.HIGHEST + 10_000), max_size=2000),
    kept=st.dictionaries(st.sampled_from(ports.NAMES), st.integers(1, 65_535), max_size=5),
    seed=st.text(max_size=5),
)
def test_all_are_free_and_different(busy: set[int], kept: dict[str, int], seed: str) -> None:
    chosen = ports.choose(ports.NAMES, kept, {}, seed, free=lambda port: port not in busy)
    assert set(chosen) == set(ports.NAMES)
    taken = _taken(chosen)
    assert len(taken) == len(set(taken))
    assert not busy & set(taken)
    assert all(0 < port < 65_536 for port in taken)


def test_kept_ports_stay_unless_taken() -> None:
    first = ports.choose(ports.NAMES, {}, {}, "a", free=lambda port: True)
    assert ports.choose(ports.NAMES, first, {}, "b", free=lambda port: True) == first
    gone = first["airflow"]
    again = ports.choose(ports.NAMES, first, {}, "b", free=lambda port: port != gone)
    assert again["airflow"] != gone
    assert {name: port for name, port in again.items() if name != "airflow"} == {
        name: port for name, port in first.items() if name != "airflow"
    }


def test_asked_ports_win_and_are_refused_when_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert not ports.is_free(port)
        with pytest.raises(StackError) as refused:
            ports.choose(ports.NAMES, {}, {"airflow": port}, "a")
        assert str(port) in refused.value.what
    assert ports.is_free(port)
    assert ports.choose(ports.NAMES, {}, {"airflow": port}, "a")["airflow"] == port


def test_grpc_port_counts_too() -> None:
    name = ports.STORE_PORTS[0]
    with pytest.raises(StackError, match="gRPC"):
        ports.choose(ports.NAMES, {}, {name: 15_000}, "a", free=lambda port: port != 25_000)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(StackError, match="no such port"):
        ports.choose(ports.NAMES, {}, {"airfow": 8080}, "a")


def test_a_damaged_file_is_no_ports(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    assert ports.read_kept(path) == {}
    path.write_text("{")
    assert ports.read_kept(path) == {}
    path.write_text('{"airflow": 1, "node-b1": "x"}')
    assert ports.read_kept(path) == {"airflow": 1}
