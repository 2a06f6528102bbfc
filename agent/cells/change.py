"""One deployment on its way: what was asked, verified and rendered, and what it does to the inventory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.audit.interfaces import Entry
from agent.cells.cell import Cell
from agent.cells.plan import Prune, check_brake, plan_prune
from agent.cells.sides import Offers, refused_edges, shut
from agent.kube.interfaces import JSONObject, ObjectRef, ref_of
from agent.objects.cluster import CellCluster
from agent.objects.model import OwnedObject, Role
from agent.stamps.keeper import StampKeeper
from agent.verify.intake import VerifiedCell
from cellward.cells import labels
from cellward.cells.edges import needs_of
from cellward.cells.gate import StartGate
from cellward.cells.gated import keep_gate
from cellward.cells.model import CellSpec
from cellward.cells.render import RenderedCell, render
from cellward.cells.spec import spec_of
from cellward.cells.stamps import Stamps
from cellward.documents.facts import ClusterFacts
from cellward.documents.model import Release
from cellward.wire.codec import DesiredItem


@dataclass(frozen=True, slots=True)
class Change:
    """A deployment and what it changes; ``shut`` are edges that stay closed, ``fallback`` for a rollback."""

    item: DesiredItem
    verified: VerifiedCell
    rendered: RenderedCell
    objects: tuple[OwnedObject, ...]
    prune: Prune
    correlation_id: str
    spec: CellSpec
    shut: tuple[str, ...] = ()
    fallback: bool = False

    @property
    def details(self) -> dict[str, str]:
        """What every record about it says."""
        return {
            "project": self.item.project,
            "cell": self.item.cell,
            "environment": self.item.environment,
            "deploymentDigest": self.verified.deployment.digest,
            "releaseDigest": self.verified.release.digest,
            "version": self.verified.release.document.version,
        }

    def entry(
        self,
        action: str,
        decision: str,
        *,
        subject: str = "",
        reason: str = "",
        details: Mapping[str, str] | None = None,
    ) -> Entry:
        """Return the record of a step of it."""
        return Entry(
            action,
            subject or f"Cell/{self.rendered.namespace}",
            decision,
            reason=reason,
            correlation_id=self.correlation_id,
            revision=self.item.revision,
            details={**self.details, **(details or {})},
        )


class Planner:
    """Says what a deployment would change on this cluster; writes nothing.

    Args:
        cluster: where it would.
        stamps: of the cluster.
        facts: returns its facts.
        offers: what other cells offer.
        gate: what pods begin with here, if anything.
    """

    def __init__(
        self,
        cluster: CellCluster,
        stamps: StampKeeper,
        facts: Callable[[], ClusterFacts],
        offers: Offers,
        gate: StartGate | None = None,
    ) -> None:
        self._cluster = cluster
        self._stamps = stamps
        self._facts = facts
        self._offers = offers
        self._gate = gate

    def plan(
        self, cell: Cell, item: DesiredItem, verified: VerifiedCell, correlation_id: str, *, fallback: bool
    ) -> Change:
        """Render a deployment and compare it with what stands; raises apply/prune-needs-confirmation (V14)."""
        stamps = self._stamps.require()
        known = cell.record.by_ref()
        rendered = self._render(verified.release.document, item.environment, stamps, known)
        spec = spec_of(verified.release.document)
        shut_edges = tuple(sorted(refused_edges(needs_of(spec), item.environment, self._offers)))
        wanted = [
            OwnedObject(rendered.namespace_object, Role.NAMESPACE),
            *_isolation(rendered, shut_edges),
            *self._cluster.identity(rendered.namespace).rights(_cell_labels(rendered.namespace_object)),
            *(OwnedObject(manifest, Role.OBJECT) for manifest in rendered.objects),
        ]
        objects = tuple(carry_over(owned, known) for owned in wanted)
        prune = plan_prune(cell.record, [owned.ref for owned in objects])
        if not fallback:
            limit, confirmed = verified.policy.binding_set.prune_limit, verified.deployment.document.confirm_prune
            check_brake(cell.record, prune, signed_limit=limit, confirmed=confirmed)
            if verified.fallback is not None and cell.record.deployment_digest != verified.deployment.digest:
                # The rollback is asked about before it is needed, by what stands now; what goes beyond that is only
                # what the Deployment itself brought. In a rollback there is nobody to confirm anything.
                back = self._render(verified.fallback.document, item.environment, stamps, known)
                left = plan_prune(cell.record, _refs(back))
                check_brake(cell.record, left, signed_limit=limit, confirmed=confirmed, what="the fallback")
        return Change(item, verified, rendered, objects, prune, correlation_id, spec, shut_edges, fallback)

    def _render(
        self, release: Release, environment: str, stamps: Stamps, known: Mapping[ObjectRef, OwnedObject]
    ) -> RenderedCell:
        """Render a release; a Job that stands and differs in nothing but its start gate stays as it is."""
        rendered = render(release, self._facts(), environment, stamps, self._gate)
        objects = []
        for manifest in rendered.objects:
            old = known.get(ref_of(manifest))
            objects.append(manifest if old is None else keep_gate(manifest, old.manifest))
        return replace(rendered, objects=tuple(objects))


def carry_over(owned: OwnedObject, known: Mapping[ObjectRef, OwnedObject]) -> OwnedObject:
    """Give a manifest the uid of the object that exists already, and its baseline while nothing changes.

    The old baseline of a changed manifest would make the object look as released when its write was interrupted. A
    completed job runs again if it changed.
    """
    old = known.get(owned.ref)
    if old is None:
        return replace(owned, unfinished=True)
    same = old.manifest == owned.manifest
    return replace(
        owned, uid=old.uid, baseline=old.baseline if same else {}, done=old.done and same, unfinished=old.unfinished
    )


def _isolation(rendered: RenderedCell, edges: Sequence[str]) -> Iterable[OwnedObject]:
    for policy in rendered.isolation:
        manifest, opened = shut(policy, edges)
        yield OwnedObject(manifest, Role.ISOLATION, opened=opened)


def _refs(rendered: RenderedCell) -> list[ObjectRef]:
    return [OwnedObject(one, Role.OBJECT).ref for one in (*rendered.isolation, *rendered.objects)]


def _cell_labels(namespace: JSONObject) -> dict[str, str]:
    found: Mapping[str, str] = namespace["metadata"]["labels"]
    return {name: found[name] for name in (labels.PROJECT, labels.CELL, labels.ENVIRONMENT)}
