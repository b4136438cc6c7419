"""The cache group: its members as all instances see them, and who is being drained."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "cache_group",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("secret", sa.String(64), nullable=False),
    )
    op.create_table(
        "drained",
        sa.Column("node", sa.String(128), primary_key=True),
        sa.Column("since_ns", sa.BigInteger, nullable=False),
    )
