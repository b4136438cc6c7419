"""Tables of the control service, and how its database is opened: SQLite on one machine, PostgreSQL for several instances.

Plain SQLAlchemy. Whoever writes first calls `cacheengine.control.changes.touch`: it locks one row for each topic, so that changes
happen one after another and have an order that other instances can follow. `migrations/` makes these tables.
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
    make_url,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from cacheengine.control.migrations import migrate
from lake.errors import Refused

WHOLE = ""  # the list id of a whole version: a primary key takes no null

metadata = MetaData()
# what services before migrations look at: they refuse a newer schema by it
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
    Column("heartbeat", Text, nullable=False),  # without its versions: they are rows of `reports`
    Column("seen_ns", BigInteger, nullable=False),
    Column("session", String(64), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False, index=True),
)
reports = Table(
    "reports",
    metadata,
    Column("node", String(128), primary_key=True),
    Column("dataset", String(100), primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("list_id", String(64), primary_key=True),
    Column("report", Text),  # null: no longer reported; kept for a while, so that other instances hear of it
    Column("revision", BigInteger, nullable=False, index=True),
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
    Column("first_job", String(64)),  # the job that made this entry; `job`: the last one that asked for it
    Column("since_ns", BigInteger, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("bandwidth_bps", BigInteger),
    Column("selector", Text, nullable=False),
    Column("placement", String(16), nullable=False),
    Column("copies", Integer, nullable=False),
    # who pinned it, when, and by which warm (null: by a pin of its own); null where it is not pinned, or was before 0004
    Column("pinned_by", String(100)),
    Column("pinned_ns", BigInteger),
    Column("pinned_job", String(64)),
)
# what the frees that run ask of each node; list_id: of the paths to free, or WHOLE
frees = Table(
    "frees",
    metadata,
    Column("node", String(128), primary_key=True),
    Column("job", String(64), primary_key=True, index=True),
    Column("dataset", String(100), nullable=False),
    Column("tag", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("list_id", String(64), nullable=False),
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
    Column("revision", BigInteger, nullable=False, index=True),
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
cache_group = Table(
    "cache_group",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("secret", String(64), nullable=False),
)
drained = Table(
    "drained",
    metadata,
    Column("node", String(128), primary_key=True),
    Column("since_ns", BigInteger, nullable=False),
)
# what nodes have, or had, mounted; ended_ns: null while it is
leases = Table(
    "leases",
    metadata,
    Column("node", String(128), primary_key=True),
    Column("target", String(1024), primary_key=True),
    Column("since_ns", BigInteger, primary_key=True),
    Column("dataset", String(100), nullable=False, index=True),
    Column("tag", String(100), nullable=False),
    Column("version", String(64), nullable=False),
    Column("ended_ns", BigInteger),
)
# never changed and never deleted: the newest row of a key is what holds; new: null where the default holds again
settings_changes = Table(
    "settings_changes",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("key", String(200), nullable=False, index=True),
    Column("old", Text),
    Column("new", Text),
    Column("who", String(100), nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("reverts", Integer),
    Column("touches", Text, nullable=False),
)
link_users = Table(
    "link_users",
    metadata,
    Column("source", String(100), primary_key=True),
    Column("target", String(100), primary_key=True),
    Column("sync", String(128), primary_key=True),
    Column("seen_ns", BigInteger, nullable=False),
)
changes = Table(
    "changes",
    metadata,
    Column("topic", String(32), primary_key=True),
    Column("revision", BigInteger, nullable=False),
)


def _sqlite(engine: Engine) -> None:
    """WAL, waits instead of errors, and writers that take their lock at the start, so that none must give up half-way."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy, not the driver, says when a transaction begins
        cursor = connection.cursor()
        # the wait comes first: to turn to WAL needs the lock as well
        for setting in ("busy_timeout=20000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {setting}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def open_database(url: str) -> Engine:
    """Connect, and bring the schema to this Outlap's. Raises Refused: a bad URL, no connection, or a newer schema."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, pool_pre_ping=True)
        if parsed.get_backend_name() == "sqlite":
            _sqlite(engine)
        with writing(engine) as connection:
            migrate(connection)
    except (ArgumentError, SQLAlchemyError, ImportError, OSError) as error:
        # the URL, and what drivers say of it, may hold a password
        raise Refused(
            "the control database",
            f"it cannot be opened ({type(error).__name__})",
            "check OUTLAP_CONTROL_DATABASE and that the database is up",
        ) from error
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; everything or nothing."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection
