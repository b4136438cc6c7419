"""Schemas of the control database: an older one is upgraded with what is in it, a newer one refused, starts at once agree."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text

from cacheengine.control import desired, jobstore, migrations, nodestore, tables, tokens
from cacheengine.control.tables import open_database, writing
from lake.errors import Refused

A, B, C = "a" * 64, "b" * 64, "c" * 64
HEARTBEAT = (
    '{"node":"b1","idc":"idc-b","address":"127.0.0.1:1","role":"gpu","labels":{"rack":"1"},"agent_version":"0","boot_id":"x",'
    '"generation":7,"dirs":[],"versions":[{"dataset":"city","tag":"v1","version":"'
    + A
    + '","list_id":null,"state":"resident",'
    '"files_total":2,"files_resident":2,"bytes_total":9,"bytes_resident":9,"rate_bps":0.0,"failures":[]},{"dataset":"city",'
    '"tag":"v2","version":"'
    + B
    + '","list_id":"'
    + C
    + '","state":"fetching","files_total":2,"files_resident":1,'
    '"bytes_total":9,"bytes_resident":4,"rate_bps":1.5,"failures":[]}],"mounts":[],"fetch_bps":1000000.0,'
    '"fetch_bps_spread":null,"hit_bytes":0,"miss_bytes":0,"store_bytes":5,"store_requests":1}'
)
SPEC = (
    '{"id":"j1","kind":"warm","dataset":"city","tag":"v1","version":"'
    + A
    + '","list_id":null,"released":null,"files":2,"bytes":9,'
    '"selector":"all","created_ns":5,"nodes":[{"node":"b1","generation":7}]}'
)
SCOPE = '{"name":"ci","verbs":["warm"],"datasets":["city"],"cidr":null,"token":null}'


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/control.db"
    make: Callable[[], str] = request.getfixturevalue("postgres")
    return make()


def first_schema(url: str) -> None:
    """The database as the services before Alembic made and filled it."""
    engine = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(migrations.FOLDER))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("drop table alembic_version"))
        rows = (
            ("nodes", {"node": "b1", "generation": 7, "heartbeat": HEARTBEAT, "seen_ns": 11}),
            *(
                (
                    "desired",
                    {
                        "node": "b1",
                        "dataset": "city",
                        "version": letter * 64,
                        "list_id": listed,
                        "tag": tag,
                        "pinned": pinned,
                        "job": "j1",
                    },
                )
                for letter, listed, tag, pinned in (("a", "", "v1", True), ("b", "c" * 64, "v2", False))
            ),
            ("lists", {"id": "c" * 64, "paths": '["x.jpg"]', "created_ns": 1}),
            (
                "jobs",
                {
                    "id": "j1",
                    "request_id": None,
                    "request": "d" * 64,
                    "dataset": "city",
                    "active": True,
                    "spec": SPEC,
                    "ended": None,
                    "created_ns": 5,
                },
            ),
            ("job_nodes", {"job": "j1", "node": "b1"}),
            ("tokens", {"name": "ci", "hash": tokens.hash_token("t" * 30), "scope": SCOPE, "created_ns": 1}),
        )
        for table, values in rows:
            names = ", ".join(values)
            marks = ", ".join(f":{name}" for name in values)
            connection.execute(text(f"insert into {table} ({names}) values ({marks})"), values)
    engine.dispose()


def test_the_first_schema_is_upgraded_with_what_is_in_it(url: str) -> None:
    first_schema(url)
    engine = open_database(url)
    with engine.connect() as connection:
        (row,) = nodestore.read(connection, -1).values()
        assert (row.heartbeat.node, row.heartbeat.fetch_bps, row.seen_ns, row.generation) == (
            "b1",
            1e6,
            11,
            7,
        )
        reports = {key: report.files_resident for key, report in row.reports.items() if report is not None}
        assert reports == {("city", "a" * 64, None): 2, ("city", "b" * 64, "c" * 64): 1}
        wanted = desired.read_desired(connection, "b1")
        assert [(v.tag, v.pinned, v.job, v.paused, v.priority) for v in wanted.versions] == [
            ("v1", True, "j1", False, 0),
            ("v2", False, "j1", False, 0),
        ]
        assert [spec.id for spec in jobstore.active_specs(connection, -1)] == ["j1"]
        assert tokens.identify(connection, f"Bearer {'t' * 30}").name == "ci"
        # a service that knows no migrations reads this and refuses
        assert connection.execute(text("select version from outlap_schema")).scalar_one() == 2
    engine.dispose()
    open_database(url).dispose()


def test_migrations_make_what_the_tables_say(url: str) -> None:
    engine = open_database(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_a_newer_schema_is_refused_and_left_as_it_is(url: str) -> None:
    engine = open_database(url)
    with writing(engine) as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    engine.dispose()
    with pytest.raises(Refused, match=r"9999.*newer"):
        open_database(url)


def test_instances_that_start_at_once_agree(url: str) -> None:
    first_schema(url)
    engines: list[Engine] = []
    problems: list[BaseException] = []

    def start() -> None:
        try:
            engines.append(open_database(url))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and len(engines) == 5
    with engines[0].connect() as connection:
        assert connection.execute(text("select count(*) from reports")).scalar_one() == 2
    for engine in engines:
        engine.dispose()


def test_a_step_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first_schema(url)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("update nodes set heartbeat = 'no json'"))
    engine.dispose()
    with pytest.raises(ValueError):
        open_database(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        assert "reports" not in inspect(connection).get_table_names()
        assert connection.execute(text("select version from outlap_schema")).scalar_one() == 1
    engine.dispose()
