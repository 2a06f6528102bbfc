"""Judging everything kept again, when the keyring or the signed settings are others than it was judged by.

It is done a page at a time, so that what it holds in memory does not grow with what is kept, and uploads go on
meanwhile: those are judged by the new keyring already. Only when all of it is judged it is placed, and noted as done:
whoever ends before leaves it to the next process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import structlog

from cellward.documents import dsse
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from hub.documents import rows
from hub.documents.intake import KeyringPort
from hub.documents.judge import Trusted, Verdict, judge
from hub.documents.placing import Placer, present_clusters
from hub.store.documents import DocumentRow, Judged
from hub.store.errors import MOVED
from hub.store.interfaces import Tables

if TYPE_CHECKING:
    from datetime import datetime

    from cellward.runtime.clock import Clock
    from hub.store.interfaces import Store

#: How often something is decided again because it has changed meanwhile.
TRIES = 20
#: Documents judged, and cells placed, in one transaction.
_PAGE = 200
#: Which keyring and settings everything kept was judged by.
_JUDGED_KEY = "documents/judged-by"
#: Deployments before what they name, which is judged by whether somebody in force still says so.
_ORDER = ("deployment", "tombstone", "approval", "cluster", "release")
_log = structlog.get_logger()


class Judging:
    """Judges what is kept."""

    def __init__(self, store: Store, clock: Clock, keyring: KeyringPort, placer: Placer) -> None:
        self._store = store
        self._clock = clock
        self._keyring = keyring
        self._placer = placer

    async def again(self) -> bool:
        """Judge everything kept by the keyring served now, and place it; False when nothing asked for that."""
        for left in reversed(range(TRIES)):
            trusted = await self._keyring.current()
            if trusted is None or await self._store.meta.get(_JUDGED_KEY) == trusted.mark.encode():
                return False
            try:
                await self._all(trusted)
            except CellwardError as error:
                if error.code != MOVED.code or not left:
                    raise
            else:
                return True
        raise AssertionError("unreachable")

    async def _all(self, trusted: Trusted) -> None:
        changed = 0
        for kind in _ORDER:
            cursor = ""
            while True:
                page = await self._store.documents.list(kind, cursor=cursor, limit=_PAGE)
                changed += await self._judge(page.items, trusted)
                cursor = page.cursor
                if not cursor:
                    break
        if changed:
            _log.info("documents-judged-again", changed=changed)
        keys = sorted(await self._store.documents.keys())
        for start in range(0, len(keys), _PAGE):
            await self._place(keys[start : start + _PAGE])

        async def done(tables: Tables) -> None:
            await self._check(tables, trusted)
            await tables.meta.put(_JUDGED_KEY, trusted.mark.encode())

        await self._store.transact(done)

    async def _judge(self, page: Sequence[DocumentRow], trusted: Trusted) -> int:
        releases = [row.digest for row in page if row.kind == "release"]
        named = await self._store.documents.named(releases)
        changed = await asyncio.to_thread(_changed, page, trusted, self._clock.now(), named)
        read = {row.digest: row for row in page}

        async def job(tables: Tables) -> None:
            await self._check(tables, trusted)
            for digest, row in (await tables.documents.get_many([one.digest for one in changed])).items():
                if row != read[digest]:
                    raise MOVED(f"document {digest} has changed meanwhile", document=digest)
            await tables.documents.judge_many(changed)

        if changed:
            await self._store.transact(job)
        return len(changed)

    async def _check(self, tables: Tables, trusted: Trusted) -> None:
        if not await self._keyring.still(tables, trusted):
            raise MOVED("a policy was published meanwhile")

    async def _place(self, keys: Sequence[CellKey]) -> None:
        async def job(tables: Tables) -> None:
            await self._placer.place(tables, await present_clusters(tables), keys)

        await self._store.transact(job)


def _changed(kept: Iterable[DocumentRow], trusted: Trusted, now: datetime, named: frozenset[str]) -> list[Judged]:
    changed: list[Judged] = []
    for row in kept:
        try:
            envelope = dsse.parse_envelope(row.envelope)
            verdict = judge(envelope, trusted, now, before=row.standing, named=row.digest in named)
        except CellwardError as error:
            # Kept by a version that could read it.
            verdict = Verdict("unverified", reasons=(error.message,))
        judgement = verdict.to_json()
        if verdict.standing != "verified" and (row.standing == "verified" or rows.once(row)):
            judgement["once"] = True
        if (verdict.standing, judgement) != (row.standing, dict(row.judgement)):
            changed.append(Judged(row.digest, verdict.standing, judgement))
    return changed
