"""Which documents are current, what each project has, and by what clusters were placed on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_PAGE = 1000
#: What agents take as a name; older versions kept others, which were never placed.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")


def upgrade() -> None:
    """Add the tables, and fill them from what is kept."""
    op.add_column("documents", sa.Column("subject", sa.String(length=80), nullable=False, server_default=""))
    op.add_column("documents", sa.Column("once", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("clusters", sa.Column("placed", sa.String(length=80), nullable=False, server_default=""))
    keys = op.create_table(
        "document_keys",
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("cell", sa.String(length=64), nullable=False),
        sa.Column("environment", sa.String(length=64), nullable=False),
        sa.Column("selector", sa.String(length=80), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.String(length=80), nullable=False),
        sa.Column("fallback", sa.String(length=80), nullable=False),
        sa.Column("ready", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "environment"),
    )
    op.create_table(
        "current_documents",
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("cell", sa.String(length=64), nullable=False),
        sa.Column("environment", sa.String(length=64), nullable=False),
        sa.Column("selector", sa.String(length=80), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.String(length=80), nullable=False),
        sa.Column("fallback", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("project", "cell", "environment", "selector"),
    )
    op.create_table(
        "document_totals",
        sa.Column("project", sa.String(length=64), primary_key=True),
        sa.Column("verified", sa.BigInteger(), nullable=False),
        sa.Column("verified_bytes", sa.BigInteger(), nullable=False),
        sa.Column("loose", sa.BigInteger(), nullable=False),
        sa.Column("loose_bytes", sa.BigInteger(), nullable=False),
    )
    _fill(keys)
    for name, table, columns in _INDEXES:
        op.create_index(name, table, columns)
    connection = op.get_bind()
    for statement in (_READY, _CURRENT, _TOTALS):
        connection.execute(sa.text(statement))


def _fill(keys: sa.Table) -> None:
    connection = op.get_bind()
    kept = sa.table(
        "documents", sa.column("digest"), sa.column("subject", sa.String()), sa.column("once", sa.Boolean())
    )
    change = sa.update(kept).where(kept.c.digest == sa.bindparam("key"))
    change = change.values(subject=sa.bindparam("about"), once=sa.bindparam("before"))
    for rows in _pages(connection):
        connection.execute(
            change,
            [
                {
                    "key": row.digest,
                    "about": row.meta.get("subject", ""),
                    "before": row.standing != "verified" and bool(row.judgement.get("once")),
                }
                for row in rows
            ],
        )
        made = [key for row in rows for key in _keys(row)]
        if made:
            connection.execute(sa.insert(keys), made)


def _pages(connection: sa.Connection) -> Iterator[list[Any]]:
    kept = sa.table(
        "documents", sa.column("id", sa.BigInteger()), sa.column("digest"), sa.column("kind"), sa.column("project"),
        sa.column("cell"), sa.column("environments", sa.JSON()), sa.column("sequence"), sa.column("meta", sa.JSON()),
        sa.column("standing"), sa.column("judgement", sa.JSON()),
    )  # fmt: skip
    after = 0
    while True:
        rows = list(connection.execute(sa.select(kept).where(kept.c.id > after).order_by(kept.c.id).limit(_PAGE)))
        if not rows:
            return
        after = rows[-1].id
        yield rows


def _keys(row: Any) -> list[dict[str, Any]]:
    if row.kind not in {"deployment", "tombstone"}:
        return []
    names = (row.project, row.cell, *row.environments)
    if not all(_NAME.match(name) and "--" not in name and len(name) <= 63 for name in names):
        return []
    selector = row.meta.get("selector")
    digest = hashlib.sha256(json.dumps(selector, sort_keys=True).encode()).hexdigest()
    return [
        {
            "digest": row.digest,
            "project": row.project,
            "cell": row.cell,
            "environment": environment,
            "selector": "" if row.kind == "tombstone" else f"sha256:{digest}",
            "sequence": row.sequence,
            "subject": row.meta.get("subject", ""),
            "fallback": row.meta.get("fallback", ""),
            "ready": False,
        }
        for environment in dict.fromkeys(row.environments)
    ]


_INDEXES = (
    ("documents_by_kind", "documents", ["kind", "id"]),
    ("documents_by_standing", "documents", ["project", "standing", "once", "id"]),
    ("documents_by_subject", "documents", ["subject", "kind"]),
    ("document_keys_by_sequence", "document_keys", ["project", "cell", "environment", "sequence"]),
    (
        "document_keys_by_selector",
        "document_keys",
        ["project", "cell", "environment", "selector", "ready", "sequence"],
    ),
    ("document_keys_by_subject", "document_keys", ["subject"]),
    ("document_keys_by_fallback", "document_keys", ["fallback"]),
    ("current_documents_by_digest", "current_documents", ["digest"]),
    ("current_documents_by_subject", "current_documents", ["subject"]),
    ("current_documents_by_fallback", "current_documents", ["fallback"]),
)
_READY = """
UPDATE document_keys SET ready = true
WHERE EXISTS (SELECT 1 FROM documents d WHERE d.digest = document_keys.digest AND d.standing = 'verified')
AND (subject = '' OR EXISTS (
    SELECT 1 FROM documents r WHERE r.digest = document_keys.subject AND r.kind = 'release'
    AND r.standing = 'verified' AND r.project = document_keys.project AND r.cell = document_keys.cell))
"""
_CURRENT = """
INSERT INTO current_documents (project, cell, environment, selector, digest, sequence, subject, fallback)
SELECT project, cell, environment, selector, digest, sequence, subject, fallback FROM (
    SELECT k.*, row_number() OVER (
        PARTITION BY project, cell, environment, selector ORDER BY sequence DESC, digest) AS place
    FROM document_keys k WHERE ready) ranked
WHERE place = 1
"""
_TOTALS = """
INSERT INTO document_totals (project, verified, verified_bytes, loose, loose_bytes)
SELECT project,
    sum(CASE WHEN standing = 'verified' THEN 1 ELSE 0 END),
    sum(CASE WHEN standing = 'verified' THEN length(envelope) ELSE 0 END),
    sum(CASE WHEN standing = 'verified' THEN 0 ELSE 1 END),
    sum(CASE WHEN standing = 'verified' THEN 0 ELSE length(envelope) END)
FROM documents GROUP BY project
"""


def downgrade() -> None:
    """Refuse, as every step does."""
    raise NotImplementedError("restore a backup to go back")
