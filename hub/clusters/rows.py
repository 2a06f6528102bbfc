"""Between rows of the store, messages of agents and the fleet's own values; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cellward.documents.facts import ClusterFacts
from cellward.identity.locks import Lock
from cellward.wire.v1 import link_pb2, types_pb2
from hub.clusters.model import AgentReport, ClusterView
from hub.placement.delivery import Invited, reported
from hub.store.interfaces import ClusterRow

#: Bounds on what one message may leave in the store.
MAX_REFUSALS, MAX_CONDITIONS, MAX_BUNDLES, MAX_TEXT = 64, 64, 64, 1024
MAX_EDGES, MAX_NAME = 200, 256
#: The last second that a moment may be, in the year 9999.
MAX_SECONDS = 253_402_300_799
_EDGE_TEXTS = ("direction", "component", "peer", "protocol", "expected", "measured", "node")
_PHASE = "CELL_PHASE_"


def view_of(row: ClusterRow, *, connected: bool, revision: int, lock: Lock | None) -> ClusterView:
    """A cluster with everything that is known of it."""
    report = row.report
    return ClusterView(
        name=row.name,
        created_at=row.created_at,
        created_by=row.created_by,
        uid=row.uid,
        generation=row.generation,
        locked=lock is not None,
        lock=str(lock) if lock is not None else "",
        platform_uid=row.platform_uid,
        platform_ca=row.platform_ca,
        statement_spki=row.statement_spki,
        connected=connected,
        last_seen=row.last_seen,
        facts=reported(row.report),
        report=AgentReport(
            agent_version=str(report.get("agent_version", "")),
            opa_version=str(report.get("opa_version", "")),
            boot_id=str(report.get("boot_id", "")),
            statement_keyid=str(report.get("statement_keyid", "")),
            policy=report.get("policy") or {},
            conditions=tuple(report.get("conditions") or ()),
            authority=str(report.get("authority") or "authors"),
            certificate_expires_unix=int(report.get("certificate_expires_unix") or 0),
            spool_depth=int(report.get("spool_depth") or 0),
        ),
        revision=revision,
        invited=Invited.from_json(row.invited),
    )


def hello_report(hello: link_pb2.Hello, facts: ClusterFacts) -> dict[str, Any]:
    """What is kept of a Hello."""
    return {
        "facts": facts.to_json(),
        "agent_version": hello.agent_version[:MAX_TEXT],
        "opa_version": hello.opa_version[:MAX_TEXT],
        "boot_id": hello.boot_id[:MAX_TEXT],
        "statement_keyid": hello.statement_keyid[:MAX_TEXT],
        "policy": policy_json(hello.policy),
    }


def status_report(status: link_pb2.AgentStatus) -> dict[str, Any]:
    """What is kept of an AgentStatus."""
    return {
        "policy": policy_json(status.policy),
        "conditions": [_condition(found) for found in list(status.conditions)[:MAX_CONDITIONS]],
        "authority": status.authority[:MAX_TEXT],
        "certificate_expires_unix": status.certificate_expires_unix,
        "spool_depth": min(status.spool_depth, 2**53),
    }


def policy_json(versions: link_pb2.PolicyVersions) -> dict[str, Any]:
    """Versions of a verified set."""
    bundles = dict(sorted(versions.bundles.items())[:MAX_BUNDLES])
    return {
        "root": min(versions.root, 2**53),
        "timestamp": min(versions.timestamp, 2**53),
        "snapshot": min(versions.snapshot, 2**53),
        "targets": min(versions.targets, 2**53),
        "snapshot_expires_unix": versions.snapshot_expires_unix,
        "bundles": {name[:MAX_TEXT]: digest[:MAX_TEXT] for name, digest in bundles.items()},
    }


def cell_body(status: link_pb2.CellStatus) -> Mapping[str, Any]:
    """What is kept of a CellStatus."""
    return {
        "phase": phase_name(status.phase),
        "deployment_digest": status.deployment_digest[:MAX_TEXT],
        "release_digest": status.release_digest[:MAX_TEXT],
        "objects_ready": status.objects_ready,
        "objects_total": status.objects_total,
        "isolation": status.isolation[:MAX_TEXT],
        "refusals": refusals_json(status.refusals),
        "drift_repairs": min(status.drift_repairs, 2**53),
        "version": status.version[:MAX_TEXT],
        "conditions": [
            {name: getattr(found, name)[:MAX_TEXT] for name in ("code", "subject", "message")}
            for found in list(status.conditions)[:MAX_CONDITIONS]
        ],
        "proof": _proof(status.proof) if status.HasField("proof") else None,
    }


def _proof(proof: link_pb2.IsolationProof) -> dict[str, Any]:
    """What is kept of a measurement of isolation."""
    edges = list(proof.edges)[:MAX_EDGES]
    return {
        "state": proof.state[:MAX_NAME],
        "measured_at_unix": min(max(proof.measured_at_unix, 0), MAX_SECONDS),
        "prober": proof.prober[:MAX_NAME],
        "text": proof.text[:MAX_TEXT],
        "edges": [
            {**{name: getattr(edge, name)[:MAX_NAME] for name in _EDGE_TEXTS}, "port": min(edge.port, 65535)}
            for edge in edges
        ],
        "edges_cut": proof.edges_cut + len(proof.edges) - len(edges),
        "egress_lag_ms": proof.egress_lag_ms if proof.HasField("egress_lag_ms") else None,
    }


def phase_name(phase: int) -> str:
    """``ready`` for CELL_PHASE_READY; ``unknown`` for what a newer agent may send."""
    try:
        name = link_pb2.CellPhase.Name(phase)  # type: ignore[arg-type]
    except ValueError:
        return "unknown"
    return name.removeprefix(_PHASE).lower().replace("_", "-").replace("unspecified", "unknown")


def refusals_json(refusals: Iterable[types_pb2.Refusal]) -> list[dict[str, str]]:
    """Refusals with the five parts of V15."""
    return [
        {
            "code": refusal.code[:MAX_TEXT],
            "rule": refusal.rule[:MAX_TEXT],
            "object": refusal.object[:MAX_TEXT],
            "reason": refusal.reason[:MAX_TEXT],
            "next": refusal.next[:MAX_TEXT],
        }
        for refusal in list(refusals)[:MAX_REFUSALS]
    ]


def _condition(found: types_pb2.Condition) -> dict[str, Any]:
    return {
        "name": found.name[:MAX_TEXT],
        "ok": found.ok,
        "code": found.code[:MAX_TEXT],
        "message": found.message[:MAX_TEXT],
        "since_unix": found.since_unix,
        "hint": found.hint[:MAX_TEXT],
    }
