"""One cell in memory: its durable record, its life, the health of its objects, and its report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent.audit.interfaces import RefusalText
from agent.cells.machine.events import Outlook
from agent.cells.machine.phase import Phase, phase_of
from agent.cells.machine.state import Kept, Life, Stage
from agent.isolation.errors import NOT_ENFORCED
from agent.isolation.interfaces import Evidence
from agent.kube.interfaces import ObjectRef, ref_of
from agent.link.interfaces import CellReport
from agent.objects.errors import START_GATE_PENDING
from agent.objects.health import Health, health_of, is_done
from agent.objects.model import CellRecord, OwnedObject, Role
from agent.objects.order import apply_rank
from agent.objects.pods import trouble_of
from cellward.cells.conditions import CellCondition
from cellward.cells.errors import NOTHING_TO_TRY
from cellward.cells.gated import is_ungated
from cellward.cells.labels import COMPONENT
from cellward.cells.network import NetworkIntent

_NOT_SEEN = Health("progressing", "it was not seen yet")
_GONE = Health("progressing", "it is gone")


class Cell:
    """State of one cell; changed by its own worker only, except for ``observe``.

    Attributes:
        record: the durable part.
        life: the machine's part, as of its last step.
        repairs: repairs of drift since the agent started.
        unrepaired: what could not be brought back twice or more, and why.
        beside: what else isolates the cell, so that nobody can say how it is isolated.
        pods: why pods of the cell do not run, as they were seen last.
        gated: whether the installation asks for a start gate.
        start_seconds: how long the pods seen last reached what is forbidden to them, as their start gates found.
        network: the accepted intent, once it is known since the start.
        evidence: what was measured last, bounded; the record has it as of the last turn.
    """

    def __init__(self, record: CellRecord) -> None:
        self.record = record
        self.life = Life(kept_of(record))
        self.repairs = 0
        self.unrepaired: dict[ObjectRef, CellCondition] = {}
        self.beside: tuple[CellCondition, ...] = ()
        self.pods: tuple[CellCondition, ...] = ()
        self.gated = False
        self.start_seconds: float | None = None
        self.network: NetworkIntent | None = None
        self.evidence: Evidence | None = record.proof
        #: Workloads that are not well, each with why it may make no pods.
        self._trouble: dict[ObjectRef, str] = {}
        #: What each quota of the namespace allows, and how much of it is used.
        self._quotas: dict[str, str] = {}
        self._health: dict[ObjectRef, Health] = {}
        self._version: dict[ObjectRef, tuple[str, int]] = {}
        self._gone: set[ObjectRef] = set()
        #: Uid of the last completed Job of each name: another one of that name has yet to run.
        self._done: dict[ObjectRef, str] = {}

    @property
    def applying(self) -> bool:
        """Whether a release is being written: what it changes is its business, not that of drift repair."""
        return self.life.work is not None and self.life.work.stage is Stage.APPLYING

    @property
    def present(self) -> Life:
        """The life with the record as it is now, also in the middle of a step."""
        return replace(self.life, kept=kept_of(self.record))

    @property
    def ground(self) -> object:
        """What refusals by inventory and isolation are judged on."""
        return frozenset((owned.ref, owned.uid) for owned in self.record.objects), self.isolation

    @property
    def quota(self) -> object:
        """What refusals by quotas are judged on."""
        return frozenset(self._quotas.items())

    def saw_quota(self, live: Mapping[str, Any], *, gone: bool) -> bool:
        """Take note of a ResourceQuota of the namespace; return whether a refusal by one may be another now."""
        before = self.quota
        name, status = live["metadata"]["name"], live.get("status") or {}
        if gone:
            self._quotas.pop(name, None)
        else:
            hard = (live.get("spec") or {}).get("hard")
            self._quotas[name] = json.dumps([hard, status.get("hard"), status.get("used")], sort_keys=True)
        return self.quota != before and self.life.obstacle is not None

    def outlook(self, edges: tuple[RefusalText, ...] = (), *, edges_differ: bool = False) -> Outlook:
        """Return what the cluster shows of its objects."""
        return replace(self._outlook(self.health()), edges=edges, edges_differ=edges_differ)

    def _outlook(self, health: Mapping[ObjectRef, Health]) -> Outlook:
        return Outlook(
            unhealthy=_unhealthy(health, self.pods),
            failed=any(one.state == "failed" for one in health.values()),
            # What was never applied says so itself, so that this is of what has a uid.
            unseen=any(one is _NOT_SEEN for one in health.values()),
            jobs_done=bool(self._newly_done()),
            unrepaired=bool(self.unrepaired),
        )

    def observe(self, live: Mapping[str, Any]) -> bool:
        """Take note of an object as it is now; return whether its health changed. What is older is ignored.

        Answers to our own requests and watch events come in any order. A status moves the resource version alone, so
        the generation cannot tell which is newer; versions of one object may be compared as numbers (KEP-5504).
        """
        ref, metadata = ref_of(live), live["metadata"]
        uid, version = str(metadata.get("uid", "")), _number(metadata.get("resourceVersion"))
        seen_uid, seen_version = self._version.get(ref, ("", 0))
        if uid == seen_uid and version < seen_version:
            return False
        self._version[ref] = (uid, version)
        self._gone.discard(ref)
        self._note_done(ref, live)
        self._note_trouble(ref, live)
        health = health_of(live)
        changed = self._health.get(ref) != health
        self._health[ref] = health
        return changed

    def forget(self, ref: ObjectRef, last: Mapping[str, Any] | None = None) -> None:
        """Take note that an object is gone; ``last`` is how it was then, if that is known.

        That it completed stays known: a Job that goes at once, by its time to live, must not run again.
        """
        if last is not None:
            self._note_done(ref, last)
        self._gone.add(ref)
        self._trouble.pop(ref, None)
        self._health.pop(ref, None)
        self._version.pop(ref, None)

    @property
    def troubled(self) -> Mapping[ObjectRef, str]:
        """Workloads at whose pods somebody has to look, each with why it may make none."""
        return {owned.ref: self._trouble[owned.ref] for owned in self.standing if owned.ref in self._trouble}

    @property
    def troubled_or_told(self) -> Mapping[ObjectRef, str]:
        """Those, and of which something is said already: what crashes now and then is well in between."""
        told = {found.subject for found in self.pods}
        return {**{owned.ref: "" for owned in self.standing if str(owned.ref) in told}, **self.troubled}

    def is_done(self, owned: OwnedObject) -> bool:
        """Whether the object is a Job seen to complete: its end is no drift."""
        return owned.done or (bool(owned.uid) and self._done.get(owned.ref) == owned.uid)

    def remember_done(self) -> bool:
        """Carry completed jobs into the record; return whether that changed it."""
        changed = self._newly_done()
        for owned in changed:
            self.record = self.record.with_object(replace(owned, done=True))
        return bool(changed)

    def _newly_done(self) -> list[OwnedObject]:
        if not self._done:
            return []
        return [owned for owned in self.record.objects if self.is_done(owned) and not owned.done]

    @property
    def standing(self) -> tuple[OwnedObject, ...]:
        """The objects that are to be there: without what is merely kept for its data."""
        return tuple(owned for owned in self.record.objects if not owned.retained)

    def health(self) -> Mapping[ObjectRef, Health]:
        """Return the health of every object that is to be there."""
        return {owned.ref: self._health_of(owned) for owned in self.standing}

    def has_workloads(self) -> bool:
        """Whether anything of a release was applied."""
        return any(owned.role is Role.OBJECT and owned.uid for owned in self.record.objects)

    @property
    def phase(self) -> Phase:
        """Where the cell stands."""
        return phase_of(self.present, self.outlook())

    @property
    def isolation(self) -> str:
        """What is known of the cell's isolation: what was measured, unless something beside our own has a say in it."""
        if self.beside:
            return "unknown"
        return self.record.isolation if self.evidence is None else self.evidence.state

    @property
    def proof(self) -> tuple[CellCondition, ...]:
        """Say that packets got through that must not."""
        if self.evidence is None or self.evidence.state != "not-enforced":
            return ()
        return (CellCondition(NOT_ENFORCED.code, f"Namespace/{self.record.namespace}", self.evidence.text[:1000]),)

    @property
    def ungated(self) -> tuple[CellCondition, ...]:
        """Say that what runs was deployed before the installation asked for a start gate."""
        told = {one.subject for one in self.record.conditions if one.code == NOTHING_TO_TRY.code}
        found = [
            owned
            for owned in self.standing
            if self.gated
            and owned.uid
            and is_ungated(owned.manifest)
            and f"spec.components.{owned.manifest['metadata']['labels'].get(COMPONENT)}" not in told
        ]
        if not found:
            return ()
        text = f"{found[0].ref.kind} {found[0].ref.name} was deployed before the start gate was asked for"
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return (CellCondition(START_GATE_PENDING.code, f"Namespace/{self.record.namespace}", text + more),)

    @property
    def open_repairs(self) -> tuple[CellCondition, ...]:
        """What could not be brought back, what others stand on first."""
        found = sorted(self.unrepaired.items(), key=lambda one: (apply_rank(one[0].kind), one[0]))
        return tuple(condition for _, condition in found)

    def report(self) -> CellReport:
        """Return the state as the hub gets it."""
        record, health = self.record, self.health()
        return CellReport(
            project=record.project,
            cell=record.cell,
            environment=record.environment,
            phase=phase_of(self.present, self._outlook(health)).value,
            deployment_digest=record.deployment_digest,
            release_digest=record.release_digest,
            objects_ready=sum(1 for one in health.values() if one.state == "ready"),
            objects_total=len(health),
            isolation=self.isolation,
            refusals=self.life.complaints,
            drift_repairs=self.repairs,
            version=record.version,
            proof=self.evidence,
            conditions=(*record.conditions, *self.beside, *self.proof, *self.ungated, *self.open_repairs, *self.pods),
        )

    def _health_of(self, owned: OwnedObject) -> Health:
        if self.is_done(owned):
            return Health("ready")
        if not owned.uid:
            return Health("progressing", "it is not applied yet")
        if owned.ref in self._gone:
            return _GONE
        return self._health.get(owned.ref, _NOT_SEEN)

    def _note_trouble(self, ref: ObjectRef, live: Mapping[str, Any]) -> None:
        why = trouble_of(live)
        if why is None:
            self._trouble.pop(ref, None)
        else:
            self._trouble[ref] = why

    def _note_done(self, ref: ObjectRef, live: Mapping[str, Any]) -> None:
        if is_done(live):
            self._done[ref] = str(live["metadata"].get("uid", ""))


def kept_of(record: CellRecord) -> Kept:
    """Return what the machine goes by of a record; pure."""
    return Kept(
        key=record.key,
        deployment=record.deployment_digest,
        release=record.release_digest,
        settled_release=record.settled_release,
        applied=record.settled,
        ending=record.ending,
        fallback=record.fallback_active,
        quarantined=record.quarantined,
        rollout_started=record.rollout_started,
        deadline=record.deadline_seconds,
        going=len(record.going),
    )


def _unhealthy(health: Mapping[ObjectRef, Health], pods: tuple[CellCondition, ...]) -> tuple[str, ...]:
    """Say of each object that is not ready why, and of a workload what its pods say first."""
    why = {found.subject: f" ({found.message})" for found in reversed(pods)}
    return tuple(f"{ref}: {one.reason}{why.get(str(ref), '')}" for ref, one in health.items() if one.state != "ready")


def _number(version: object) -> int:
    """A resource version as a number; of one that is none, every event counts as new."""
    text = str(version or "")
    return int(text) if text.isascii() and text.isdigit() else 0
