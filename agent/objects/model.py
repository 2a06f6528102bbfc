"""What the engine knows of a cell: its phase, what runs, and what is owned.

``CellRecord`` is the durable shape, one JSON document per namespace in ``StateDb.inventory``. It holds the released
manifests themselves, so that drift is repaired after a restart without the hub, without policy and without rendering
again (V1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Literal

from agent.isolation import kept
from agent.isolation.interfaces import Evidence
from agent.kube.interfaces import JSONObject, ObjectRef, ref_of
from cellward.cells.conditions import CellCondition
from cellward.cells.edges import Need, Offer
from cellward.documents.names import CellKey

#: Why an object is made again.
DELETED: Final = "deleted"
#: Version of the durable shape.
RECORD_SCHEMA = 1


class Role(StrEnum):
    """Why an object belongs to a cell; says who writes it and what may end it."""

    NAMESPACE = "namespace"
    ISOLATION = "isolation"
    RIGHTS = "rights"
    OBJECT = "object"


#: What says that an object is of a cell: an entry of managedFields in our name as well, or labels alone. Whoever may
#: write in the cell can make both, and take both away.
Found = Literal["", "entry", "labels"]


@dataclass(frozen=True, slots=True)
class OwnedObject:
    """One object of a cell.

    Attributes:
        manifest: the released state, as applied.
        role: why it belongs to the cell.
        uid: uid on the API server, empty while it was never applied.
        baseline: what the API server made of the manifest (``ownership.strip``), empty while it was never applied.
        retained: no longer released, but kept because it holds data.
        opened: of isolation in quarantine, what was released; ``manifest`` is then the closed form.
        done: a Job that completed; it is not made again when it goes.
        found: of an object of a release that was found without a record of it: what says that it is of this cell.
            Nobody knows what was released of it: ``manifest`` is no more than its name, and it is never repaired. The
            next release makes it what is signed, or ends it.
        unfinished: brought by a release that was never wholly applied: its end takes away nothing that was released
            before, so the prune limit does not count it.
    """

    manifest: JSONObject
    role: Role
    uid: str = ""
    baseline: JSONObject = field(default_factory=dict)
    retained: bool = False
    opened: JSONObject = field(default_factory=dict)
    done: bool = False
    found: Found = ""
    unfinished: bool = False

    @property
    def ref(self) -> ObjectRef:
        """Which object."""
        return ref_of(self.manifest)


@dataclass(frozen=True, slots=True)
class CellRecord:
    """What is durable about a cell on this cluster.

    Attributes:
        deployment_digest: the accepted Deployment or Tombstone, empty before the first.
        release_digest: what runs.
        version: version of the release that runs.
        settled_release: the release that last became healthy here, empty before the first and after an end.
        settled: True when every object was applied; False says that an apply was interrupted.
        ending: set by a Tombstone: ``cell`` keeps data and namespace, ``all`` does not.
        fallback_active: True when the fallback release runs instead of the deployment's own.
        quarantined: True when the hub's quarantine is in force.
        unrecorded: True while that quarantine was begun and is not on record yet.
        isolation: last measured state of isolation.
        proof: that measurement; None before the first.
        rollout_started: RFC 3339 time at which the present rollout began, empty when it settled.
        deadline_seconds: how long the rollout may take.
        conditions: what the release that runs asks for and this cluster cannot do.
        offers: endpoints of the release that runs, for the connections of others.
        needs: its connections to other cells, as they were signed.
        shut: names of its edges that are closed, because the other side offers something else.
        going: what was deleted and is not gone yet; no part of ``objects`` any more.
    """

    project: str
    cell: str
    environment: str
    namespace: str
    deployment_digest: str = ""
    release_digest: str = ""
    version: str = ""
    settled_release: str = ""
    settled: bool = False
    fallback_active: bool = False
    ending: str = ""
    quarantined: bool = False
    unrecorded: bool = False
    isolation: str = "unknown"
    rollout_started: str = ""
    deadline_seconds: int = 600
    objects: tuple[OwnedObject, ...] = ()
    conditions: tuple[CellCondition, ...] = ()
    offers: tuple[Offer, ...] = ()
    needs: tuple[Need, ...] = ()
    shut: tuple[str, ...] = ()
    going: tuple[OwnedObject, ...] = ()
    proof: Evidence | None = None

    @property
    def key(self) -> CellKey:
        """What it is about."""
        return CellKey(self.project, self.cell, self.environment)

    def by_ref(self) -> Mapping[ObjectRef, OwnedObject]:
        """Return the objects by reference."""
        return {owned.ref: owned for owned in self.objects}

    def with_object(self, owned: OwnedObject) -> CellRecord:
        """Return the record with one object replaced or added."""
        kept = tuple(owned if other.ref == owned.ref else other for other in self.objects)
        if owned.ref not in self.by_ref():
            kept = (*kept, owned)
        return replace(self, objects=kept)

    def applied(self, now: str) -> CellRecord:
        """Return the record once every object of the release is applied, ``now`` as RFC 3339 time.

        What is finished after its rollout was given up has its time to become healthy, like anything else.
        """
        objects = tuple(replace(owned, unfinished=False) if owned.unfinished else owned for owned in self.objects)
        return replace(self, settled=True, objects=objects, rollout_started=self.rollout_started or now)

    def without(self, ref: ObjectRef) -> CellRecord:
        """Return the record without one object."""
        return replace(self, objects=tuple(owned for owned in self.objects if owned.ref != ref))

    def going_at(self, ref: ObjectRef) -> OwnedObject | None:
        """Return what was deleted there and is not gone yet."""
        return next((owned for owned in self.going if owned.ref == ref), None)

    def with_going(self, owned: OwnedObject) -> CellRecord:
        """Return the record with an object that was deleted no longer among its objects, but on record until gone."""
        others = self.without_going(owned.ref).going
        return replace(self.without(owned.ref), going=(*others, owned))

    def without_going(self, ref: ObjectRef) -> CellRecord:
        """Return the record without what was deleted there."""
        return replace(self, going=tuple(owned for owned in self.going if owned.ref != ref))

    def to_json(self) -> JSONObject:
        """Return the durable shape."""
        body = asdict(replace(self, proof=None))
        body["proof"] = None if self.proof is None else kept.to_json(self.proof)
        for name, found in (("objects", self.objects), ("going", self.going)):
            body[name] = [{**asdict(owned), "role": owned.role.value} for owned in found]
        return {"schema": RECORD_SCHEMA, **body}


def record_from_json(value: Mapping[str, Any]) -> CellRecord:
    """Read the durable shape; an unknown schema raises ValueError, the state file is ours alone."""
    if value.get("schema") != RECORD_SCHEMA:
        raise ValueError(f"inventory has schema {value.get('schema')!r}")
    objects, going = _objects(value["objects"]), _objects(value.get("going") or ())
    conditions = tuple(CellCondition(**found) for found in value.get("conditions") or ())
    offers = tuple(Offer(**found) for found in value.get("offers") or ())
    needs = tuple(Need(**{**found, "offer": Offer(**found["offer"])}) for found in value.get("needs") or ())
    composed = {"objects", "conditions", "offers", "needs", "shut", "going", "proof"}
    fields = {name: value[name] for name in CellRecord.__dataclass_fields__.keys() - composed if name in value}
    shut = tuple(value.get("shut") or ())
    proof = kept.from_json(value["proof"]) if value.get("proof") else None
    return CellRecord(
        **fields,
        objects=objects,
        conditions=conditions,
        offers=offers,
        needs=needs,
        shut=shut,
        going=going,
        proof=proof,
    )


def _objects(found: Iterable[Mapping[str, Any]]) -> tuple[OwnedObject, ...]:
    return tuple(OwnedObject(**{**owned, "role": Role(owned["role"])}) for owned in found)
