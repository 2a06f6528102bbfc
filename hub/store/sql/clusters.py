"""Clusters and join tokens in SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Update, bindparam, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from hub.store.changes import CLUSTERS, desired_topic
from hub.store.errors import (
    CLUSTER_EXISTS,
    IMMUTABLE,
    TOKEN_EXPIRED,
    TOKEN_SPENT,
    UID_TAKEN,
    UNKNOWN_CLUSTER,
    UNKNOWN_TOKEN,
)
from hub.store.interfaces import ClusterRow, Retired, SeenRow
from hub.store.rows import Json
from hub.store.sql.database import Access, Transaction
from hub.store.sql.tables import clusters, desired, join_tokens, receipts, statuses
from hub.store.tokens import TokenGrant

#: Expired tokens are kept this long, so that a late try is answered "expired" and not "unknown".
KEEP_EXPIRED = timedelta(days=1)
#: Names in one IN list.
_CHUNK = 1000

#: What each kind of lock names.
_LOCKED_BY = {
    "cluster": clusters.c.name, "agent": clusters.c.uid, "serial": clusters.c.serial, "key": clusters.c.spki_sha256,
}  # fmt: skip

# Made once: building a statement and the key it is cached by costs as much as running it.
_BY_NAME = select(clusters).where(clusters.c.name == bindparam("key"))
_NAME_OF_UID = select(clusters.c.name).where(clusters.c.uid == bindparam("key"))
_PLACED = update(clusters).where(clusters.c.name == bindparam("key")).values(placed=bindparam("mark"))
_FLOOR = bindparam("floor", type_=clusters.c.generation_floor.type)
_BIND = (
    update(clusters)
    .where(clusters.c.name == bindparam("key"))
    .values(
        uid=bindparam("new_uid"),
        **{
            name: bindparam(name)
            for name in (
                "spki_sha256", "statement_spki", "generation", "serial", "bound_at", "previous_spki_sha256",
            )
        },
        # Another installation is somewhere else: where is found out again.
        platform_uid=case((clusters.c.uid == bindparam("new_uid"), clusters.c.platform_uid), else_=""),
        platform_ca=case((clusters.c.uid == bindparam("new_uid"), clusters.c.platform_ca), else_=""),
        generation_floor=case(
            (clusters.c.generation_floor < _FLOOR, _FLOOR), else_=clusters.c.generation_floor
        ),
    )
    .returning(*clusters.c)
)  # fmt: skip
_USED = (
    update(clusters)
    .where(
        clusters.c.name == bindparam("key"),
        clusters.c.spki_sha256 == bindparam("newest"),
        clusters.c.previous_spki_sha256 != "",
    )
    .values(previous_spki_sha256="")
)
_TOKEN = select(join_tokens).where(join_tokens.c.token_hash == bindparam("key"))
#: The condition lets exactly one key win.
_SPEND = (
    update(join_tokens)
    .where(
        join_tokens.c.token_hash == bindparam("key"),
        join_tokens.c.expires_at > bindparam("now"),
        or_(join_tokens.c.spent_by == "", join_tokens.c.spent_by == bindparam("by")),
    )
    .values(spent_by=bindparam("by"), spent_at=bindparam("now"))
    .returning(join_tokens.c.cluster)
)


def _seen(*fields: str) -> Update:
    return (
        update(clusters)
        .where(clusters.c.name == bindparam("key"))
        .values({field: bindparam(field) for field in fields})
    )


def _cluster(row: Row[Any]) -> ClusterRow:
    values = row._asdict()
    values["uid"] = values["uid"] or ""
    return ClusterRow(**values)


class SqlClusters:
    """Implements ``ClusterStore``."""

    def __init__(self, access: Access) -> None:
        self._db = access

    async def create(self, name: str, created_by: str, invited: Json | None = None) -> ClusterRow:
        """Add a cluster."""
        row = ClusterRow(name, self._db.clock.now(), created_by, invited=dict(invited or {}))
        values = {"name": name, "created_at": row.created_at, "created_by": created_by, "invited": row.invited}

        async def job(tx: Transaction) -> None:
            await tx.connection.execute(insert(clusters).values(uid=None, **values))
            tx.notify(CLUSTERS)

        try:
            await self._db.write(job)
        except IntegrityError as error:
            raise CLUSTER_EXISTS(f"cluster {name} exists", cluster=name) from error
        return row

    async def set_placed(self, name: str, mark: str) -> None:
        """Note by what everything was placed on the cluster."""

        async def job(tx: Transaction) -> None:
            await tx.connection.execute(_PLACED, {"key": name, "mark": mark})

        await self._db.write(job)

    async def get(self, name: str) -> ClusterRow | None:
        """Return the cluster of exactly this name."""
        async with self._db.read() as connection:
            row = (await connection.execute(_BY_NAME, {"key": name})).one_or_none()
        return _cluster(row) if row is not None else None

    async def get_many(self, names: Sequence[str]) -> Mapping[str, ClusterRow]:
        """Return those of the named clusters that exist."""
        wanted, found = sorted(set(names)), dict[str, ClusterRow]()
        async with self._db.read() as connection:
            for start in range(0, len(wanted), _CHUNK):
                query = select(clusters).where(clusters.c.name.in_(wanted[start : start + _CHUNK]))
                found |= {row.name: _cluster(row) for row in (await connection.execute(query)).all()}
        return found

    async def list(self) -> tuple[ClusterRow, ...]:
        """Return all clusters by name."""
        async with self._db.read() as connection:
            rows = (await connection.execute(select(clusters).order_by(clusters.c.name))).all()
        return tuple(_cluster(row) for row in rows)

    async def known_as(self, kind: str, subject: str) -> tuple[ClusterRow, ...]:
        """Return the clusters that a lock is about."""
        query = select(clusters).where(_LOCKED_BY[kind] == subject).order_by(clusters.c.name)
        async with self._db.read() as connection:
            return tuple(_cluster(row) for row in (await connection.execute(query)).all())

    async def count(self) -> int:
        """Return how many clusters there are."""
        async with self._db.read() as connection:
            return (await connection.execute(select(func.count()).select_from(clusters))).scalar_one()

    async def name_of_uid(self, uid: str) -> str | None:
        """Return the name a uid is bound to."""
        async with self._db.read() as connection:
            return (await connection.execute(_NAME_OF_UID, {"key": uid})).scalar_one_or_none()

    async def names_of_uids(self, uids: Sequence[str]) -> Mapping[str, str]:
        """Return the names that uids are bound to."""
        wanted, found = sorted(set(uids)), dict[str, str]()
        async with self._db.read() as connection:
            for start in range(0, len(wanted), _CHUNK):
                query = select(clusters.c.uid, clusters.c.name)
                query = query.where(clusters.c.uid.in_(wanted[start : start + _CHUNK]))
                found |= {row.uid: row.name for row in (await connection.execute(query)).all()}
        return found

    async def bind(
        self,
        name: str,
        uid: str,
        spki_sha256: str,
        statement_spki: bytes,
        generation: int,
        serial: str,
        previous_spki_sha256: str = "",
        generation_floor: int = 0,
    ) -> ClusterRow:
        """Bind uid, keys and certificate to a name."""

        async def job(tx: Transaction) -> ClusterRow:
            values = {
                "key": name,
                "new_uid": uid,
                "spki_sha256": spki_sha256,
                "statement_spki": statement_spki,
                "generation": generation,
                "serial": serial,
                "bound_at": self._db.clock.now(),
                "previous_spki_sha256": previous_spki_sha256,
                "floor": generation_floor,
            }
            row = (await tx.connection.execute(_BIND, values)).one_or_none()
            if row is None:
                raise UNKNOWN_CLUSTER(f"cluster {name} does not exist", cluster=name)
            tx.notify(CLUSTERS)
            return _cluster(row)

        try:
            return await self._db.write(job)
        except IntegrityError as error:
            raise UID_TAKEN(f"uid {uid} is bound to another name", cluster=name) from error

    async def update_seen(self, name: str, at: datetime, report: Json | None = None) -> None:
        """Note that the agent spoke and merge what it said."""
        await self.update_seen_many([SeenRow(name, at, report)])

    async def update_seen_many(self, rows: Sequence[SeenRow]) -> None:
        """Note that many agents spoke."""
        named = sorted({row.cluster for row in rows})

        async def job(tx: Transaction) -> None:
            held: dict[str, dict[str, Any]] = {}
            for start in range(0, len(named), _CHUNK):
                query = select(clusters.c.name, clusters.c.report).with_for_update()
                found = await tx.connection.execute(query.where(clusters.c.name.in_(named[start : start + _CHUNK])))
                held |= {row.name: dict(row.report) for row in found.all()}
            for name in named:
                if name not in held:
                    raise UNKNOWN_CLUSTER(f"cluster {name} does not exist", cluster=name)
            said = {row.cluster for row in rows if row.report}
            times = {row.cluster: row.at for row in rows}
            for row in rows:
                held[row.cluster].update(row.report or {})
            for values in (
                [{"key": name, "last_seen": times[name]} for name in named if name not in said],
                [{"key": name, "last_seen": times[name], "report": held[name]} for name in named if name in said],
            ):
                if values:
                    await tx.connection.execute(_seen(*(field for field in values[0] if field != "key")), values)

        if rows:
            await self._db.write(job)

    async def retire_certificates(self, name: str, spare: int) -> int:
        """Raise the floor above what was issued; a restored store may have forgotten some."""
        table = clusters.c

        async def job(tx: Transaction) -> int:
            floor = case(
                (table.generation_floor > table.generation, table.generation_floor),
                (table.generation == 0, 1),
                else_=table.generation + spare,
            )
            raised = update(clusters).where(table.name == name).values(generation_floor=floor)
            row = (await tx.connection.execute(raised.returning(table.generation_floor))).one_or_none()
            if row is None:
                raise UNKNOWN_CLUSTER(f"cluster {name} does not exist", cluster=name)
            tx.notify(CLUSTERS)
            return int(row.generation_floor)

        return await self._db.write(job)

    async def set_platform(self, name: str, uid: str, ca: str) -> None:
        """Note where the installation runs."""
        await self._set(name, {"platform_uid": uid, "platform_ca": ca})

    async def remove(self, name: str) -> None:
        """Decommission."""

        async def job(tx: Transaction) -> None:
            gone = update(clusters).where(clusters.c.name == name)
            result = await tx.connection.execute(gone.values(removed_at=self._db.clock.now()))
            if result.rowcount != 1:
                raise UNKNOWN_CLUSTER(f"cluster {name} does not exist", cluster=name)
            for table in (desired, receipts, statuses):
                await tx.connection.execute(delete(table).where(table.c.cluster == name))
            tx.notify(CLUSTERS)
            tx.notify(desired_topic(name))

        await self._db.write(job)

    async def _set(self, name: str, values: Mapping[str, Any]) -> None:
        async def job(tx: Transaction) -> None:
            result = await tx.connection.execute(update(clusters).where(clusters.c.name == name).values(values))
            if result.rowcount != 1:
                raise UNKNOWN_CLUSTER(f"cluster {name} does not exist", cluster=name)
            tx.notify(CLUSTERS)

        await self._db.write(job)

    async def set_invited(self, name: str, invited: Json) -> None:
        """Set what the invite names the cluster to be."""
        await self._set(name, {"invited": dict(invited)})

    async def used(self, name: str, spki_sha256: str) -> None:
        """Forget the key before the newest one, if this is the newest one."""

        async def job(tx: Transaction) -> None:
            if (await tx.connection.execute(_USED, {"key": name, "newest": spki_sha256})).rowcount:
                tx.notify(CLUSTERS)

        await self._db.write(job)

    async def keys_of(self, uids: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return the digests of the TLS keys bound to each of these uids."""
        columns = clusters.c
        found: dict[str, frozenset[str]] = {}
        wanted = sorted({*uids} - {""})
        async with self._db.read() as connection:
            for start in range(0, len(wanted), _CHUNK):
                query = select(columns.uid, columns.spki_sha256, columns.previous_spki_sha256)
                query = query.where(columns.uid.in_(wanted[start : start + _CHUNK]))
                for row in (await connection.execute(query)).all():
                    found[row.uid] = frozenset({row.spki_sha256, row.previous_spki_sha256} - {""})
        return found

    async def standing(self) -> Retired:
        """Return whose name or generation counts for nothing."""
        columns = clusters.c
        query = select(columns.name, columns.removed_at, columns.generation_floor)
        query = query.where(or_(columns.removed_at.is_not(None), columns.generation_floor > 0))
        async with self._db.read() as connection:
            rows = (await connection.execute(query)).all()
        return Retired(
            frozenset(row.name for row in rows if row.removed_at is not None),
            {row.name: row.generation_floor for row in rows if row.generation_floor},
        )


