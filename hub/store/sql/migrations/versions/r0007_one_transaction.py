"""What the hub did waits for its place in the audit log; documents have a revision; changes are announced."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    revisions = op.create_table(
        "revisions",
        sa.Column("name", sa.String(length=32), primary_key=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(revisions, [{"name": name, "revision": 0} for name in ("checks", "documents", "pruned-changes")])
    postgresql = op.get_bind().dialect.name == "postgresql"
    running = "CAST(CAST(pg_current_xact_id() AS text) AS bigint)" if postgresql else "0"
    op.create_table(
        "changes",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("transaction", sa.BigInteger(), nullable=False, server_default=sa.text(running)),
        sa.Column("origin", sa.String(length=32), nullable=False),
        sa.Column("topic", sa.String(length=128), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("changes_by_transaction", "changes", ["transaction"])
    op.create_table(
        "audit_events",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.JSON(), nullable=False),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Refuse, as every step does."""
    raise NotImplementedError("restore a backup to go back")
