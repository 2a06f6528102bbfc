"""Takes drift back: exactly the released state, additions too (V1, V10).

Steps for one object: move foreign fields into our entry, apply with force, and when something that nobody owns still
differs, set it back by a patch and do both again. What differs even then is the API server's own doing (new defaults, a
webhook that changes objects): it becomes the new baseline and is reported as a finding.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from agent.applier.cluster import CellCluster
from agent.applier.model import CellRecord, OwnedObject, Role
from agent.applier.order import DATA
from agent.applier.ownership import Path, as_scaled, drift_of, flexible_paths, managers_of, restore, strip, takeover
from agent.kube.errors import KUBE_IMMUTABLE, KUBE_NOT_FOUND, KUBE_STALE
from agent.kube.interfaces import JSONObject, ObjectRef
from cellward.errors import CellwardError

_ATTEMPTS: Final = 5


async def _at_once(_: str) -> None:
    """Nothing has to be done before the write."""


@dataclass(frozen=True, slots=True)
class Repair:
    """One repair: the object with its baseline, what was wrong, and whether it is as released now."""

    owned: OwnedObject
    cause: str
    exact: bool = True


class Repairer:
    """Compares and repairs single objects."""

    def __init__(self, cluster: CellCluster) -> None:
        self._cluster = cluster

    async def check(
        self, record: CellRecord, owned: OwnedObject, before: Callable[[str], Awaitable[None]] = _at_once
    ) -> Repair | None:
        """Bring one object back; return None when nothing was wrong or it has to be waited for.

        ``before`` is awaited with what is wrong before anything is written.

        Raises kube/* when the API server does not let us.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return await self._once(record, owned, before)
            except CellwardError as error:
                if error.code not in {KUBE_STALE.code, KUBE_NOT_FOUND.code} or attempt == _ATTEMPTS - 1:
                    raise
        return None

    async def remove_foreign_policy(self, ref: ObjectRef, uid: str) -> bool:
        """Delete a NetworkPolicy in a cell that is not ours: policies add up, so it can only widen (V10)."""
        try:
            await self._cluster.kube.delete(ref, uid=uid)
        except CellwardError as error:
            if error.code in {KUBE_NOT_FOUND.code, KUBE_STALE.code}:
                return False
            raise
        return True

    async def _once(
        self, record: CellRecord, owned: OwnedObject, before: Callable[[str], Awaitable[None]]
    ) -> Repair | None:
        live = await self._cluster.look(owned.ref)
        if live is None:
            await before("deleted")
            return Repair(await self._cluster.write(record, replace(owned, uid="")), "deleted")
        flexible = flexible_paths([other.manifest for other in record.objects], owned.manifest)
        manager = self._cluster.identity(record.namespace).manager_of(owned.role)
        # A finalizer can keep what is being deleted for ever, and it works on: its fields stay as released meanwhile.
        ending = bool(live["metadata"].get("deletionTimestamp"))
        other = live["metadata"]["uid"] != owned.uid
        anew = other or not owned.baseline
        cause = "not written yet" if anew else drift_of(live, owned.baseline, manager, flexible)
        if other:
            cause = "never applied" if not owned.uid else f"made anew by {', '.join(managers_of(live))}"
        if not cause or (ending and other):
            return None  # the end of an object comes as an event of its own
        await before(cause)
        if other and owned.uid and owned.role is not Role.NAMESPACE and owned.ref.kind not in DATA:
            # Somebody's object may say what cannot be changed back, or what nobody owns any more; ours is known.
            return await self._replace(record, owned, live, cause)
        try:
            return await self._take_back(record, owned, live, flexible, cause, anew=anew)
        except CellwardError as error:
            if error.code != KUBE_IMMUTABLE.code or owned.ref.kind in DATA:
                raise
            if ending:
                return None
            return await self._replace(record, owned, live, cause)

    async def _take_back(
        self,
        record: CellRecord,
        owned: OwnedObject,
        live: JSONObject,
        flexible: tuple[Path, ...],
        cause: str,
        *,
        anew: bool,
    ) -> Repair:
        now = await self._claim_and_apply(record, owned, live, flexible)
        if anew:
            # Addresses and the like were assigned anew: the old baseline says nothing about this object.
            return Repair(self._cluster.seen(record, owned, now), cause)
        if strip(now, flexible) != owned.baseline:
            now = await self._patch(record, owned, restore(now, owned.baseline, flexible))
            now = await self._claim_and_apply(record, owned, now, flexible)
        exact = strip(now, flexible) == owned.baseline
        return Repair(self._cluster.seen(record, owned, now), cause, exact=exact)

    async def _claim_and_apply(
        self, record: CellRecord, owned: OwnedObject, live: JSONObject, flexible: tuple[Path, ...]
    ) -> JSONObject:
        who = self._cluster.identity(record.namespace)
        operations = takeover(live, who.manager_of(owned.role), flexible)
        if operations:
            await self._patch(record, owned, operations)
        return await self._cluster.kube.apply(
            as_scaled(owned.manifest, live, flexible),
            manager=who.manager_of(owned.role),
            force=True,
            as_user=who.user_of(owned.role),
        )

    async def _patch(self, record: CellRecord, owned: OwnedObject, operations: list[JSONObject]) -> JSONObject:
        who = self._cluster.identity(record.namespace)
        return await self._cluster.kube.patch_json(
            owned.ref, operations, manager=who.manager_of(owned.role), as_user=who.user_of(owned.role)
        )

    async def _replace(self, record: CellRecord, owned: OwnedObject, live: JSONObject, cause: str) -> Repair:
        """Somebody made the object anew in a way that cannot be changed back in place."""
        current = replace(owned, uid=live["metadata"]["uid"])
        await self._cluster.delete(record, current)
        await self._cluster.wait_gone([current])
        return Repair(await self._cluster.write(record, replace(owned, uid="")), cause)


def is_foreign_policy(record: CellRecord, live: JSONObject) -> bool:
    """Whether a NetworkPolicy in a cell's namespace is none of ours."""
    names = {owned.ref.name for owned in record.objects if owned.role is Role.ISOLATION}
    return live["kind"] == "NetworkPolicy" and live["metadata"]["name"] not in names
