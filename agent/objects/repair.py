"""Takes drift back: exactly the released state, additions too (V1, V10).

The first write of a repair already makes the object what was released: whoever judges the state after a write, our
own fence or a webhook of the cluster, sees nothing but that. Moving foreign fields into our entry, which changes no
content, comes after it, then a forced apply. When the first write is refused other orders are tried, but what they
leave counts only if it is what was released. What differs after two whole rounds in the same way, and belongs to
nobody, is the API server's own doing (new defaults, a webhook that changes objects): it becomes the new baseline and is
a finding.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from agent.kube.errors import KUBE_FORBIDDEN, KUBE_IMMUTABLE, KUBE_INVALID, KUBE_NOT_FOUND, KUBE_STALE
from agent.kube.interfaces import JSONObject, ObjectRef
from agent.objects.cluster import CellCluster, check_namespace, is_ending, not_gone
from agent.objects.errors import ISOLATION_FIRST
from agent.objects.model import DELETED, CellRecord, OwnedObject, Role
from agent.objects.order import DATA, is_workload
from agent.objects.ownership import (
    Flexible,
    applied_by,
    as_scaled,
    drift_of,
    flexible_of,
    managers_of,
    restore,
    strip,
    takeover,
)
from cellward.errors import CellwardError

_ATTEMPTS: Final = 5
#: From this attempt on a repair begins with an apply, which nobody who writes meanwhile can make stale.
_HURRIED: Final = 2
#: After these another order of the same writes may come through.
_REFUSED: Final = frozenset({KUBE_FORBIDDEN.code, KUBE_INVALID.code})


async def _at_once(_: str) -> None:
    """Nothing has to be done before the write."""


@dataclass(frozen=True, slots=True)
class Repair:
    """One repair: the object with its baseline, what was wrong, and whether it is as released now."""

    owned: OwnedObject
    cause: str
    exact: bool = True


@dataclass(frozen=True, slots=True)
class _Task:
    """One object to repair: what it is to be, what an autoscaler decides of it, and whether its baseline says nothing.

    Of an object that was recreated, addresses and the like were assigned again.
    """

    record: CellRecord
    owned: OwnedObject
    flexible: Flexible | None
    cause: str
    anew: bool

    def as_released(self, live: JSONObject) -> bool:
        """Whether the content is what it is to be."""
        scaled = self.flexible is None or self.flexible.allows(live)
        return scaled and strip(live, self.flexible) == self.owned.baseline


_Way = Callable[[_Task, JSONObject], Awaitable[JSONObject]]


class Repairer:
    """Compares and repairs single objects; ``check_proof`` raises while a stamp does not prove whose a namespace is."""

    def __init__(self, cluster: CellCluster, check_proof: Callable[[], None]) -> None:
        self._cluster = cluster
        self._check_proof = check_proof

    async def check(
        self,
        record: CellRecord,
        owned: OwnedObject,
        before: Callable[[str], Awaitable[None]] = _at_once,
        *,
        isolated: bool = True,
    ) -> Repair | None:
        """Bring one object back; return None when nothing was wrong or it has to be waited for.

        ``before`` is awaited with what is wrong before anything is written. Unless the cell is ``isolated``, what is
        gone and would run pods is not made again (V9); what is there is repaired all the same.

        Raises kube/* when the API server does not let us, cell/isolation-first and cell/namespace-not-ours.
        """
        for attempt in range(_ATTEMPTS):
            live = await self._cluster.look(owned.ref)
            live = await self._let_go(owned, live) if live is not None and is_ending(live) else live
            try:
                if live is None:
                    await before(DELETED)
                    return await self._make(record, owned, DELETED, isolated=isolated)
                return await self._once(record, owned, live, before, isolated=isolated, hurried=attempt >= _HURRIED)
            except CellwardError as error:
                again = error.code == KUBE_STALE.code or (error.code == KUBE_NOT_FOUND.code and live is not None)
                if not again or attempt == _ATTEMPTS - 1:
                    raise
        return None

    async def clear_done(
        self, record: CellRecord, owned: OwnedObject, before: Callable[[str], Awaitable[None]]
    ) -> None:
        """Delete what somebody made in the place of a job that completed.

        That it ran excuses the job's absence, and nothing else of its name. Raises apply/deletion-pending.
        """
        live = await self._cluster.look(owned.ref)
        if live is None or live["metadata"]["uid"] == owned.uid:
            return
        manager = self._cluster.identity(record.namespace).manager_of(owned.role)
        if not record.settled and applied_by(live, manager):
            return  # ours, of a release that is being applied: that of which nothing is on record yet
        await before(f"recreated by {', '.join(managers_of(live))} in the place of a job that completed")
        current = replace(owned, uid=live["metadata"]["uid"])
        await self._cluster.delete(record, current)
        left = await self._cluster.let_go(current)
        if left is not None:
            raise not_gone(owned.ref, left)

    async def remove_foreign_policy(self, ref: ObjectRef, uid: str) -> bool:
        """Delete a NetworkPolicy in a cell that is not ours: policies add up, so it can only widen (V10).

        Raises apply/deletion-pending while something keeps it, for it is open for as long.
        """
        try:
            await self._cluster.kube.delete(ref, uid=uid)
        except CellwardError as error:
            if error.code in {KUBE_NOT_FOUND.code, KUBE_STALE.code}:
                return False
            raise
        metadata = {"namespace": ref.namespace, "name": ref.name}
        policy = {"apiVersion": ref.api_version, "kind": ref.kind, "metadata": metadata}
        left = await self._cluster.let_go(OwnedObject(policy, Role.ISOLATION, uid=uid))
        if left is not None:
            raise not_gone(ref, left)
        return True

    async def _let_go(self, owned: OwnedObject, live: JSONObject) -> JSONObject | None:
        """Take off what keeps an object that is being deleted; return what is left of it.

        Raises apply/deletion-pending when somebody else's object is left in the place of ours.
        """
        if owned.ref.kind in DATA or owned.role is Role.NAMESPACE:
            return live
        left = await self._cluster.let_go(replace(owned, uid=live["metadata"]["uid"]))
        if left is not None and left["metadata"]["uid"] != owned.uid:
            raise not_gone(owned.ref, left)
        return left

    async def _once(
        self,
        record: CellRecord,
        owned: OwnedObject,
        live: JSONObject,
        before: Callable[[str], Awaitable[None]],
        *,
        isolated: bool,
        hurried: bool,
    ) -> Repair | None:
        flexible = flexible_of([other.manifest for other in record.objects], owned.manifest)
        manager = self._cluster.identity(record.namespace).manager_of(owned.role)
        # A finalizer can keep what is being deleted for ever, and it works on: its fields stay as released meanwhile.
        ending = is_ending(live)
        other = live["metadata"]["uid"] != owned.uid
        anew = other or not owned.baseline
        cause = "not written yet" if anew else drift_of(live, owned.baseline, manager, flexible)
        if other:
            cause = "never applied" if not owned.uid else f"recreated by {', '.join(managers_of(live))}"
        if not cause or (ending and other):
            return None  # the end of an object comes as an event of its own
        await before(cause)
        if other and owned.uid and owned.role is Role.NAMESPACE:
            # What is in it was made by whoever made it; only the agent itself, killed a moment later, stamps it. While
            # guards are away that is not so.
            self._check_proof()
            check_namespace(live, owned.manifest, known=False)
        elif other and owned.uid and owned.ref.kind not in DATA:
            # Somebody's object may say what cannot be changed back, or what nobody owns any more; ours is known.
            return await self._replace(record, owned, live, cause, isolated=isolated)
        try:
            return await self._take_back(_Task(record, owned, flexible, cause, anew), live, hurried=hurried)
        except CellwardError as error:
            if error.code != KUBE_IMMUTABLE.code or owned.ref.kind in DATA:
                raise
            if ending:
                raise not_gone(owned.ref, live) from error
            return await self._replace(record, owned, live, cause, isolated=isolated)

    async def _take_back(self, task: _Task, live: JSONObject, *, hurried: bool) -> Repair:
        by_content: tuple[_Way, ...] = (self._apply,) if task.anew or hurried else (self._restore, self._apply)
        refused: CellwardError | None = None
        for way in (*by_content, self._nothing):
            try:
                now = await self._claim_and_apply(task, await way(task, live))
            except CellwardError as error:
                if error.code not in _REFUSED:
                    raise
                refused = refused or error
                continue
            if task.anew:
                # The answer to a write is no baseline: it has what nobody owns, too.
                now = await self._cluster.exactly(task.record, task.owned, now)
            if task.anew or task.as_released(now):
                return Repair(self._cluster.seen(task.record, task.owned, now), task.cause)
            if refused is None:
                return await self._once_more(task, now)
            # What a refused write would have taken back is still there: no baseline, and no success.
            break
        assert refused is not None  # every way that came through returned
        raise refused

    async def _once_more(self, task: _Task, first: JSONObject) -> Repair:
        """Decide whose doing it is that the object is not as released after one whole round."""
        now = await self._claim_and_apply(task, await self._restore(task, first))
        exact = task.as_released(now)
        manager = self._cluster.identity(task.record.namespace).manager_of(task.owned.role)
        same = strip(now, task.flexible) == strip(first, task.flexible)
        if not exact and (not same or takeover(now, manager, task.flexible)):
            raise KUBE_STALE(f"somebody writes {task.owned.ref} while it is repaired", object=str(task.owned.ref))
        return Repair(self._cluster.seen(task.record, task.owned, now), task.cause, exact=exact)

    async def _claim_and_apply(self, task: _Task, live: JSONObject) -> JSONObject:
        manager = self._cluster.identity(task.record.namespace).manager_of(task.owned.role)
        operations = takeover(live, manager, task.flexible)
        if operations:
            live = await self._patch(task, operations)
        return await self._apply(task, live)

    async def _restore(self, task: _Task, live: JSONObject) -> JSONObject:
        operations = restore(live, task.owned.baseline, task.flexible)
        return await self._patch(task, operations) if operations else live

    async def _apply(self, task: _Task, live: JSONObject) -> JSONObject:
        who = self._cluster.identity(task.record.namespace)
        return await self._cluster.kube.apply(
            as_scaled(task.owned.manifest, live, task.flexible),
            manager=who.manager_of(task.owned.role),
            force=True,
            as_user=who.user_of(task.owned.role),
        )

    async def _nothing(self, task: _Task, live: JSONObject) -> JSONObject:
        """Begin by moving fields: the only order for an object of which two parts exclude each other until then.

        It is looked at again, for a way that was refused may have come half through.
        """
        return await self._cluster.look(task.owned.ref) or live

    async def _patch(self, task: _Task, operations: list[JSONObject]) -> JSONObject:
        who = self._cluster.identity(task.record.namespace)
        return await self._cluster.kube.patch_json(
            task.owned.ref,
            operations,
            manager=who.manager_of(task.owned.role),
            as_user=who.user_of(task.owned.role),
        )

    async def _replace(
        self, record: CellRecord, owned: OwnedObject, live: JSONObject, cause: str, *, isolated: bool
    ) -> Repair:
        """Somebody recreated the object in a way that cannot be changed back in place."""
        current = replace(owned, uid=live["metadata"]["uid"])
        await self._cluster.delete(record, current)
        left = await self._cluster.let_go(current)
        if left is not None:
            # Not waited for here: the other repairs of the cell would wait too. It is tried again beside them.
            raise not_gone(owned.ref, left)
        return await self._make(record, owned, cause, isolated=isolated)

    async def _make(self, record: CellRecord, owned: OwnedObject, cause: str, *, isolated: bool) -> Repair:
        if not isolated and is_workload(owned):
            raise ISOLATION_FIRST(f"{owned.ref} is not made again before the cell is isolated", object=str(owned.ref))
        return Repair(await self._cluster.write(record, replace(owned, uid="")), cause)


def is_foreign_policy(record: CellRecord, live: JSONObject) -> bool:
    """Whether a NetworkPolicy in a cell's namespace is none of ours."""
    names = {owned.ref.name for owned in record.objects if owned.role is Role.ISOLATION}
    return live["kind"] == "NetworkPolicy" and live["metadata"]["name"] not in names
