"""Evidence is bounded where it is kept, sent and shown, and says what it lost."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from agent.isolation.interfaces import Evidence, MeasuredEdge
from agent.isolation.kept import MAX_EDGES, aged, bounded, from_json, to_json, wrong_of
from agent.link.interfaces import CellReport
from agent.link.messages import MAX_PROOF_BYTES, report_to_wire
from agent.objects.model import CellRecord, record_from_json
from cellward.wire.v1 import link_pb2
from hub.clusters.rows import MAX_EDGES as HUB_MAX_EDGES
from hub.clusters.rows import MAX_NAME, cell_body

AT = datetime(2026, 5, 1, 12, tzinfo=UTC)
CLOSED = MeasuredEdge("egress", "web", "the agent", "TCP", 7445, "closed", "closed", "n1")
OPEN = replace(CLOSED, measured="open", port=9000)


def _evidence(edges: tuple[MeasuredEdge, ...], lag: float | None = None) -> Evidence:
    return Evidence("not-enforced", AT, "pods", "found", edges, lag)


def test_what_is_cut_is_counted_and_never_what_is_wrong() -> None:
    """V9: the edge that counts is the last of too many."""
    many = tuple(replace(CLOSED, port=port) for port in range(1, 251))
    kept = bounded(_evidence((*many, OPEN)))
    assert (len(kept.edges), kept.cut, kept.edges[0]) == (MAX_EDGES, 51, OPEN)
    assert bounded(kept) == kept


def test_a_record_of_before_has_no_proof_and_a_proof_is_read_as_it_was_kept() -> None:
    """A state directory of an older agent is read; one of today keeps every field, also in JSON."""
    evidence = replace(bounded(_evidence((CLOSED, OPEN), 1.25)), cut=3)
    assert from_json(json.loads(json.dumps(to_json(evidence)))) == evidence
    record = CellRecord("shop", "web", "dev", "shop--web--dev", proof=evidence)
    body = json.loads(json.dumps(record.to_json()))
    assert record_from_json(body) == record
    del body["proof"]
    assert record_from_json(body).proof is None


def test_v9_an_old_proof_is_none_also_when_the_clock_went_back() -> None:
    """What is not known to be unknown already is made so."""
    evidence = _evidence((OPEN,))
    assert aged(evidence, AT + timedelta(seconds=60), 60) is evidence
    for moved in (61, -61):
        assert aged(evidence, AT + timedelta(seconds=moved), 60).state == "unknown"


def test_the_same_edge_on_another_node_is_no_other_wrong_edge() -> None:
    """Pods move; a record of each would be noise."""
    assert wrong_of(_evidence((OPEN, CLOSED))) == wrong_of(_evidence((replace(OPEN, node="n2"),)))
    assert wrong_of(_evidence((replace(OPEN, measured="unknown"),))) == frozenset()


def test_a_state_stays_small_and_the_hub_keeps_what_was_sent() -> None:
    """The longest names there can be: what does not fit is counted, all along the way."""
    long = tuple(replace(OPEN, peer="p" * 400, node="n" * 300, port=port) for port in range(1, 201))
    report = CellReport("shop", "web", "dev", "ready", proof=replace(_evidence(long, 0.5), cut=7))
    status = report_to_wire(report)
    assert status.ByteSize() < MAX_PROOF_BYTES + 2048
    assert len(status.proof.edges) + status.proof.edges_cut == 207
    kept = cell_body(status)["proof"]
    assert kept["egress_lag_ms"] == 500
    assert kept["measured_at_unix"] == int(AT.timestamp())
    assert [kept["edges"][0][name] for name in ("port", "expected", "measured")] == [1, "closed", "open"]
    assert cell_body(report_to_wire(replace(report, proof=None)))["proof"] is None
    json.dumps(kept)


def test_v16_a_hub_keeps_no_more_than_its_bounds() -> None:
    """An agent that says too much fills no store."""
    edge = link_pb2.IsolationEdge(peer="x" * 5000, port=2**31)
    status = link_pb2.CellStatus(proof=link_pb2.IsolationProof(edges=[edge] * 300, measured_at_unix=-5))
    kept = cell_body(status)["proof"]
    assert (len(kept["edges"]), kept["edges_cut"]) == (HUB_MAX_EDGES, 100)
    assert (len(kept["edges"][0]["peer"]), kept["edges"][0]["port"]) == (MAX_NAME, 65535)
    assert kept["measured_at_unix"] == 0
    assert kept["egress_lag_ms"] is None
