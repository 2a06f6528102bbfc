"""Takes back what an earlier life of the agent left in a cell, after its own record of it was lost (V1, V10, V14).

The namespace proves whose it is by its stamp, which only the agent writes and whose key has a copy outside its state.
Nothing *in* it proves anything: labels and managedFields are written, and taken off, by whoever may write there. So
what is found is never believed, only narrowed: namespace and rights are what they always are; a NetworkPolicy that we
applied stands until the next release and is closed by quarantine, every other one goes, behind a default-deny; objects
are known by name and uid alone, so that the next release makes them what is signed or ends them, under the prune limit,
and a tombstone ends them. What has the labels alone and runs nothing is a stranger's unless a release names it. A full
spool blocks none of this.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from agent.audit.interfaces import Entry, RecorderPort
from agent.cells.cell import Cell
from agent.cells.errors import ADOPTED
from agent.cells.keeping import Keeping
from agent.kube.interfaces import JSONObject, KubeApi, ref_of
from agent.objects.cluster import CellCluster
from agent.objects.errors import FOREIGN_NAMESPACE, NAMESPACE_ENDING, NOT_GONE
from agent.objects.every import every
from agent.objects.model import CellRecord, Found, OwnedObject, Role
from agent.objects.ownership import applied_by, as_found
from agent.objects.repair import Repairer
from agent.stamps.keeper import StampKeeper
from cellward.cells.labels import cell_labels
from cellward.cells.manifests import ALLOWED
from cellward.cells.network import NetworkIntent, default_deny
from cellward.errors import CellwardError

_POLICY: Final = ("networking.k8s.io/v1", "NetworkPolicy")


class Adoption:
    """Looks once, when a cell is to be changed of which nothing is on record."""

    def __init__(
        self,
        cluster: CellCluster,
        stamps: StampKeeper,
        repairer: Repairer,
        recorder: RecorderPort,
        keeping: Keeping,
    ) -> None:
        self._cluster = cluster
        self._stamps = stamps
        self._repairer = repairer
        self._recorder = recorder
        self._keeping = keeping

    async def run(self, cell: Cell, correlation_id: str) -> bool:
        """Take what is there into the record; return whether anything was.

        Raises kube/* when the API server does not let us look, stamps/pending while a stamp proves nothing: what was
        copied meanwhile would be taken for ours, for good.
        """
        record = cell.record
        if record.objects or not await self.proves(record):
            return False
        found = [owned async for owned in self._ground(cell)] + [owned async for owned in self._released(cell)]
        found += await self._shut_behind(record, found)
        await self._remove_strangers(record, found, correlation_id)
        for owned in found:
            record = record.with_object(owned)
        entry = Entry(
            "state.finding", f"Cell/{record.namespace}", "finding", code=ADOPTED.code, reason=ADOPTED.title,
            correlation_id=correlation_id, details={"count": str(len(found)), "namespace": record.namespace},
        )  # fmt: skip
        await self._keeping.save_counted(cell, record, entry)
        return True

    async def proves(self, record: CellRecord) -> bool:
        """Whether there is a namespace that is provably of this cell; whose it is otherwise, the rollout says."""
        wanted, check_proof = self._namespace(record), self._stamps.check_proof
        try:
            return await self._cluster.claim_namespace(record, wanted, check_proof)
        except CellwardError as error:
            if error.code in {FOREIGN_NAMESPACE.code, NAMESPACE_ENDING.code}:
                return False
            raise

    async def _ground(self, cell: Cell) -> AsyncIterator[OwnedObject]:
        """Yield namespace and rights as they stand; the watches saw them before anybody asked for them."""
        record = cell.record
        who = self._cluster.identity(record.namespace)
        namespace = OwnedObject(self._namespace(record), Role.NAMESPACE)
        for wanted in (namespace, *who.rights(cell_labels(*record.key))):
            live = await self._cluster.look(wanted.ref)
            if live is not None:
                cell.observe(live)
                # Without our entry it is not known how much of it is ours: drift repair writes it again.
                known = applied_by(live, who.manager_of(wanted.role))
                yield replace(wanted, uid=live["metadata"]["uid"], baseline=as_found(live) if known else {})

    async def _released(self, cell: Cell) -> AsyncIterator[OwnedObject]:
        """Yield isolation and objects of an earlier release, each read by itself: nobody bounds how large they are."""
        record, cluster = cell.record, self._cluster
        who = cluster.identity(record.namespace)
        for api_version, kind in sorted({*ALLOWED, _POLICY}):
            role = Role.ISOLATION if (api_version, kind) == _POLICY else Role.OBJECT
            async for seen in labelled(cluster.kube, record, api_version, kind):
                applied = applied_by(seen, who.manager_of(role))
                live = await cluster.look(ref_of(seen)) if applied or role is Role.OBJECT else None
                if live is None:
                    continue
                cell.observe(live)
                if role is Role.ISOLATION:
                    body = as_found(live)
                    yield OwnedObject(body, role, uid=live["metadata"]["uid"], baseline=body)
                else:
                    yield found_object(live, "entry" if applied else "labels")

    async def _shut_behind(self, record: CellRecord, found: list[OwnedObject]) -> list[OwnedObject]:
        """Have a default-deny that is ours: one that is not goes with the other strangers, and would open the cell."""
        deny = OwnedObject(default_deny(NetworkIntent(*record.key, ())), Role.ISOLATION)
        if any(owned.ref == deny.ref for owned in found):
            return []
        live = await self._cluster.look(deny.ref)
        if live is None:
            return [await self._cluster.write(record, deny)]
        repair = await self._repairer.check(record, replace(deny, uid=live["metadata"]["uid"]))
        return [] if repair is None else [repair.owned]

    def _namespace(self, record: CellRecord) -> JSONObject:
        metadata = {"name": record.namespace, "labels": cell_labels(*record.key)}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        return self._stamps.require().restamp(namespace)

    async def _remove_strangers(self, record: CellRecord, found: list[OwnedObject], correlation_id: str) -> None:
        ours = {owned.ref for owned in found}

        async def remove(live: JSONObject) -> None:
            ref = ref_of(live)
            try:
                removed = await self._repairer.remove_foreign_policy(ref, live["metadata"]["uid"])
            except CellwardError as error:
                if error.code != NOT_GONE.code:
                    raise
                return  # one that something keeps must not keep us from closing the cell
            if removed:
                reason = "a policy that is not of this cell"
                await self._recorder.record_or_count(
                    Entry("drift.repair", str(ref), "done", reason=reason, correlation_id=correlation_id)
                )

        policies = self._cluster.kube.list_metadata(*_POLICY, namespace=record.namespace)
        await every([live async for live in policies if ref_of(live) not in ours], remove)


async def labelled(kube: KubeApi, record: CellRecord, api_version: str, kind: str) -> AsyncIterator[JSONObject]:
    """Yield the metadata of what has the labels of a cell, in its namespace."""
    selector = ",".join(f"{name}={value}" for name, value in sorted(cell_labels(*record.key).items()))
    async for seen in kube.list_metadata(api_version, kind, namespace=record.namespace, label_selector=selector):
        yield seen


def found_object(live: JSONObject, found: Found) -> OwnedObject:
    """Return an object of which no more is known than that it is there."""
    ref = ref_of(live)
    name = {"apiVersion": ref.api_version, "kind": ref.kind, "metadata": {"name": ref.name, "namespace": ref.namespace}}
    return OwnedObject(name, Role.OBJECT, uid=live["metadata"]["uid"], found=found)
