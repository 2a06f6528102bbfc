"""Who made an API token and when; a subject has one token."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and the index that keeps subjects apart."""
    op.add_column("api_tokens", sa.Column("created_at", sa.BigInteger(), nullable=True))
    op.add_column("api_tokens", sa.Column("created_by", sa.String(length=256), nullable=False, server_default=""))
    # Which of several was meant nobody knows; that of the first admin is kept anew from its file at every start.
    op.execute(
        "DELETE FROM api_tokens WHERE subject IN (SELECT subject FROM api_tokens GROUP BY subject HAVING COUNT(*) > 1)"
    )
    op.create_index("api_tokens_by_subject", "api_tokens", ["subject"], unique=True)


def downgrade() -> None:
    """Refuse, as every step does."""
    raise NotImplementedError("restore a backup to go back")
