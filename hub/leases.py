"""Keeps the leases of this process: takes those that are free, renews those it has, gives them up when it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, TypeVar

import structlog

from cellward.errors import CellwardError
from cellward.runtime.tasks import stopped_within
from hub.store.interfaces import Commit, Store, Tables
from hub.store.leases import Lease
from hub.store.links import replica_lease

T = TypeVar("T")
_log = structlog.get_logger()
#: How long a lease lasts that nobody renews: so long does nobody do the work of a process that was killed.
LIFE: Final = timedelta(seconds=15)
#: Seconds between two renewals; two may fail before a lease is lost.
BEAT: Final = 5.0
#: Gives what waits in the store its place in the audit log.
AUDIT: Final = "audit-sequencer"
#: Signs the TUF timestamp again before it ends.
TIMESTAMP: Final = "policy-timestamp"
#: Prunes the store.
UPKEEP: Final = "upkeep"
#: Judges every document again when the keyring has changed.
JUDGE: Final = "documents-judged"
#: All of them.
WORK: Final = (AUDIT, TIMESTAMP, UPKEEP, JUDGE)


class Leases:
    """The leases this process asks for.

    Args:
        store: where they are.
        holder: name of this process, another one after each start.
        names: what only one process does at a time; its own name is always among them, and says that it lives.
    """

    def __init__(self, store: Store, holder: str, names: Sequence[str] = WORK, life: timedelta = LIFE) -> None:
        self._store = store
        self._names = (*names, replica_lease(holder))
        self._life = life
        self._held: dict[str, Lease] = {}
        self.holder = holder

    def held(self, name: str) -> Lease | None:
        """Return the lease as this process last had it; whether it still does is decided where it writes."""
        return self._held.get(name)

    def fence(self, name: str) -> Commit[T] | None:
        """Return how to write under a lease; None while another process has it.

        Raises store/lease-moved from the write when that has changed without this process knowing.
        """
        lease = self._held.get(name)
        if lease is None:
            return None

        async def commit(job: Callable[[Tables], Awaitable[T]], /) -> T:
            async def fenced(tables: Tables) -> T:
                await tables.leases.check(lease)
                return await job(tables)

            return await self._store.transact(fenced)

        return commit

    async def look(self) -> None:
        """Take and renew what can be."""

        async def job(tables: Tables) -> dict[str, Lease | None]:
            return {name: await tables.leases.take(name, self.holder, self._life) for name in self._names}

        taken = {name: lease for name, lease in (await self._store.transact(job)).items() if lease is not None}
        for name in sorted(taken.keys() - self._held.keys()):
            _log.info("lease-taken", name=name, generation=taken[name].token)
        for name in sorted(self._held.keys() - taken.keys()):
            _log.warning("lease-lost", name=name, generation=self._held[name].token)
        self._held = taken

    async def follow(self, stop: asyncio.Event) -> None:
        """Take and renew until ``stop``, then give them up; a failure is logged and tried again."""
        while not stop.is_set():
            try:
                await self.look()
            except CellwardError as error:
                _log.warning("leases-not-renewed", code=error.code, reason=error.message)
            await stopped_within(stop, BEAT)
        await self.release()

    async def release(self) -> None:
        """Give up all of them, so that another process need not wait for their end."""
        self._held = {}
        with contextlib.suppress(CellwardError):
            await self._store.leases.release(self.holder)
