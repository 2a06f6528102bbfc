"""V9: what measured edges mean, by examples and by a property over generated measurements."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.isolation.interfaces import Evidence, MeasuredEdge
from agent.isolation.kept import first_wrong
from agent.isolation.probing.judge import judge, may_hold_back, unmeasured

_AT = datetime(2026, 1, 1, tzinfo=UTC)
_OUT = MeasuredEdge("egress", "web", "the agent", "TCP", 7445, "closed", "closed", "n1")
_IN = MeasuredEdge("ingress", "", "the agent", "TCP", 17445, "closed", "closed", "")
_WITHIN = MeasuredEdge("egress", "web", "this cell", "TCP", 17445, "open", "open", "n1")
_WHOLE = (_OUT, _IN, _WITHIN)


def _judge(edges: Sequence[MeasuredEdge], sure: Sequence[bool] | None = None, **more: Any) -> Evidence:
    known = [True] * len(edges) if sure is None else sure
    return judge(edges, at=_AT, sure=known, lag_seconds=more.pop("lag_seconds", None), **more)


def test_enforced_needs_both_directions_and_a_pod_that_can_send() -> None:
    """The whole proof, and each piece of it taken away."""
    whole = _judge(_WHOLE, lag_seconds=1.25, left_out=3)
    assert (whole.state, whole.egress_lag_seconds) == ("enforced", 1.25)
    assert "2 edges that must be closed are closed, 2 of them where somebody is known to answer" in whole.text
    assert "got through for 1.2 s" in whole.text
    assert "3 more were not tried" in whole.text
    for without, says in ((_OUT, "out of the cell"), (_IN, "into the cell")):
        found = _judge([one for one in _WHOLE if one is not without])
        assert (found.state, says in found.text) == ("unknown", True)
    mute = _judge([_OUT, _IN, replace(_WITHIN, measured="closed")])
    assert mute.state == "unknown"
    assert "pods for web reached nothing, not even what they may" in mute.text
    assert _judge([]).state == "unknown"


def test_a_port_nobody_is_known_to_listen_on_proves_nothing() -> None:
    """Closed, and yet unknown."""
    assert _judge(_WHOLE, [False, True, True]).state == "unknown"
    assert _judge(_WHOLE, [True, False, True]).state == "unknown"


def test_one_open_edge_is_enough() -> None:
    """Also where nobody was known to answer, and whatever else was not measured."""
    leak = replace(_OUT, peer="metadata", measured="open")
    found = _judge([leak, *_WHOLE], [False, True, True, True])
    assert found.state == "not-enforced"
    assert found.text.startswith("open, and must be closed: to metadata TCP 7445")
    assert _judge([leak]).state == "not-enforced"


def test_an_end_that_is_open_everywhere_is_named_once() -> None:
    """Three places are few: nodes and components must not fill them with one end."""
    leaks = [replace(_OUT, peer="metadata", measured="open", node=node) for node in ("n1", "n2", "n3")]
    others = [replace(_OUT, peer=peer, measured="open") for peer in ("outside", "the agent")]
    found = _judge([*leaks, *others])
    ends = "metadata TCP 7445", "outside TCP 7445", "the agent TCP 7445"
    assert found.text == "open, and must be closed: " + ", ".join(f"to {end}" for end in ends)
    assert first_wrong(found.edges) == ", ".join(f"egress {end}" for end in ends)


def test_a_declared_edge_that_is_closed_is_said_and_changes_nothing() -> None:
    """Isolation is about what is closed."""
    blocked = replace(_WITHIN, peer="shop/back/dev api", measured="closed")
    found = _judge([*_WHOLE, blocked])
    assert found.state == "enforced"
    assert "closed, and must be open: to shop/back/dev api" in found.text


def test_an_edge_that_was_not_tried_keeps_the_proof_away() -> None:
    """An agent that may not send does not know that nothing comes in."""
    found = _judge([*_WHOLE, replace(_IN, component="web", measured="unknown")])
    assert (found.state, "not tried" in found.text) == ("unknown", True)


@pytest.mark.parametrize(
    ("spec", "held"),
    [
        ({"policyTypes": ["Egress"], "egress": []}, True),
        ({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{"ports": [{"port": 443}]}]}, True),
        (
            {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "cellward-agent"}}, "policyTypes": ["Egress"]},
            True,
        ),
        ({"podSelector": {"matchLabels": {"team": "a"}}, "policyTypes": ["Egress"]}, True),
        (
            {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "cellward-hub"}}, "policyTypes": ["Egress"]},
            False,
        ),
        ({"podSelector": {}, "policyTypes": ["Ingress"]}, False),
        ({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}, False),
        # Without types a rule says which.
        ({"podSelector": {}, "egress": [{"to": []}]}, True),
    ],
)
def test_an_agent_that_may_be_held_back_is_told_from_one_that_is_not(spec: dict[str, Any], held: bool) -> None:
    """A policy about others in its namespace, or that lets everything out, is no reason to know nothing."""
    assert may_hold_back({"spec": spec}) is held


def test_each_node_is_judged_by_itself() -> None:
    """A pod that can send on one node says nothing of one on another."""
    other = [replace(_OUT, node="n2"), replace(_WITHIN, node="n2", measured="closed")]
    assert _judge([*_WHOLE, *other]).state == "unknown"
    assert _judge([*_WHOLE, replace(_OUT, node="n2", measured="open")]).state == "not-enforced"


def test_what_could_not_be_measured_says_why() -> None:
    """Never anything but unknown."""
    found = unmeasured(_AT, "no image")
    assert (found.state, found.text, found.edges) == ("unknown", "not measured: no image", ())


@pytest.mark.parametrize("seed", range(200))
def test_enforced_is_never_said_of_less_than_a_proof(seed: int) -> None:
    """The three sentences of the module, checked another way on generated measurements."""
    chance = random.Random(seed)
    edges = [
        MeasuredEdge(
            chance.choice(["egress", "ingress"]), chance.choice(["", "web"]), chance.choice(["a", "b"]),
            "TCP", chance.randint(1, 3), chance.choice(["open", "closed"]),
            chance.choices(["open", "closed", "unknown"], [1, 6, 0.3])[0], chance.choice(["n1", "n2"]),
        )  # type: ignore[arg-type]
        for _ in range(chance.randint(0, 9))
    ]  # fmt: skip
    for one in [edge for edge in edges if edge.expected == "open" and edge.direction == "egress"]:
        if chance.random() < 0.8:
            edges[edges.index(one)] = replace(one, measured="open")
    sure = [chance.random() < 0.7 for _ in edges]
    found = judge(edges, at=_AT, sure=sure, lag_seconds=None)
    must = [(edge, known) for edge, known in zip(edges, sure, strict=True) if edge.expected == "closed"]
    if any(edge.measured == "open" for edge, _ in must):
        assert found.state == "not-enforced"
        return
    assert found.state != "not-enforced"
    proved = {edge.direction for edge, known in must if known and edge.measured == "closed"}
    may = [edge for edge in edges if edge.direction == "egress" and edge.expected == "open"]
    senders = {(one.component, one.node) for one in may}
    able = {(one.component, one.node) for one in may if one.measured == "open"}
    whole = proved == {"egress", "ingress"} and senders == able and all(edge.measured != "unknown" for edge, _ in must)
    assert found.state == ("enforced" if whole else "unknown")
    assert set(found.edges) == set(edges)
