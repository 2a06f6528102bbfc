"""Which certificates of a cluster are still good: the key before the newest one, and the least generation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both; what was bound before has no floor, and no earlier key that could ask again."""
    op.add_column(
        "clusters", sa.Column("previous_spki_sha256", sa.String(length=80), nullable=False, server_default="")
    )
    op.add_column("clusters", sa.Column("generation_floor", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Refuse, as every step does."""
    raise NotImplementedError("restore a backup to go back")
