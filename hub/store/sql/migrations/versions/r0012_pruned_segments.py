"""What was exported of the audit log can be pruned: where the log begins, and where pruned records stood."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the table; nothing was pruned yet."""
    op.add_column("audit_log", sa.Column("pruned", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "audit_runs",
        sa.Column("origin", sa.String(length=128), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("origin", "epoch", "seq"),
    )


def downgrade() -> None:
    """Refuse, as every step does."""
    raise NotImplementedError("restore a backup to go back")
