"""Puts the engine of cells together, in the order in which its parts need each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from agent.audit.interfaces import RecorderPort
from agent.cells.account import Account
from agent.cells.adopt import Adoption
from agent.cells.apply import Applying
from agent.cells.cell import Cell
from agent.cells.change import Planner
from agent.cells.documents import KeptDocuments
from agent.cells.drift import DriftControl
from agent.cells.edges import Edges
from agent.cells.ending import Ending, EndJudge, Removal
from agent.cells.engine import CellEngine, Watches
from agent.cells.hands import Hands
from agent.cells.interfaces import OnReceipt, OnStatus
from agent.cells.journal import Journal
from agent.cells.keeping import Keeping
from agent.cells.life import CellLife
from agent.cells.narrow import Narrowing
from agent.cells.overview import Overview
from agent.cells.pace import Pace
from agent.cells.papers import Papers
from agent.cells.pods import PodWatches
from agent.cells.proving import MAX_AGE_SECONDS, Proving
from agent.cells.ready import Ready
from agent.cells.restamp import Restamping
from agent.cells.revoked import Revoked
from agent.cells.rollout import Accepting, Deciding, Ground, Rollout
from agent.cells.roster import Roster
from agent.cells.sightings import Sightings
from agent.cells.slots import Slots
from agent.cells.withholding import Withholding
from agent.cells.worker import CellWorker
from agent.isolation.foreign_watch import ABSENT_SECONDS, ForeignPolicies
from agent.isolation.interfaces import IsolationDriver, Prober
from agent.kube.interfaces import JSONObject, KubeApi
from agent.metrics.registry import AgentMetrics
from agent.objects.cluster import CellCluster
from agent.objects.fence import Fence
from agent.objects.impostors import Impostors
from agent.objects.repair import Repairer
from agent.objects.watcher import ClusterWatch
from agent.spool.interfaces import StateDb
from agent.stamps.copy import StampCopy
from agent.stamps.keeper import SETTLE_SECONDS, StampKeeper
from agent.verify.decide import Gate
from agent.verify.intake import Intake
from agent.verify.interfaces import DocumentSource, PolicyView
from cellward.cells.gate import StartGate
from cellward.documents.facts import ClusterFacts
from cellward.runtime.clock import Timer
from cellward.runtime.health import HealthRegistry
from cellward.wire.codec import DesiredItem

#: Cells that are worked on at once.
CONCURRENCY: Final = 8


def engine_of(  # noqa: PLR0913 - one composition, each part by name
    *,
    kube: KubeApi,
    driver: IsolationDriver,
    prober: Prober,
    policy: PolicyView,
    source: DocumentSource,
    state: StateDb,
    recorder: RecorderPort,
    health: HealthRegistry,
    metrics: AgentMetrics,
    timer: Timer,
    facts: Callable[[], ClusterFacts],
    realm: str,
    guards: Sequence[JSONObject],
    copy_floors: Callable[[], Awaitable[None]],
    agent_namespace: str = "cellward-system",
    settle_seconds: float = SETTLE_SECONDS,
    absent_seconds: float = ABSENT_SECONDS,
    proof_seconds: float = MAX_AGE_SECONDS,
    start_gate: StartGate | None = None,
) -> CellEngine:
    """Return the engine of a cluster.

    Args:
        kube: the cluster.
        driver: writes isolation.
        prober: measures isolation.
        policy: the signed policy as it was verified last.
        source: the documents of the hub.
        state: the durable state.
        recorder: the audit record.
        health: gets the conditions.
        metrics: gets the gauges.
        timer: time and sleep.
        facts: returns this cluster's facts, from its own configuration.
        realm: the realm.
        guards: the chart's admission policies (``fence.load_guards``).
        copy_floors: returns when every floor and closing is also kept outside the state directory.
        agent_namespace: where the accounts of cells live.
        settle_seconds: how long guards that came back may take to bite.
        proof_seconds: how long a measurement of isolation counts when no newer one comes.
        absent_seconds: how often a network plugin's kind that is not there is asked for.
        start_gate: what the pods of every cell begin with, if the installation says so.
    """
    roster = Roster()
    cluster = CellCluster(kube, driver, timer, agent_namespace, roster.saw)
    fence = Fence(guards, recorder, health)
    copy = StampCopy(kube, agent_namespace)
    stamps = StampKeeper(
        state.meta, copy, recorder, health, timer, lambda: roster.behind(stamps.current), settle=settle_seconds
    )
    impostors = Impostors(recorder, health, roster.owns_namespace, stamps.proof)
    foreign = _foreign(kube, recorder, health, timer, absent_seconds, lambda: sightings)
    pods = PodWatches(kube, cluster.identity, timer)
    sightings = Sightings(roster, cluster, fence, stamps, foreign, impostors, pods)
    stamps.on_step = sightings.on_synced
    watch = ClusterWatch(kube, health, timer, sightings.on_event, sightings.on_synced)
    documents = KeptDocuments(state)
    keeping = Keeping(state, recorder, copy_floors, roster.changed)
    repairer = Repairer(cluster, stamps.check_proof)
    adoption = Adoption(cluster, stamps, repairer, recorder, keeping)
    gate = Gate(policy=policy, clock=timer, facts=facts, realm=realm)
    intake = Intake(policy=policy, source=source, state=state, clock=timer, facts=facts, realm=realm)
    ready, revoked = Ready(gate, fence, stamps), Revoked(policy, facts)
    journal = Journal(recorder, documents, state.blobs, keeping)
    planner = Planner(cluster, stamps, facts, roster.offers, start_gate)
    applying = Applying(cluster, repairer, keeping, state.closings, timer, journal)
    rollout = Rollout(
        Deciding(ready, gate, adoption, planner, journal, state.floors, metrics, timer),
        Ground(cluster, stamps, prober, journal),
        Accepting(intake, journal, keeping, state.accepted, applying, metrics, timer),
    )
    judge = EndJudge(gate, intake, recorder, state, documents, keeping, metrics)
    ending = Ending(adoption, judge, Removal(cluster, adoption, keeping), keeping)
    narrowing = Narrowing(cluster, adoption, keeping, recorder, state.closings, timer)
    slots = Slots.of(CONCURRENCY)

    def worker(cell: Cell, accepted: DesiredItem | None, on_receipt: OnReceipt, on_status: OnStatus) -> CellWorker:
        cell.gated = start_gate is not None
        life = CellLife(cell, timer, revoked, watch.in_view)
        drift = DriftControl(cluster, repairer, recorder, keeping, metrics, timer, cell, slots)
        pace = Pace(timer, slots, drift, Restamping(stamps, repairer, keeping, cell, drift), life.must_stop)
        edges = Edges(recorder, keeping, roster.offers, cell, narrowing)
        papers = Papers(cell, pace, intake, revoked, ready)
        withholding = Withholding(cell, narrowing, edges, drift, state.floors)
        account = Account(cell, recorder, keeping, documents, on_receipt)
        hands = Hands(cell, pace, papers, rollout, ending, withholding, account, life.accepted)
        return CellWorker(cell, life, drift, pace, edges, hands, on_status, accepted)

    proving = Proving(prober, roster, state.blobs, recorder, timer, proof_seconds)
    watches = Watches(watch, foreign, stamps, pods, proving)
    return CellEngine(state, documents, roster, sightings, watches, Overview(roster, health, metrics), worker)


def _foreign(
    kube: KubeApi,
    recorder: RecorderPort,
    health: HealthRegistry,
    timer: Timer,
    absent_seconds: float,
    sightings: Callable[[], Sightings],
) -> ForeignPolicies:
    """They and the sightings need each other; these are made first."""
    places, look_beside = lambda: sightings().places(), lambda: sightings().look_beside()
    return ForeignPolicies(kube, recorder, health, timer, places, look_beside, absent_seconds)
