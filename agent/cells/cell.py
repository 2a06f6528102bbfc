"""One cell in memory: its durable record, the health of its objects, what stands in its way, and its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent.audit.interfaces import RefusalText
from agent.kube.interfaces import ObjectRef, ref_of
from agent.link.interfaces import CellReport
from agent.objects.health import Health, health_of, is_done
from agent.objects.model import CellRecord, OwnedObject, Phase, Role
from agent.objects.order import apply_rank
from cellward.cells.conditions import CellCondition
from cellward.wire.codec import DesiredItem

_NOT_SEEN = Health("progressing", "it was not seen yet")
_GONE = Health("progressing", "it is gone")


class Cell:
    """State of one cell; changed by its own worker only, except for ``observe``.

    Attributes:
        record: the durable part.
        item: what the hub last asked for, None after a restart until it is read again.
        blocked: REFUSED, HELD or VERIFYING while the item cannot be carried out, else None.
        refusals: why.
        trouble: why what is in force is not what was deployed: it became unhealthy, or an apply does not come through.
        edges: which of its connections are closed, and why.
        repairs: repairs of drift since the agent started.
        unrepaired: what could not be brought back twice or more, and why.
        answered: what the last receipt about a deployment said, so that a retry does not repeat it.
        beside: what else isolates the cell, so that nobody can say how it is isolated.
        applying: whether a release is being written: what it changes is its business, not that of drift repair.
    """

    def __init__(self, record: CellRecord) -> None:
        self.record = record
        self.item: DesiredItem | None = None
        self.blocked: Phase | None = None
        self.refusals: tuple[RefusalText, ...] = ()
        self.trouble: tuple[RefusalText, ...] = ()
        self.edges: tuple[RefusalText, ...] = ()
        self.repairs = 0
        self.unrepaired: dict[ObjectRef, CellCondition] = {}
        self.answered: dict[str, tuple[object, ...]] = {}
        self.applying = False
        self.beside: tuple[CellCondition, ...] = ()
        self._health: dict[ObjectRef, Health] = {}
        self._version: dict[ObjectRef, tuple[str, int]] = {}
        self._gone: set[ObjectRef] = set()
        #: Uid of the last completed Job of each name: another one of that name has yet to run.
        self._done: dict[ObjectRef, str] = {}

    def take(self, item: DesiredItem) -> None:
        """Take up the newest item; answers about others than it and what is in force are forgotten."""
        self.item = item
        wanted = {item.deployment_digest, self.record.deployment_digest}
        self.answered = {digest: about for digest, about in self.answered.items() if digest in wanted}

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
        self._health.pop(ref, None)
        self._version.pop(ref, None)

    def is_done(self, owned: OwnedObject) -> bool:
        """Whether the object is a Job seen to complete: its end is no drift."""
        return owned.done or (bool(owned.uid) and self._done.get(owned.ref) == owned.uid)

    def remember_done(self) -> bool:
        """Carry completed jobs into the record; return whether that changed it."""
        changed = [owned for owned in self.record.objects if self.is_done(owned) and not owned.done]
        for owned in changed:
            self.record = self.record.with_object(replace(owned, done=True))
        return bool(changed)

    @property
    def standing(self) -> tuple[OwnedObject, ...]:
        """The objects that are to be there: without what is merely kept for its data."""
        return tuple(owned for owned in self.record.objects if not owned.retained)

    def health(self) -> Mapping[ObjectRef, Health]:
        """Return the health of every object that is to be there."""
        return {owned.ref: self._health_of(owned) for owned in self.standing}

    def unhealthy(self) -> tuple[str, ...]:
        """Return "Kind/namespace/name: reason" of everything that is not ready."""
        return tuple(f"{ref}: {health.reason}" for ref, health in self.health().items() if health.state != "ready")

    def unseen(self) -> bool:
        """Whether something that was applied was neither seen nor missed since the agent started."""
        return any(owned.uid and self._health_of(owned) is _NOT_SEEN for owned in self.standing)

    def has_failed(self) -> bool:
        """Whether waiting for health is pointless."""
        return any(health.state == "failed" for health in self.health().values())

    def has_workloads(self) -> bool:
        """Whether anything of a release was applied."""
        return any(owned.role is Role.OBJECT and owned.uid for owned in self.record.objects)

    @property
    def phase(self) -> Phase:
        """Where the cell stands."""
        if self.blocked is not None:
            return self.blocked
        if self.record.ending:
            return Phase.REMOVED if self.record.settled else Phase.APPLYING
        if not self.record.release_digest:
            return Phase.VERIFYING
        if not self.record.settled:
            return Phase.APPLYING
        if self.record.fallback_active or self.edges or self.has_failed() or self.unrepaired:
            return Phase.DEGRADED
        if not self.unhealthy():
            return Phase.PROGRESSING if self.record.going else Phase.READY
        return Phase.PROGRESSING if self.record.rollout_started else Phase.DEGRADED

    @property
    def isolation(self) -> str:
        """What is known of the cell's isolation: what was measured, unless something beside our own has a say in it."""
        return "unknown" if self.beside else self.record.isolation

    @property
    def complaints(self) -> tuple[RefusalText, ...]:
        """Everything there is to say against what was asked for and what runs."""
        return tuple(dict.fromkeys((*self.refusals, *self.trouble, *self.edges)))

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
            phase=self.phase.value,
            deployment_digest=record.deployment_digest,
            release_digest=record.release_digest,
            objects_ready=sum(1 for one in health.values() if one.state == "ready"),
            objects_total=len(health),
            isolation=self.isolation,
            refusals=self.complaints,
            drift_repairs=self.repairs,
            version=record.version,
            conditions=(*record.conditions, *self.beside, *self.open_repairs),
        )

    def _health_of(self, owned: OwnedObject) -> Health:
        if self.is_done(owned):
            return Health("ready")
        if not owned.uid:
            return Health("progressing", "it is not applied yet")
        if owned.ref in self._gone:
            return _GONE
        return self._health.get(owned.ref, _NOT_SEEN)

    def _note_done(self, ref: ObjectRef, live: Mapping[str, Any]) -> None:
        if is_done(live):
            self._done[ref] = str(live["metadata"].get("uid", ""))


def _number(version: object) -> int:
    """A resource version as a number; of one that is none, every event counts as new."""
    text = str(version or "")
    return int(text) if text.isascii() and text.isdigit() else 0
