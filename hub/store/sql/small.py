"""Bearer tokens and small named values in SQL."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from hub.store.errors import SUBJECT_HAS_TOKEN
from hub.store.sql.database import Access, Transaction
from hub.store.sql.dialect import upsert
from hub.store.sql.tables import api_tokens, meta
from hub.store.tokens import ApiTokenRow


def _token(row: Row[Any]) -> ApiTokenRow:
    values = row._asdict()
    return ApiTokenRow(**values | {name: tuple(values[name]) for name in ("projects", "environments")})


class SqlApiTokens:
    """Implements ``ApiTokenStore``."""

    def __init__(self, access: Access) -> None:
        self._db = access

    async def add(self, token: ApiTokenRow) -> None:
        """Keep the token of a new subject."""
        values = asdict(token) | {"projects": list(token.projects), "environments": list(token.environments)}

        async def job(tx: Transaction) -> None:
            await tx.connection.execute(insert(api_tokens).values(values))

        try:
            await self._db.write(job)
        except IntegrityError as error:
            raise SUBJECT_HAS_TOKEN(f"{token.subject} has a token already") from error

    async def put_only(self, token_hash: str, subject: str, role: str) -> None:
        """Keep a token and drop the others of its subject."""
        everything: dict[str, Any] = {"projects": ["*"], "environments": ["*"]}
        values = {"token_hash": token_hash, "subject": subject, "role": role, "expires_at": None, **everything}
        fields = ("subject", "role", "expires_at", *everything)

        async def job(tx: Transaction) -> None:
            others = (api_tokens.c.subject == subject) & (api_tokens.c.token_hash != token_hash)
            await tx.connection.execute(delete(api_tokens).where(others))
            await tx.connection.execute(upsert(self._db.dialect, api_tokens, ("token_hash",), update=fields), values)

        await self._db.write(job)

    async def get(self, token_hash: str) -> ApiTokenRow | None:
        """Return a token, expired or not."""
        async with self._db.read() as connection:
            query = select(api_tokens).where(api_tokens.c.token_hash == token_hash)
            row = (await connection.execute(query)).one_or_none()
        return _token(row) if row is not None else None

    async def list(self) -> tuple[ApiTokenRow, ...]:
        """Return all tokens by subject."""
        async with self._db.read() as connection:
            rows = (await connection.execute(select(api_tokens).order_by(api_tokens.c.subject))).all()
        return tuple(_token(row) for row in rows)

    async def remove(self, subject: str) -> ApiTokenRow | None:
        """Forget a subject's token and return it."""
        mine = api_tokens.c.subject == subject

        async def job(tx: Transaction) -> ApiTokenRow | None:
            row = (await tx.connection.execute(select(api_tokens).where(mine))).one_or_none()
            await tx.connection.execute(delete(api_tokens).where(mine))
            return _token(row) if row is not None else None

        return await self._db.write(job)


class SqlMeta:
    """Implements ``MetaStore``."""

    def __init__(self, access: Access) -> None:
        self._db = access

    async def get(self, key: str) -> bytes | None:
        """Return a value."""
        async with self._db.read() as connection:
            return (await connection.execute(select(meta.c.value).where(meta.c.key == key))).scalar_one_or_none()

    async def put(self, key: str, value: bytes) -> None:
        """Set a value."""

        async def job(tx: Transaction) -> None:
            statement = upsert(self._db.dialect, meta, ("key",), update=("value",))
            await tx.connection.execute(statement, {"key": key, "value": value})

        await self._db.write(job)

    async def replace(self, key: str, old: str, new: str) -> str:
        """Set a value that is still ``old``; return the one that is there now."""

        async def job(tx: Transaction) -> str:
            changed = update(meta).where(meta.c.key == key, meta.c.value == old.encode()).values(value=new.encode())
            await tx.connection.execute(changed)
            found: bytes = (await tx.connection.execute(select(meta.c.value).where(meta.c.key == key))).scalar_one()
            return found.decode()

        return await self._db.write(job)

    async def put_if_absent(self, key: str, value: bytes) -> bytes:
        """Set a value unless there is one; return the one that is there now."""

        async def job(tx: Transaction) -> bytes:
            await tx.connection.execute(upsert(self._db.dialect, meta, ("key",)), {"key": key, "value": value})
            found: bytes = (await tx.connection.execute(select(meta.c.value).where(meta.c.key == key))).scalar_one()
            return found

        return await self._db.write(job)
