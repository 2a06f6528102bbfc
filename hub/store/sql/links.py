"""Presence and commands in SQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Row, delete, func, insert, select, update

from hub.store.changes import link_topic
from hub.store.links import LISTED, CommandRow, CommandState, LinkView, PresenceRow, replica_lease
from hub.store.sql.database import Access, Transaction
from hub.store.sql.dialect import upsert
from hub.store.sql.tables import DatabaseTime, commands, leases, presence

#: How long it is remembered which processes there were, and what was sent to agents.
KEPT: Final = timedelta(days=1)
#: Names in one IN list.
_CHUNK: Final = 1000
_FIELDS: Final = ("replica", "stream", "boot", "since")
_LEASE_OF: Final = replica_lease("") + presence.c.replica


class SqlLinks:
    """Implements ``LinkStore``."""

    def __init__(self, access: Access) -> None:
        self._db = access

    async def opened(self, rows: Sequence[PresenceRow]) -> None:
        """Note streams."""
        newest = {row.cluster: row for row in rows}

        async def job(tx: Transaction) -> None:
            values = [asdict(row) for _, row in sorted(newest.items())]
            await tx.connection.execute(upsert(self._db.dialect, presence, ("cluster",), update=_FIELDS), values)
            tx.notify(*map(link_topic, newest))

        if rows:
            await self._db.write(job)

    async def closed(self, streams: Sequence[tuple[str, str]]) -> None:
        """Forget streams."""

        async def job(tx: Transaction) -> None:
            for cluster, stream in sorted(streams):
                this = (presence.c.cluster == cluster) & (presence.c.stream == stream)
                await tx.connection.execute(delete(presence).where(this))

        if streams:
            await self._db.write(job)

    async def live(self, clusters: Sequence[str] | None = None) -> Mapping[str, PresenceRow]:
        """Return the streams of processes that live."""
        query = select(presence).join(leases, leases.c.name == _LEASE_OF).where(leases.c.expires > DatabaseTime())
        found: list[Row[Any]] = []
        async with self._db.read() as connection:
            if clusters is None:
                found += (await connection.execute(query)).all()
            for chunk in _chunks(clusters or ()):
                found += (await connection.execute(query.where(presence.c.cluster.in_(chunk)))).all()
        return {row.cluster: PresenceRow(**row._asdict()) for row in found}

    async def look(self, clusters: Sequence[str]) -> Mapping[str, LinkView]:
        """Return who holds the streams, and for whom commands wait."""
        holders: dict[str, PresenceRow] = {}
        waiting: dict[str, set[str]] = {}
        boots = select(commands.c.cluster, commands.c.boot).where(commands.c.state == "waiting").distinct()
        async with self._db.read() as connection:
            for chunk in _chunks(clusters):
                held = await connection.execute(select(presence).where(presence.c.cluster.in_(chunk)))
                holders |= {row.cluster: PresenceRow(**row._asdict()) for row in held.all()}
                for row in (await connection.execute(boots.where(commands.c.cluster.in_(chunk)))).all():
                    waiting.setdefault(row.cluster, set()).add(row.boot)
        return {name: LinkView(holders.get(name), frozenset(waiting.get(name, ()))) for name in clusters}

    async def put_command(self, row: CommandRow, most: int) -> bool:
        """Keep a command."""
        waits = select(func.count()).select_from(commands)
        waits = waits.where(commands.c.cluster == row.cluster, commands.c.state == "waiting")
        waits = waits.where(commands.c.expires_at > self._db.clock.now())

        async def job(tx: Transaction) -> bool:
            if (await tx.connection.execute(waits)).scalar_one() >= most:
                return False
            await tx.connection.execute(insert(commands).values(asdict(row)))
            tx.notify(link_topic(row.cluster))
            return True

        return await self._db.write(job)

    async def take_commands(self, cluster: str, boot: str) -> tuple[CommandRow, ...]:
        """Mark what waits for this boot as sent and return it."""
        mine = (commands.c.cluster == cluster) & (commands.c.boot == boot) & (commands.c.state == "waiting")
        mine &= commands.c.expires_at > self._db.clock.now()

        async def job(tx: Transaction) -> tuple[CommandRow, ...]:
            sent = await tx.connection.execute(update(commands).where(mine).values(state="sent").returning(*commands.c))
            return tuple(sorted((_command(row) for row in sent.all()), key=lambda row: (row.created_at, row.id)))

        return await self._db.write(job)

    async def finish_command(
        self, cluster: str, command_id: str, state: CommandState, result: Mapping[str, Any]
    ) -> bool:
        """Keep the first outcome."""
        this = (commands.c.id == command_id) & (commands.c.cluster == cluster)
        this &= commands.c.state.in_(("waiting", "sent"))

        async def job(tx: Transaction) -> bool:
            done = await tx.connection.execute(update(commands).where(this).values(state=state, result=dict(result)))
            if done.rowcount:
                tx.notify(link_topic(cluster))
            return bool(done.rowcount)

        return await self._db.write(job)

    async def commands(self, cluster: str) -> tuple[CommandRow, ...]:
        """Return the newest commands of a cluster."""
        query = select(commands).where(commands.c.cluster == cluster)
        query = query.order_by(commands.c.created_at.desc(), commands.c.id).limit(LISTED)
        async with self._db.read() as connection:
            return tuple(_command(row) for row in (await connection.execute(query)).all())

    async def command(self, command_id: str) -> CommandRow | None:
        """Return one command."""
        async with self._db.read() as connection:
            found = (await connection.execute(select(commands).where(commands.c.id == command_id))).one_or_none()
        return _command(found) if found is not None else None

    async def prune(self) -> None:
        """Forget processes that ended a day ago, with their streams, and commands that did."""
        old = self._db.clock.now() - KEPT
        gone = select(leases.c.name).where(leases.c.name.like(f"{replica_lease('')}%"), leases.c.expires < old)

        async def job(tx: Transaction) -> None:
            await tx.connection.execute(delete(presence).where(_LEASE_OF.in_(gone)))
            await tx.connection.execute(delete(leases).where(leases.c.name.in_(gone)))
            await tx.connection.execute(delete(commands).where(commands.c.expires_at < old))

        await self._db.write(job)


def _chunks(names: Iterable[str]) -> Iterable[list[str]]:
    wanted = sorted(set(names))
    return (wanted[start : start + _CHUNK] for start in range(0, len(wanted), _CHUNK))


def _command(row: Row[Any]) -> CommandRow:
    return CommandRow(**row._asdict())
