"""Schemas of the control database, one module a step in `versions/`; Alembic keeps which one a database has.

A step is never changed once it was released: a newer schema is a new step. SQLite and PostgreSQL both take all of one start's
steps or none.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from lake.errors import Refused

FOLDER = Path(__file__).parent
FIRST = "0001"  # the schema of the services that did not know Alembic yet
_LOCK = 0x6F75746C6170  # any number that nobody else of the database server takes


def migrate(connection: Connection, target: str = "head") -> None:
    """Bring the database to the newest schema, inside the caller's transaction. Raises Refused for a newer one.

    Of several instances that start at once one does it: on SQLite the caller's transaction has the only lock there is.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    found = MigrationContext.configure(connection).get_current_revision()
    known = {step.revision for step in script.walk_revisions()}
    if found is not None and found not in known:
        raise Refused(
            "the control database",
            f"its schema is {found}, which is newer than this service's {script.get_current_head()}",
            "start the Outlap that wrote it, or give another database (OUTLAP_CONTROL_DATABASE)",
        )
    if found is None and inspect(connection).has_table("outlap_schema"):
        command.stamp(config, FIRST)
    elif found == script.get_current_head():
        return
    command.upgrade(config, target)
