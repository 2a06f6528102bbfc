"""Which role set a hold or quarantine."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what is withheld already counts as set by an admin."""
    op.add_column("desired", sa.Column("hub_state_role", sa.String(length=16), nullable=False, server_default=""))


def downgrade() -> None:
    """Refuse, as every step does."""
    raise NotImplementedError("restore a backup to go back")
