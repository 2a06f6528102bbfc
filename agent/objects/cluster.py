"""What the engine does on the API server for one cell: look, try without effect, write, delete.

Invariants: an object that exists and is not in our inventory is never written (V16); everything of a release is written
as the cell's account, isolation, rights and namespace as the agent itself; every write returns the object with a fresh
baseline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Literal, TypeVar

from agent.isolation.interfaces import IsolationDriver
from agent.kube.errors import KUBE_CONFLICT, KUBE_FORBIDDEN, KUBE_IMMUTABLE, KUBE_NOT_FOUND, KUBE_STALE
from agent.kube.interfaces import JSONObject, KubeApi, ObjectRef, ref_of
from agent.objects.errors import (
    DATA_NOT_REPLACED,
    FOREIGN_NAMESPACE,
    FOREIGN_OBJECT,
    NAMESPACE_ENDING,
    NEEDS_REPLACE,
    NOT_GONE,
)
from agent.objects.exact import Exact, is_exact
from agent.objects.identity import CellIdentity
from agent.objects.model import CellRecord, OwnedObject, Role
from agent.objects.order import DATA
from agent.objects.ownership import applied_by, as_scaled, flexible_of, holding, loosen, managers_of, strip
from cellward.cells import labels
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer

Propagation = Literal["Background", "Foreground"]
#: How long new rights may take to be seen by every part of the API server, seconds.
RIGHTS_SECONDS: Final = 5.0
#: How long a deletion may take before the cell waits for it outside its turn, seconds.
GONE_SECONDS: Final = 20.0
_PAUSE: Final = 0.05
T = TypeVar("T")
_CELL_LABELS: Final = (labels.PROJECT, labels.CELL, labels.ENVIRONMENT)


class CellCluster:
    """The cluster as one agent writes it; ``on_seen`` is called with every object a write returned."""

    def __init__(
        self,
        kube: KubeApi,
        driver: IsolationDriver,
        timer: Timer,
        agent_namespace: str,
        on_seen: Callable[[JSONObject], None],
    ) -> None:
        self.kube = kube
        self._driver = driver
        self._timer = timer
        self._agent_namespace = agent_namespace
        self._on_seen = on_seen

    def identity(self, namespace: str) -> CellIdentity:
        """Return the accounts of a cell."""
        return CellIdentity(namespace, self._agent_namespace)

    async def look(self, ref: ObjectRef) -> JSONObject | None:
        """Return the object as it is now, or None."""
        try:
            return await self.kube.get(ref)
        except CellwardError as error:
            if error.code == KUBE_NOT_FOUND.code:
                return None
            raise

    async def claim_namespace(self, record: CellRecord, manifest: JSONObject, check_proof: Callable[[], None]) -> bool:
        """Check that the namespace is ours or free; return whether it exists.

        Raises cell/namespace-not-ours, apply/namespace-terminating, and what ``check_proof`` raises while a stamp does
        not prove whose a namespace is that is not on record.
        """
        live = await self.look(OwnedObject(manifest, Role.NAMESPACE).ref)
        if live is None:
            return False
        if is_ending(live):
            place = f"Namespace/{record.namespace}"
            raise NAMESPACE_ENDING(f"namespace {record.namespace} is being deleted", object=place)
        on_record = record.by_ref().get(ref_of(manifest))
        known = on_record is not None and on_record.uid == live["metadata"]["uid"]
        check_namespace(live, manifest, known=known)
        if not known:
            check_proof()
        return True

    async def write(self, record: CellRecord, owned: OwnedObject, *, force: bool = True) -> OwnedObject:
        """Apply one object; without force an object of somebody else is cell/object-not-ours."""
        who = self.identity(record.namespace)
        if owned.role is Role.ISOLATION:
            (live,) = await self._driver.apply([owned.manifest])
            return self.seen(record, owned, live)
        exact = Exact(self.kube, who, record, owned) if is_exact(owned) else None
        if exact is not None:
            # What a dry run was allowed, another API server that lags behind may still forbid.
            await self._with_patience(exact.prepare, self._timer.monotonic() + RIGHTS_SECONDS)
        try:
            apply = partial(
                self.kube.apply,
                await self._as_scaled(record, owned),
                manager=who.manager_of(owned.role),
                force=force,
                as_user=who.user_of(owned.role),
            )
            live = await self._with_patience(apply, self._timer.monotonic() + RIGHTS_SECONDS)
        except CellwardError as error:
            if error.code == KUBE_CONFLICT.code:
                raise _foreign(owned.ref, error.details.get("managers", "")) from error
            raise
        return self.seen(record, owned, live if exact is None else await exact.settle(live))

    async def exactly(self, record: CellRecord, owned: OwnedObject, live: JSONObject) -> JSONObject:
        """Return an object that was applied, without what is not of its manifest; raises what ``Exact`` does."""
        if not is_exact(owned):
            return live
        exact = Exact(self.kube, self.identity(record.namespace), record, replace(owned, uid=live["metadata"]["uid"]))
        await exact.prepare()
        return await exact.settle(live)

    async def _as_scaled(self, record: CellRecord, owned: OwnedObject) -> JSONObject:
        flexible = flexible_of([other.manifest for other in record.objects], owned.manifest)
        live = await self.look(owned.ref) if flexible else None
        return owned.manifest if live is None else as_scaled(owned.manifest, live, flexible)

    def seen(self, record: CellRecord, owned: OwnedObject, live: JSONObject) -> OwnedObject:
        """Return the object with uid and baseline of what the API server answered."""
        self._on_seen(live)
        flexible = flexible_of([other.manifest for other in record.objects], owned.manifest)
        return replace(owned, uid=live["metadata"]["uid"], baseline=strip(live, flexible))

    async def preflight(
        self,
        record: CellRecord,
        objects: Sequence[OwnedObject],
        yield_point: Callable[[], Awaitable[None]],
        *,
        replace_allowed: bool,
    ) -> frozenset[ObjectRef]:
        """Try all objects without effect, and yield between them; return those that must be recreated.

        Raises cell/object-not-ours, apply/needs-replace, apply/data-not-replaced and kube/*; nothing was changed then.
        """
        recreated: set[ObjectRef] = set()
        deadline = self._timer.monotonic() + RIGHTS_SECONDS
        for owned in objects:
            await yield_point()
            try:
                await self._with_patience(partial(self._try, record, owned), deadline)
            except CellwardError as error:
                if error.code != KUBE_IMMUTABLE.code:
                    raise
                _check_replace(owned.ref, error, allowed=replace_allowed)
                recreated.add(owned.ref)
        return frozenset(recreated)

    async def ours(self, record: CellRecord, owned: OwnedObject) -> OwnedObject | None:
        """Return our object with the uid it has, None when there is none of ours.

        The uid in the record is missing or old when the agent was killed a moment after it wrote the object: what our
        manager applied is taken for that. Anything else of the name is somebody else's.
        """
        live = await self.look(owned.ref)
        if live is None:
            return None
        uid = str(live["metadata"]["uid"])
        if uid != owned.uid and not applied_by(live, self.identity(record.namespace).manager_of(owned.role)):
            return None
        return replace(owned, uid=uid)

    async def is_there(self, record: CellRecord, owned: OwnedObject) -> bool:
        """Return whether our object exists; raises cell/object-not-ours for one that is not in the record.

        A manager's name is anybody's to write: an object that was made before we had it on record is none of ours,
        whoever it says applied it. One on record under another uid is ours by that name alone, for the record is
        written first; what others added to it is taken back then. Raises apply/deletion-pending for one that we let go.
        """
        live = await self.look(owned.ref)
        if live is None:
            return False
        known, going = record.by_ref().get(owned.ref), record.going_at(owned.ref)
        ours = applied_by(live, self.identity(record.namespace).manager_of(owned.role))
        if going is not None and going.uid == live["metadata"]["uid"]:
            raise not_gone(owned.ref, live)
        if known is None and ours and is_ending(live):
            raise not_gone(owned.ref, live)
        if known is None or (known.uid != live["metadata"]["uid"] and not ours):
            raise _foreign(owned.ref, ", ".join(managers_of(live)))
        return True

    async def delete(
        self, record: CellRecord, owned: OwnedObject, propagation: Propagation = "Background"
    ) -> OwnedObject | None:
        """Ask for the deletion of our object and return it with its uid; None when it was gone already.

        An object made by somebody else under the same name has another uid and is left alone. With ``Foreground`` it
        stays until what it made is gone too, for a workload its last pod.
        """
        mine = await self.ours(record, owned)
        if mine is None:
            return None
        try:
            user = self.identity(record.namespace).user_of(mine.role)
            await self.kube.delete(mine.ref, propagation=propagation, uid=mine.uid, as_user=user)
        except CellwardError as error:
            if error.code in {KUBE_NOT_FOUND.code, KUBE_STALE.code}:
                return None
            raise
        return mine

    async def wait_gone(
        self,
        owned: Sequence[OwnedObject],
        yield_point: Callable[[], Awaitable[None]] | None = None,
        *,
        seconds: float = GONE_SECONDS,
    ) -> None:
        """Return when none of these very objects exists any more; raises apply/deletion-pending.

        ``yield_point`` is awaited again and again meanwhile.
        """
        deadline = self._timer.monotonic() + seconds
        for one in owned:
            while (left := await self.let_go(one)) is not None:
                if self._timer.monotonic() > deadline:
                    raise not_gone(one.ref, left)
                await self._timer.sleep(_PAUSE)
                if yield_point is not None:
                    await yield_point()

    async def let_go(self, owned: OwnedObject) -> JSONObject | None:
        """Return what is left of an object that was deleted, None once this very one is gone.

        A finalizer that neither its manifest nor a controller of Kubernetes put on is taken off: it would keep it, and
        what it runs, for ever. Whether that is refused, is seen by what is left.
        """
        live = await self._still_there(owned)
        operations = loosen(live, owned.manifest) if live is not None and is_ending(live) else []
        if not operations:
            return live
        who = self.identity(owned.ref.namespace)
        manager, user = who.manager_of(owned.role), who.user_of(owned.role)
        with contextlib.suppress(CellwardError):
            await self.kube.patch_json(owned.ref, operations, manager=manager, as_user=user)
        return await self._still_there(owned)

    async def _still_there(self, owned: OwnedObject) -> JSONObject | None:
        live = await self.look(owned.ref)
        return live if live is not None and owned.uid == live["metadata"]["uid"] else None

    async def _try(self, record: CellRecord, owned: OwnedObject) -> None:
        who = self.identity(record.namespace)
        manager, user = who.manager_of(owned.role), who.user_of(owned.role)
        if not await self.is_there(record, owned):
            await self.kube.create_dry_run(owned.manifest, manager=manager, as_user=user)
            return
        await self.kube.apply(owned.manifest, manager=manager, force=True, dry_run=True, as_user=user)

    async def _with_patience(self, attempt: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Repeat while RBAC has not yet seen the binding made a moment ago."""
        while True:
            try:
                return await attempt()
            except CellwardError as error:
                fresh = error.code == KUBE_FORBIDDEN.code and error.details.get("by") == "rbac"
                if not fresh or self._timer.monotonic() > deadline:
                    raise
                await self._timer.sleep(_PAUSE)


def check_namespace(live: JSONObject, manifest: JSONObject, *, known: bool) -> None:
    """Raise cell/namespace-not-ours unless a live namespace is that of a cell of ours; pure.

    Ours by our record, which names this very object (``known``); otherwise by the stamp, which nobody else can put on.
    """
    found, wanted = live["metadata"].get("labels") or {}, manifest["metadata"]["labels"]
    names = _CELL_LABELS if known else (*_CELL_LABELS, labels.STAMP, labels.CLUSTER_STAMP)
    if not all(found.get(name) == wanted.get(name, "") for name in names):
        name, owners = live["metadata"]["name"], ", ".join(managers_of(live)) or "nobody known"
        raise FOREIGN_NAMESPACE(
            f"namespace {name} exists and is managed by {owners}", object=f"Namespace/{name}", managers=owners
        )


def is_ending(live: JSONObject) -> bool:
    """Whether an object was deleted and only its finalizers keep it; pure."""
    return bool(live["metadata"].get("deletionTimestamp"))


def not_gone(ref: ObjectRef, left: JSONObject) -> CellwardError:
    """Return the error that an object which was deleted is still there, and what holds it; pure."""
    held = ", ".join(holding(left))
    by = f", held by finalizer {held}" if held else ""
    return NOT_GONE(f"{ref} was deleted and is not gone yet{by}", object=str(ref))


def _foreign(ref: ObjectRef, managers: str) -> CellwardError:
    owners = managers or "nobody known"
    return FOREIGN_OBJECT(f"{ref} exists and is managed by {owners}", object=str(ref), managers=owners)


def _check_replace(ref: ObjectRef, error: CellwardError, *, allowed: bool) -> None:
    if ref.kind in DATA:
        raise DATA_NOT_REPLACED(f"{ref} holds data: {error.message}", object=str(ref)) from error
    if not allowed:
        raise NEEDS_REPLACE(error.message, object=str(ref)) from error
