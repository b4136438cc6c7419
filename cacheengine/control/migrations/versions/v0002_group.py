"""Reports of versions as rows, leases, the history of settings, and an order of all changes for several instances."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TOPICS = ("forgotten", "jobs", "nodes", "settings", "tokens")


def upgrade() -> None:
    with op.batch_alter_table("nodes") as nodes:
        nodes.add_column(sa.Column("session", sa.String(64), nullable=False, server_default=""))
        nodes.add_column(sa.Column("number", sa.BigInteger, nullable=False, server_default="0"))
        nodes.add_column(sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"))
        nodes.create_index("ix_nodes_revision", ["revision"])
    with op.batch_alter_table("desired") as desired:
        desired.add_column(sa.Column("first_job", sa.String(64)))
        desired.add_column(sa.Column("since_ns", sa.BigInteger, nullable=False, server_default="0"))
        desired.add_column(sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()))
        desired.add_column(sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
        desired.add_column(sa.Column("bandwidth_bps", sa.BigInteger))
        desired.add_column(sa.Column("selector", sa.Text, nullable=False, server_default="all"))
        desired.add_column(sa.Column("placement", sa.String(16), nullable=False, server_default="all"))
        desired.add_column(sa.Column("copies", sa.Integer, nullable=False, server_default="1"))
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"))
        jobs.create_index("ix_jobs_revision", ["revision"])
    _make_tables()
    _split_heartbeats()
    op.execute("update desired set first_job = job")
    op.execute("update outlap_schema set version = 2")  # services before Alembic refuse it by this


def _make_tables() -> None:
    op.create_table(
        "reports",
        sa.Column("node", sa.String(128), primary_key=True),
        sa.Column("dataset", sa.String(100), primary_key=True),
        sa.Column("version", sa.String(64), primary_key=True),
        sa.Column("list_id", sa.String(64), primary_key=True),
        sa.Column("report", sa.Text),
        sa.Column("revision", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "leases",
        sa.Column("node", sa.String(128), primary_key=True),
        sa.Column("target", sa.String(1024), primary_key=True),
        sa.Column("since_ns", sa.BigInteger, primary_key=True),
        sa.Column("dataset", sa.String(100), nullable=False, index=True),
        sa.Column("tag", sa.String(100), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("ended_ns", sa.BigInteger),
    )
    op.create_table(
        "settings_changes",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("key", sa.String(200), nullable=False, index=True),
        sa.Column("old", sa.Text),
        sa.Column("new", sa.Text),
        sa.Column("who", sa.String(100), nullable=False),
        sa.Column("at_ns", sa.BigInteger, nullable=False),
        sa.Column("reverts", sa.Integer),
        sa.Column("touches", sa.Text, nullable=False),
    )
    op.create_table(
        "link_users",
        sa.Column("source", sa.String(100), primary_key=True),
        sa.Column("target", sa.String(100), primary_key=True),
        sa.Column("sync", sa.String(128), primary_key=True),
        sa.Column("seen_ns", sa.BigInteger, nullable=False),
    )
    changes = op.create_table(
        "changes",
        sa.Column("topic", sa.String(32), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(changes, [{"topic": topic, "revision": 0} for topic in TOPICS])


def _split_heartbeats() -> None:
    """Versions leave the text of each heartbeat and become rows."""
    connection = op.get_bind()
    nodes = sa.table("nodes", sa.column("node"), sa.column("heartbeat"))
    reports = sa.table(
        "reports", *map(sa.column, ("node", "dataset", "version", "list_id", "report", "revision"))
    )
    for node, text in connection.execute(sa.select(nodes.c.node, nodes.c.heartbeat)).all():
        heartbeat = json.loads(text)
        for version in heartbeat.pop("versions", []):
            connection.execute(
                sa.insert(reports).values(
                    node=node,
                    dataset=version["dataset"],
                    version=version["version"],
                    list_id=version["list_id"] or "",
                    report=json.dumps(version),
                    revision=0,
                )
            )
        connection.execute(
            sa.update(nodes).where(nodes.c.node == node).values(heartbeat=json.dumps(heartbeat))
        )
