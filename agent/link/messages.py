"""Messages of what the agent says, from the values of the rest of the agent. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent.audit.interfaces import RefusalText
from agent.link.interfaces import CellReport, ReceiptFacts
from agent.policy.position import PolicyPosition
from cellward.cells.proof import Evidence, MeasuredEdge
from cellward.errors import known
from cellward.runtime.health import Condition
from cellward.wire.text import sendable
from cellward.wire.v1 import link_pb2, types_pb2

#: Bounds of a measurement in a state: all edges together in bytes, its sentence, and the name of one side.
MAX_PROOF_BYTES: Final = 24 * 1024
MAX_PROOF_TEXT, MAX_PEER = 1000, 253


def refusal_to_wire(refusal: RefusalText) -> types_pb2.Refusal:
    """Message of a refusal."""
    return types_pb2.Refusal(
        code=sendable(refusal.code),
        rule=sendable(refusal.rule),
        object=sendable(refusal.object),
        reason=sendable(refusal.reason),
        next=sendable(refusal.next),
    )


def receipt_to_wire(receipt: ReceiptFacts) -> link_pb2.Receipt:
    """Message of a receipt."""
    return link_pb2.Receipt(
        revision=receipt.revision,
        project=receipt.project,
        cell=receipt.cell,
        environment=receipt.environment,
        deployment_digest=receipt.deployment_digest,
        accepted=receipt.accepted,
        refusals=_refusals(receipt.refusals),
        statement=receipt.statement,
    )


def report_to_wire(report: CellReport) -> link_pb2.CellStatus:
    """Message of a cell's state."""
    return link_pb2.CellStatus(
        project=report.project,
        cell=report.cell,
        environment=report.environment,
        phase=link_pb2.CellPhase.Value(f"CELL_PHASE_{report.phase.upper()}"),
        deployment_digest=report.deployment_digest,
        release_digest=report.release_digest,
        objects_ready=report.objects_ready,
        objects_total=report.objects_total,
        isolation=report.isolation,
        refusals=_refusals(report.refusals),
        drift_repairs=report.drift_repairs,
        version=report.version,
        conditions=[
            types_pb2.CellCondition(code=found.code, subject=sendable(found.subject), message=sendable(found.message))
            for found in report.conditions
        ],
        proof=_proof(report.proof) if report.proof is not None else None,
    )


def _proof(evidence: Evidence) -> link_pb2.IsolationProof:
    """Message of a measurement: as many edges as fit into ``MAX_PROOF_BYTES``, the others are counted."""
    lag = evidence.egress_lag_seconds
    proof = link_pb2.IsolationProof(
        state=evidence.state,
        measured_at_unix=int(evidence.at.timestamp()),
        prober=evidence.prober,
        text=sendable(evidence.text, MAX_PROOF_TEXT),
        egress_lag_ms=None if lag is None else round(min(max(lag, 0.0), 86_400.0) * 1000),
    )
    left = MAX_PROOF_BYTES
    for edge in evidence.edges:
        message = _edge(edge)
        left -= message.ByteSize() + 4
        if left < 0:
            break
        proof.edges.append(message)
    proof.edges_cut = evidence.cut + len(evidence.edges) - len(proof.edges)
    return proof


def _edge(edge: MeasuredEdge) -> link_pb2.IsolationEdge:
    return link_pb2.IsolationEdge(
        direction=edge.direction,
        component=edge.component,
        peer=sendable(edge.peer, MAX_PEER),
        protocol=edge.protocol,
        port=edge.port,
        expected=edge.expected,
        measured=edge.measured,
        node=sendable(edge.node, MAX_PEER),
    )


def _refusals(refusals: Sequence[RefusalText]) -> list[types_pb2.Refusal]:
    return [refusal_to_wire(refusal) for refusal in refusals]


def position_to_wire(position: PolicyPosition) -> link_pb2.PolicyVersions:
    """Message of the policy versions."""
    return link_pb2.PolicyVersions(
        root=position.root,
        timestamp=position.timestamp,
        snapshot=position.snapshot,
        targets=position.targets,
        snapshot_expires_unix=position.snapshot_expires_unix,
        bundles=dict(position.bundles),
    )


def condition_to_wire(condition: Condition) -> types_pb2.Condition:
    """Message of a condition."""
    entry = known(condition.code)
    return types_pb2.Condition(
        name=condition.name,
        ok=condition.ok,
        code=condition.code,
        message=sendable(condition.message),
        since_unix=int(condition.since.timestamp()) if condition.since is not None else 0,
        hint=entry.hint if entry is not None and not condition.ok else "",
    )
