"""Isolation objects carry every field, are written by the agent itself, and are never called enforced unproved."""

from __future__ import annotations

from typing import Any

import pytest

from agent.isolation.driver import AGENT_MANAGER, NetworkPolicyDriver, closed
from agent.isolation.prober import UnprovedProber
from cellward.cells.network import NetworkIntent
from cellward.errors import CellwardError
from tests.fakes.clock import ManualClock
from tests.fakes.kube import FakeKube
from tests.fakes.refusals import refused

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}


def _policy(name: str = "deny", **changes: Any) -> dict[str, Any]:
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": [], **changes}
    metadata = {"name": name, "namespace": "n"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("field", ["podSelector", "policyTypes", "ingress", "egress"])
async def test_v10_every_field_is_stated_or_nothing_is_written(field: str) -> None:
    """A field left out could be filled in by somebody else; not even the complete ones are written then."""
    kube = FakeKube()
    await kube.apply(NAMESPACE, manager="x")
    bad = _policy("bad")
    del bad["spec"][field]
    with pytest.raises(CellwardError) as caught:
        await NetworkPolicyDriver(kube).apply([_policy(), bad])
    assert caught.value.code == "isolation/incomplete-object"
    assert await kube.list("networking.k8s.io/v1", "NetworkPolicy") == ()


async def test_v10_one_direction_is_incomplete() -> None:
    """Ingress alone leaves egress open."""
    with refused("isolation/incomplete-object"):
        await NetworkPolicyDriver(FakeKube()).apply([_policy(policyTypes=["Ingress"])])


async def test_v12_isolation_is_written_as_the_agent_itself() -> None:
    """No impersonation, the agent's own manager."""
    kube = FakeKube()
    await kube.apply(NAMESPACE, manager="x")
    (live,) = await NetworkPolicyDriver(kube).apply([_policy()])
    assert kube.requests[-1][2] is None
    assert [entry["manager"] for entry in live["metadata"]["managedFields"]] == [AGENT_MANAGER]


def test_closed_allows_nothing_and_changes_nothing_else() -> None:
    """Quarantine."""
    opened = _policy(ingress=[{}], egress=[{}])
    assert closed(opened) == _policy()
    assert opened["spec"]["ingress"] == [{}]


async def test_v9_without_a_prober_nothing_is_enforced() -> None:
    """Unknown, with a sentence that says why."""
    evidence = await UnprovedProber(ManualClock(), "there is no image").probe(NetworkIntent("shop", "web", "dev", ()))
    assert evidence.state == "unknown"
    assert "shop--web--dev" in evidence.text
