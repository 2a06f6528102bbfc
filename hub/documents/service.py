"""Uploads: judged before the transaction, decided, kept and placed in it; and judged again when the keyring changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from cellward.errors import CellwardError
from hub.documents.bounds import Bounds
from hub.documents.errors import UNKNOWN_DOCUMENT
from hub.documents.intake import Intake, KeyringPort, Prepared, anybody
from hub.documents.judging import TRIES, Judging
from hub.documents.model import Accepted
from hub.documents.placing import Placer, present_clusters
from hub.placement.model import IndexEntry
from hub.store.changes import POLICY
from hub.store.documents import DocumentRow
from hub.store.errors import MOVED
from hub.store.interfaces import Commit, Tables
from hub.store.rows import Page

if TYPE_CHECKING:
    from cellward.runtime.clock import Clock
    from hub.documents.realm import RealmService
    from hub.store.interfaces import Store

#: Seconds after which a keyring nobody announced is looked for.
_JUDGE_SECONDS = 10.0
_log = structlog.get_logger()


class DocumentService:
    """One per process; several processes may share a store."""

    def __init__(
        self,
        store: Store,
        realm: RealmService,
        clock: Clock,
        keyring: KeyringPort,
        placer: Placer,
        bounds: Bounds | None = None,
    ) -> None:
        self._store = store
        self._intake = Intake(store, realm, clock, keyring, bounds)
        self._placer = placer
        self._judging = Judging(store, clock, keyring, placer)

    async def judge_again(self) -> bool:
        """Judge everything kept by the keyring served now, and place it; False when nothing asked for that."""
        return await self._judging.again()

    async def follow_keyring(self, stop: asyncio.Event, mine: Callable[[], bool]) -> None:
        """Judge again whenever policy changes, until ``stop``, while ``mine`` says that it is this process's to do.

        A failure is logged and tried again. Of several hubs one does it: all of them would write the same, and each
        would have the others begin again. Uploads are judged by the new keyring meanwhile, at every one.
        """
        async with self._store.changes.subscribe(POLICY) as changes:
            while not stop.is_set():
                try:
                    if mine():
                        await self.judge_again()
                except Exception:  # noqa: BLE001 - logged whole and tried again (V16)
                    _log.exception("judging-failed")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_JUDGE_SECONDS):
                        await changes.wait()

    async def accept(
        self,
        envelopes: Sequence[bytes],
        *,
        dry_run: bool = False,
        permit: Callable[[IndexEntry], None] = anybody,
        commit: Commit[Accepted] | None = None,
    ) -> Accepted:
        """Judge and keep signed documents, all or none, and place what they change, in one transaction.

        Raises:
            CellwardError: ``fleet/bad-document``, ``fleet/document-too-large``, ``fleet/foreign-realm``,
                ``fleet/no-realm``, ``fleet/no-keyring``, ``fleet/unverified-document``, ``fleet/sequence-taken``,
                ``fleet/project-full``, a code of ``cellward.documents``, or what ``permit`` raises.
        """
        given, indexed = await self._intake.read(envelopes, permit=permit)
        for left in reversed(range(TRIES)):
            prepared = await self._intake.prepare(given, indexed, dry_run=dry_run)

            async def keep(tables: Tables, prepared: Prepared = prepared) -> Accepted:
                return await self._keep(tables, prepared)

            try:
                return await (self._tried(keep) if dry_run else (commit or self._store.transact)(keep))
            except CellwardError as error:
                # Judging took its time, in which what it was judged by has changed.
                if error.code != MOVED.code or not left:
                    raise
        raise AssertionError("unreachable")

    async def _keep(self, tables: Tables, prepared: Prepared) -> Accepted:
        examined = await self._intake.examine(tables, prepared)
        dropped = await self._intake.keep(tables, examined)
        fresh = examined.fresh
        movers = [entry for entry in fresh.values() if entry.kind in {"deployment", "tombstone"}]
        keys = await tables.documents.naming(fresh.keys()) | {key for entry in movers for key in entry.keys}
        clusters = await present_clusters(tables) if keys else ()
        changed = await self._placer.place(tables, clusters, keys, again=examined.grown)
        return Accepted(tuple(fresh.values()), changed, dropped)

    async def _tried(self, job: Callable[[Tables], Awaitable[Accepted]]) -> Accepted:
        """Say what a job would do: it is done, and undone."""
        found: list[Accepted] = []

        async def undone(tables: Tables) -> None:
            found.append(await job(tables))
            raise _Undone

        with contextlib.suppress(_Undone):
            await self._store.transact(undone)
        # It may have been run more than once; made way is nothing, because nothing was kept.
        return replace(found[-1], dropped=())

    async def get(self, digest: str) -> DocumentRow:
        """One document; raises fleet/unknown-document."""
        row = await self._store.documents.get(digest)
        if row is None:
            raise UNKNOWN_DOCUMENT(f"there is no document {digest}", document=digest)
        return row

    async def list(
        self, *, kind: str = "", project: str = "", cell: str = "", cursor: str = "", limit: int = 100
    ) -> Page[DocumentRow]:
        """Documents in the order they were kept."""
        return await self._store.documents.list(kind, project, cell, cursor, limit)


class _Undone(Exception):
    """Ends a transaction that was only to show what it would do."""
