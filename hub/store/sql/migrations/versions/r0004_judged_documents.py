"""What signatures come to, which projects and environments a token is for, and what an invite named."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; what is kept is judged at the next start."""
    op.add_column("documents", sa.Column("standing", sa.String(length=16), nullable=False, server_default="unverified"))
    op.add_column("documents", sa.Column("judgement", sa.JSON(), nullable=False, server_default="{}"))
    op.drop_table("placements")
    for name in ("projects", "environments"):
        op.add_column("api_tokens", sa.Column(name, sa.JSON(), nullable=False, server_default='["*"]'))
    op.add_column("clusters", sa.Column("invited", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """Refuse, as every step does."""
    raise NotImplementedError("restore a backup to go back")
