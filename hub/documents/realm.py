"""The realm: which installation this hub serves, named once by the first root it was given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellward.policy import trust
from hub.documents.errors import NO_REALM, REALM_ADOPTED

if TYPE_CHECKING:
    from hub.store.interfaces import Commit, MetaStore, Tables

_ROOT_KEY = "realm/root"


@dataclass(frozen=True, slots=True)
class Realm:
    """Realm and the exact bytes of root version 1."""

    realm: str
    root: bytes


class RealmService:
    """Adopts the first root; afterwards the answer never changes."""

    def __init__(self, meta: MetaStore) -> None:
        self._meta = meta
        self._lock = asyncio.Lock()
        self._current: Realm | None = None
        #: Called once with the realm, in order, when this process learns of it; what is added later hears nothing.
        self.on_adopted: list[Callable[[Realm], Awaitable[None]]] = []

    @property
    def realm(self) -> str:
        """The realm as far as this process knows, empty before one was adopted; for parts that cannot wait."""
        return self._current.realm if self._current is not None else ""

    async def current(self) -> Realm | None:
        """The realm, or None before a root was adopted, by whichever process. Kept once known: it never changes."""
        if self._current is None:
            root = await self._meta.get(_ROOT_KEY)
            if root is not None:
                await self._learn(Realm(trust.realm_of(root), root))
        return self._current

    async def require(self) -> Realm:
        """The realm; raises fleet/no-realm before a root was adopted."""
        found = await self.current()
        if found is None:
            raise NO_REALM("no root of trust was adopted yet")
        return found

    async def adopt(self, root: bytes, *, commit: Commit[Realm] | None = None) -> Realm:
        """Adopt root version 1; adopting the same one again changes nothing.

        Raises:
            CellwardError: ``policy/bad-root``, ``fleet/realm-adopted`` when there is another one.
        """
        realm = trust.realm_of(root)

        def checked(kept: bytes) -> Realm:
            adopted = Realm(trust.realm_of(kept), kept)
            if adopted.realm != realm:
                raise REALM_ADOPTED(f"this hub serves realm {adopted.realm}", realm=adopted.realm)
            return adopted

        async def job(tables: Tables) -> Realm:
            return checked(await tables.meta.put_if_absent(_ROOT_KEY, root))

        if commit is not None:
            await commit(job)
        else:
            checked(await self._meta.put_if_absent(_ROOT_KEY, root))
        return await self.require()

    async def _learn(self, realm: Realm) -> None:
        async with self._lock:
            if self._current is None:
                self._current = realm
                for callback in self.on_adopted:
                    await callback(realm)