class SqlTokens:
    """Implements ``TokenStore``."""

    def __init__(self, access: Access) -> None:
        self._db = access

    async def put(self, token_hash: str, cluster: str, expires_at: datetime) -> None:
        """Keep a new token."""

        async def job(tx: Transaction) -> None:
            old = self._db.clock.now() - KEEP_EXPIRED
            await tx.connection.execute(delete(join_tokens).where(join_tokens.c.expires_at < old))
            values = {"token_hash": token_hash, "cluster": cluster, "expires_at": expires_at}
            await tx.connection.execute(insert(join_tokens).values(values))

        try:
            await self._db.write(job)
        except IntegrityError as error:
            raise IMMUTABLE("a token of this hash is kept already") from error

    async def revoke(self, cluster: str) -> int:
        """Forget every token of a cluster."""

        async def job(tx: Transaction) -> int:
            gone = await tx.connection.execute(delete(join_tokens).where(join_tokens.c.cluster == cluster))
            return gone.rowcount

        return await self._db.write(job)

    async def live(self, token_hashes: Sequence[str], now: datetime) -> frozenset[str]:
        """Return those of these hashes whose token has not expired."""
        table, found, wanted = join_tokens.c, set[str](), sorted(set(token_hashes))
        async with self._db.read() as connection:
            for start in range(0, len(wanted), _CHUNK):
                query = select(table.token_hash).where(
                    table.token_hash.in_(wanted[start : start + _CHUNK]), table.expires_at > now
                )
                found.update((await connection.execute(query)).scalars())
        return frozenset(found)

    async def spend(self, token_hash: str, spki_sha256: str, now: datetime) -> TokenGrant:
        """Spend it for one key."""

        async def job(tx: Transaction) -> TokenGrant:
            values = {"key": token_hash, "now": now, "by": spki_sha256}
            cluster = (await tx.connection.execute(_SPEND, values)).scalar_one_or_none()
            if cluster is not None:
                return TokenGrant(cluster)
            row = (await tx.connection.execute(_TOKEN, {"key": token_hash})).one_or_none()
            if row is None:
                raise UNKNOWN_TOKEN("no token of this hash was made here")
            if row.expires_at <= now:
                raise TOKEN_EXPIRED("the token has expired", cluster=row.cluster)
            raise TOKEN_SPENT("the token was spent by another key", cluster=row.cluster)

        return await self._db.write(job)
