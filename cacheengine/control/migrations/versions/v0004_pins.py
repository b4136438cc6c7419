"""Who pinned what, and when; and what nodes are freeing, so that each says what it freed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("desired") as desired:
        desired.add_column(sa.Column("pinned_by", sa.String(100)))
        desired.add_column(sa.Column("pinned_ns", sa.BigInteger))
        desired.add_column(sa.Column("pinned_job", sa.String(64)))
    op.create_table(
        "frees",
        sa.Column("node", sa.String(128), primary_key=True),
        sa.Column("job", sa.String(64), primary_key=True, index=True),
        sa.Column("dataset", sa.String(100), nullable=False),
        sa.Column("tag", sa.String(100), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("list_id", sa.String(64), nullable=False),
    )
