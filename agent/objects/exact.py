"""What the API server makes of exactly a manifest, so that nothing else becomes part of a baseline (V1, V10).

An apply leaves what nobody owns, and whoever may patch an object may edit its entry of managedFields away: the answer
to a write says what is there, not what was released. So the manifest is tried without effect under a name that nobody
has. Where the two differ, or the try is refused (by a quota that is used up, for one), the object is set to the
manifest by a patch for the very version that was looked at: what the API server answers to that is its own doing,
defaults and webhooks of the cluster included.
"""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Final

from agent.kube.errors import (
    KUBE_FORBIDDEN,
    KUBE_IMMUTABLE,
    KUBE_INVALID,
    KUBE_NOT_FOUND,
    KUBE_QUOTA,
    KUBE_STALE,
)
from agent.kube.interfaces import JSONObject, KubeApi
from agent.objects.identity import CellIdentity
from agent.objects.model import CellRecord, OwnedObject, Role
from agent.objects.order import DATA
from agent.objects.ownership import Flexible, as_scaled, flexible_of, restore, strip, takeover
from cellward.errors import CellwardError

_ROUNDS: Final = 5
#: A try under another name may be refused where the object itself is not.
_REFUSED: Final = frozenset(
    {KUBE_FORBIDDEN.code, KUBE_IMMUTABLE.code, KUBE_INVALID.code, KUBE_QUOTA.code, KUBE_STALE.code}
)


def is_exact(owned: OwnedObject) -> bool:
    """Whether an object is released and holds no data: of a volume nearly all is assigned once and for good."""
    return owned.role is Role.OBJECT and owned.ref.kind not in DATA


class Exact:
    """Brings one object to what the API server makes of its manifest."""

    def __init__(self, kube: KubeApi, who: CellIdentity, record: CellRecord, owned: OwnedObject) -> None:
        self._kube, self._owned = kube, owned
        self._manager, self._user = who.manager_of(owned.role), who.user_of(owned.role)
        self._flexible: Flexible | None = flexible_of([one.manifest for one in record.objects], owned.manifest)
        self._wanted: JSONObject | None = None

    async def prepare(self) -> None:
        """Find out what is to be there; before the object is written, take off what a write of it would leave on."""
        self._wanted = await self._expected()
        if not self._owned.uid or self._wanted is None or self._owned.ref.kind == "Job":
            return
        try:
            live = await self._kube.get(self._owned.ref)
            if not self._is_right(await self._apply(live, dry_run=True)):
                await self._set(live)
        except CellwardError as error:
            # Gone, or written by somebody at this moment: the write that follows and what is asked after it decide.
            if error.code not in {KUBE_NOT_FOUND.code, KUBE_STALE.code}:
                raise

    async def settle(self, live: JSONObject) -> JSONObject:
        """Return the object, as it is after a write, once nothing but its manifest is left of it.

        Raises kube/stale while somebody goes on writing it, kube/immutable-field for a job that is another one, and
        what the API server says to a patch.
        """
        if self._owned.ref.kind == "Job":
            return self._checked_job(live)
        if self._is_right(live) and not takeover(live, self._manager, self._flexible):
            return live
        for _ in range(_ROUNDS):
            try:
                now = await self._set(live)
                mine = takeover(now, self._manager, self._flexible)
                if not mine and self._strip(now) == self._strip(live):
                    return now
                live = await self._apply(await self._patch(mine) if mine else now)
            except CellwardError as error:
                if error.code != KUBE_STALE.code:
                    raise
                live = await self._kube.get(self._owned.ref)
        raise KUBE_STALE(f"somebody writes {self._owned.ref} while it is applied", object=str(self._owned.ref))

    def _is_right(self, live: JSONObject) -> bool:
        return self._wanted is not None and _comparable(self._strip(live)) == self._wanted

    def _strip(self, live: JSONObject) -> JSONObject:
        return strip(live, self._flexible)

    async def _expected(self) -> JSONObject | None:
        """Return what a new object of the manifest would be; None where nobody may try."""
        name = self._owned.ref.name
        other = f"cellward-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        manifest = copy.deepcopy(self._owned.manifest)
        manifest["metadata"]["name"] = other
        try:
            found = await self._kube.create_dry_run(manifest, manager=self._manager, as_user=self._user)
        except CellwardError as error:
            if error.code in _REFUSED and error.details.get("by") != "rbac":
                return None
            raise
        # What is derived from the name, by a webhook for one, is derived from that of the object.
        renamed: JSONObject = json.loads(json.dumps(found).replace(other, name))
        return _comparable(self._strip(renamed))

    async def _set(self, live: JSONObject) -> JSONObject:
        """Set the content to the manifest; what is not stated, the API server fills in as it does for a new object."""
        operations = restore(live, self._strip(self._owned.manifest), self._flexible)
        return await self._patch(operations) if operations else live

    async def _patch(self, operations: list[JSONObject]) -> JSONObject:
        return await self._kube.patch_json(self._owned.ref, operations, manager=self._manager, as_user=self._user)

    async def _apply(self, live: JSONObject, *, dry_run: bool = False) -> JSONObject:
        manifest = as_scaled(self._owned.manifest, live, self._flexible)
        return await self._kube.apply(manifest, manager=self._manager, force=True, dry_run=dry_run, as_user=self._user)

    def _checked_job(self, live: JSONObject) -> JSONObject:
        """What a job runs cannot be changed: one that runs anything else has to be recreated."""
        if self._wanted is not None and _pods(live) != _pods(self._wanted):
            message = f"{self._owned.ref} runs something else than was released"
            error = KUBE_IMMUTABLE(message, object=str(self._owned.ref))
            error.hint = "Somebody else made or changed the job: delete it, and Cellward makes the released one."
            raise error
        return live


def _pods(job: JSONObject) -> object:
    return job.get("spec", {}).get("template", {}).get("spec")


def _comparable(body: JSONObject) -> JSONObject:
    """Return an object without what each Service is given of its own."""
    if body["kind"] != "Service":
        return body
    own = {"clusterIP", "clusterIPs", "healthCheckNodePort"}
    spec = {name: value for name, value in body.get("spec", {}).items() if name not in own}
    ports = [{name: value for name, value in port.items() if name != "nodePort"} for port in spec.get("ports") or ()]
    return {**body, "spec": {**spec, "ports": ports}}
