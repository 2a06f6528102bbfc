"""Locks as rows of their own, clusters that were removed, and where an installation was first seen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, take over what was locked, and drop what said so before."""
    op.create_table(
        "locks",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=80), nullable=False),
        sa.Column("reason", sa.String(length=1024), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("kind", "subject"),
    )
    op.execute(
        "INSERT INTO locks (kind, subject, reason, created_at, created_by) "
        "SELECT 'cluster', name, lock_reason, created_at, '' FROM clusters WHERE locked"
    )
    op.drop_column("clusters", "locked")
    op.drop_column("clusters", "lock_reason")
    op.add_column("clusters", sa.Column("removed_at", sa.BigInteger()))
    op.add_column("clusters", sa.Column("platform_uid", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("clusters", sa.Column("platform_ca", sa.String(length=80), nullable=False, server_default=""))


def downgrade() -> None:
    """Refuse, as every step does."""
    raise NotImplementedError("restore a backup to go back")
