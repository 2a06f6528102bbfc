"""Takes back what an earlier life of the agent left in a cell, after its own record of it was lost (V1, V10, V14).

The namespace proves whose it is by its stamp, which only the agent writes and whose key has a copy outside its state.
What a manager of ours wrote in it is taken into the record as it stands, so that quarantine closes it, the next release
prunes it under the brake, and a tombstone ends it; a NetworkPolicy of anybody else goes at once. A full spool blocks
none of this.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from agent.applier.cell import Cell
from agent.applier.errors import ADOPTED, FOREIGN_NAMESPACE, NAMESPACE_ENDING, NOT_GONE
from agent.applier.every import every
from agent.applier.model import CellRecord, OwnedObject, Role
from agent.applier.ownership import applied_by, as_found
from agent.applier.parts import Parts
from agent.audit.interfaces import Entry
from agent.kube.interfaces import JSONObject, ref_of
from cellward.cells.labels import cell_labels
from cellward.cells.manifests import ALLOWED
from cellward.errors import CellwardError

_POLICY: Final = ("networking.k8s.io/v1", "NetworkPolicy")


class Adoption:
    """Looks once, when a cell is to be changed of which nothing is on record."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def run(self, cell: Cell, correlation_id: str) -> bool:
        """Take what is there into the record; return whether anything was.

        Raises kube/* when the API server does not let us look, stamps/pending while a stamp proves nothing: what was
        copied meanwhile would be taken for ours, for good.
        """
        record = cell.record
        if record.objects or not await self._is_ours(record):
            return False
        found = [owned async for owned in self._ground(cell)] + [owned async for owned in self._released(cell)]
        await self._remove_strangers(record, found, correlation_id)
        if not found:
            return False
        for owned in found:
            record = record.with_object(owned)
        entry = Entry(
            "state.finding", f"Cell/{record.namespace}", "finding", code=ADOPTED.code, reason=ADOPTED.title,
            correlation_id=correlation_id, details={"count": str(len(found)), "namespace": record.namespace},
        )  # fmt: skip
        await self._parts.save_counted(cell, record, entry)
        return True

    async def _is_ours(self, record: CellRecord) -> bool:
        """Whether there is a namespace of ours; whose it is otherwise, the rollout says."""
        wanted, check_proof = self._namespace(record), self._parts.stamps.check_proof
        try:
            return await self._parts.cluster.claim_namespace(record, wanted, check_proof)
        except CellwardError as error:
            if error.code in {FOREIGN_NAMESPACE.code, NAMESPACE_ENDING.code}:
                return False
            raise

    async def _ground(self, cell: Cell) -> AsyncIterator[OwnedObject]:
        """Yield namespace and rights as they stand; the watches saw them before anybody asked for them."""
        record = cell.record
        who = self._parts.cluster.identity(record.namespace)
        namespace = OwnedObject(self._namespace(record), Role.NAMESPACE)
        for wanted in (namespace, *who.rights(cell_labels(*record.key))):
            live = await self._parts.cluster.look(wanted.ref)
            if live is not None and applied_by(live, who.manager_of(wanted.role)):
                cell.observe(live)
                yield replace(wanted, uid=live["metadata"]["uid"], baseline=as_found(live))

    async def _released(self, cell: Cell) -> AsyncIterator[OwnedObject]:
        """Yield isolation and objects of an earlier release."""
        record = cell.record
        who, kube = self._parts.cluster.identity(record.namespace), self._parts.cluster.kube
        labels = cell_labels(*record.key)
        selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        for api_version, kind in sorted({*ALLOWED, _POLICY}):
            role = Role.ISOLATION if (api_version, kind) == _POLICY else Role.OBJECT
            for live in await kube.list(api_version, kind, namespace=record.namespace, label_selector=selector):
                if applied_by(live, who.manager_of(role)):
                    cell.observe(live)
                    body = as_found(live)
                    yield OwnedObject(body, role, uid=live["metadata"]["uid"], baseline=body)

    def _namespace(self, record: CellRecord) -> JSONObject:
        metadata = {"name": record.namespace, "labels": cell_labels(*record.key)}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        return self._parts.stamps.require().restamp(namespace)

    async def _remove_strangers(self, record: CellRecord, found: list[OwnedObject], correlation_id: str) -> None:
        ours = {owned.ref for owned in found}

        async def remove(live: JSONObject) -> None:
            ref = ref_of(live)
            try:
                removed = await self._parts.repairer.remove_foreign_policy(ref, live["metadata"]["uid"])
            except CellwardError as error:
                if error.code != NOT_GONE.code:
                    raise
                return  # one that something keeps must not keep us from closing the cell
            if removed:
                reason = "a policy that is not of this cell"
                await self._parts.recorder.record_or_count(
                    Entry("drift.repair", str(ref), "done", reason=reason, correlation_id=correlation_id)
                )

        policies = await self._parts.cluster.kube.list(*_POLICY, namespace=record.namespace)
        await every([live for live in policies if ref_of(live) not in ours], remove)
