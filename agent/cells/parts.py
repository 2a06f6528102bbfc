"""What every step of the engine needs, made once by the composition root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.audit.interfaces import RecorderPort
from agent.cells.documents import KeptDocuments
from agent.cells.keeping import Keeping
from agent.cells.revoked import Revoked
from agent.isolation.interfaces import Prober
from agent.metrics.registry import AgentMetrics
from agent.objects.cluster import CellCluster
from agent.objects.fence import Fence
from agent.objects.repair import Repairer
from agent.spool.interfaces import StateDb
from agent.stamps.keeper import StampKeeper
from agent.verify.decide import Gate
from agent.verify.intake import Intake
from cellward.cells.edges import Offer
from cellward.documents.facts import ClusterFacts
from cellward.documents.names import CellKey
from cellward.runtime.clock import Timer


@dataclass(frozen=True, slots=True)
class Parts:
    """The engine's tools.

    ``offers`` says what the accepted release of a cell offers here, None where there is none. ``view`` returns for how
    many seconds every watch has seen the cluster since the start, or None while one of them does not.
    """

    cluster: CellCluster
    intake: Intake
    gate: Gate
    revoked: Revoked
    repairer: Repairer
    prober: Prober
    fence: Fence
    stamps: StampKeeper
    recorder: RecorderPort
    state: StateDb
    documents: KeptDocuments
    timer: Timer
    facts: Callable[[], ClusterFacts]
    metrics: AgentMetrics
    keeping: Keeping
    offers: Callable[[CellKey], tuple[Offer, ...] | None]
    view: Callable[[], float | None]
