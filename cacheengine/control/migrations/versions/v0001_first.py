"""Nodes, desired residency, file lists, jobs and tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    schema = op.create_table(
        "outlap_schema",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer, nullable=False),
    )
    op.bulk_insert(schema, [{"id": 1, "version": 1}])
    op.create_table(
        "nodes",
        sa.Column("node", sa.String(128), primary_key=True),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("heartbeat", sa.Text, nullable=False),
        sa.Column("seen_ns", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "desired",
        sa.Column("node", sa.String(128), primary_key=True),
        sa.Column("dataset", sa.String(100), primary_key=True),
        sa.Column("version", sa.String(64), primary_key=True),
        sa.Column("list_id", sa.String(64), primary_key=True),
        sa.Column("tag", sa.String(100), nullable=False),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("job", sa.String(64)),
    )
    op.create_table(
        "lists",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("paths", sa.Text, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("request_id", sa.String(64), unique=True),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("dataset", sa.String(100), nullable=False),
        sa.Column("active", sa.Boolean, nullable=False, index=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("ended", sa.Text),
        sa.Column("created_ns", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "job_nodes",
        sa.Column("job", sa.String(64), primary_key=True),
        sa.Column("node", sa.String(128), primary_key=True, index=True),
    )
    op.create_table(
        "tokens",
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
    )
