"""Tables of the control service, and how its database is opened: SQLite on one machine, PostgreSQL for several replicas.

Plain SQLAlchemy, no SQL of one server. Every change of a node's desired residency first raises the node's generation: on
PostgreSQL that row is then locked, on SQLite the whole database is, so changes of one node happen one after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from lake.errors import Refused

SCHEMA_VERSION = 1
WHOLE = ""  # the list id of a whole version: a primary key takes no null

metadata = MetaData()
schema = Table(
    "outlap_schema",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
)
nodes = Table(
    "nodes",
    metadata,
    Column("node", String(128), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("heartbeat", Text, nullable=False),
    Column("seen_ns", BigInteger, nullable=False),
)
desired = Table(
    "desired",
    metadata,
    Column("node", String(128), primary_key=True),
    Column("dataset", String(100), primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("list_id", String(64), primary_key=True),
    Column("tag", String(100), nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("job", String(64)),
)
lists = Table(
    "lists",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("paths", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
)
jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("request_id", String(64), unique=True),
    Column("request", String(64), nullable=False),
    Column("dataset", String(100), nullable=False),
    Column("active", Boolean, nullable=False, index=True),
    Column("spec", Text, nullable=False),
    Column("ended", Text),
    Column("created_ns", BigInteger, nullable=False, index=True),
)
job_nodes = Table(
    "job_nodes",
    metadata,
    Column("job", String(64), primary_key=True),
    Column("node", String(128), primary_key=True, index=True),
)
tokens = Table(
    "tokens",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("scope", Text, nullable=False),
    Column("created_ns", BigInteger, nullable=False),
)


def _sqlite(engine: Engine) -> None:
    """WAL, waits instead of errors, and writers that take their lock at the start, so that none must give up half-way."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy, not the driver, says when a transaction begins
        cursor = connection.cursor()
        for setting in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=20000", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {setting}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def open_database(url: str) -> Engine:
    """Connect and make what is missing. Raises Refused: a bad URL, no connection, or a schema of another Outlap."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, pool_pre_ping=True)
        if parsed.get_backend_name() == "sqlite":
            _sqlite(engine)
        _create(engine)
    except (ArgumentError, SQLAlchemyError, ImportError, OSError) as error:
        # the URL, and what drivers say of it, may hold a password
        raise Refused(
            "the control database",
            f"it cannot be opened ({type(error).__name__})",
            "check OUTLAP_CONTROL_DATABASE and that the database is up",
        ) from error
    with engine.connect() as connection:
        found = connection.execute(select(schema.c.version)).scalar_one()
    if found != SCHEMA_VERSION:
        raise Refused(
            "the control database",
            f"its schema is version {found}, this service speaks {SCHEMA_VERSION}",
            "start the Outlap that wrote it, or give an empty database: nodes report again what they hold",
        )
    return engine


def _create(engine: Engine) -> None:
    try:
        metadata.create_all(engine)
    except SQLAlchemyError:
        metadata.create_all(engine)  # another replica was making the same tables: now they are there
    try:
        with writing(engine) as connection:
            if connection.execute(select(schema.c.version)).first() is None:
                connection.execute(insert(schema).values(id=1, version=SCHEMA_VERSION))
    except IntegrityError:
        return  # another replica was first; its row is read next


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; everything or nothing."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection
