"""The audit log keeps the root of its tree, to tell damage of what the root is made of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; the next append fills it."""
    op.add_column("audit_log", sa.Column("root", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Refuse, as every step does."""
    raise NotImplementedError("restore a backup to go back")
