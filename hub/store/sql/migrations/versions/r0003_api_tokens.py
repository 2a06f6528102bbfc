"""Who made an API token and when; a subject has one token."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import sqlalchemy as sa
import structlog
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_log = structlog.get_logger()
#: Subject of the token that the hub takes from its file.
_FIRST_ADMIN = "bootstrap-admin"
#: Longest name of a token, characters.
_LONGEST = 64


def upgrade() -> None:
    """Add the columns, and the index that keeps subjects apart."""
    op.add_column("api_tokens", sa.Column("created_at", sa.BigInteger(), nullable=True))
    op.add_column("api_tokens", sa.Column("created_by", sa.String(length=256), nullable=False, server_default=""))
    _distinguish()
    op.create_index("api_tokens_by_subject", "api_tokens", ["subject"], unique=True)


def _distinguish() -> None:
    """Give each token a name of its own: none is lost, and each can still be revoked.

    The first admin's are the exception. Its file says which of them is in force, and it is kept again at every start;
    under another name an old one would come into force again.
    """
    connection = op.get_bind()
    tokens = sa.table("api_tokens", sa.column("token_hash", sa.String), sa.column("subject", sa.String))
    rows = connection.execute(sa.select(tokens).order_by(tokens.c.token_hash)).all()
    taken, seen = {row.subject for row in rows}, set[str]()
    for row in rows:
        if row.subject not in seen:
            seen.add(row.subject)
            continue
        mine = tokens.c.token_hash == row.token_hash
        if row.subject == _FIRST_ADMIN:
            connection.execute(sa.delete(tokens).where(mine))
            continue
        name = next(name for name in _names(row.subject) if name not in taken)
        taken.add(name)
        connection.execute(sa.update(tokens).where(mine).values(subject=name))
        _log.warning("api-token-renamed", old=row.subject, new=name)


def _names(subject: str) -> Iterator[str]:
    """Yield names that the API takes, so that the token can be revoked by it."""
    return (f"{subject[: _LONGEST - 1 - len(str(number))]}.{number}" for number in itertools.count(2))


def downgrade() -> None:
    """Refuse, as every step does."""
    raise NotImplementedError("restore a backup to go back")
