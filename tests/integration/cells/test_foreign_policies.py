"""V9, V10 on a real API server: a policy of a network plugin that may be about a cell makes its isolation unknown."""

from __future__ import annotations

from typing import Any

import pytest

from agent.isolation.foreign import FOREIGN
from tests.fakes.cell_world import World, cell_yaml
from tests.integration.chart.kinds import installed_kind
from tools.stack.api import ApiClient

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

_POLICY = "policy.networking.k8s.io"
_CNP = next(one for one in FOREIGN if one.api_version == f"{_POLICY}/v1alpha2")
_PODS: dict[str, Any] = {"appliedTo": [{"podSelector": {}}]}
_NAMESPACES: dict[str, Any] = {"subject": {"namespaces": {}}}
_ALL: tuple[tuple[str, str, str, str, dict[str, Any]], ...] = (
    (_POLICY, "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", _NAMESPACES),
    (_POLICY, "v1alpha1", "AdminNetworkPolicy", "adminnetworkpolicies", _NAMESPACES),
    ("crd.antrea.io", "v1beta1", "ClusterNetworkPolicy", "clusternetworkpolicies", _PODS),
    ("crd.projectcalico.org", "v1", "GlobalNetworkPolicy", "globalnetworkpolicies", {"selector": "all()"}),
    ("cilium.io", "v2", "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies", {"endpointSelector": {}}),
    ("cilium.io", "v2", "CiliumClusterwideEnvoyConfig", "ciliumclusterwideenvoyconfigs", {"resources": []}),
    ("networking.k8s.aws", "v1alpha1", "ClusterNetworkPolicy", "clusternetworkpolicies", _NAMESPACES),
    ("kubeovn.io", "v1", "Subnet", "subnets", {"default": True, "acls": [{"action": "allow"}]}),
)


def _subjects(world: World, cell: str) -> list[str]:
    """What the conditions of a cell are about."""
    return [one.subject for one in world.report(cell).conditions]


@pytest.mark.parametrize(
    ("group", "version", "kind", "plural", "spec"), _ALL, ids=[f"{one[0]} {one[2]}" for one in _ALL]
)
async def test_v9_a_cluster_wide_policy_makes_isolation_unknown(
    world: World, admin: ApiClient, cell: str, group: str, version: str, kind: str, plural: str, spec: dict[str, Any]
) -> None:
    """Also when its kind came long after the agent; it is named, it is on record, and all is well when it is gone."""
    world.prober.state = "enforced"
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    await world.until(lambda: world.report(cell).isolation == "enforced")
    with installed_kind(admin, group, version, kind, plural, scope="Cluster"):
        body = {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {"name": "open"}, "spec": spec}
        path = f"/apis/{group}/{version}/{plural}"
        await world.until(lambda: admin.request("POST", path, body).status in {201, 409})
        # While the API server learns the kind, the kind itself cannot be read, and that is named first.
        await world.until(lambda: _subjects(world, cell) == [f"{kind}/open"])
        assert world.report(cell).isolation == "unknown"
        assert {one.code for one in world.report(cell).conditions} == {"isolation/foreign-policy"}
        red = next(one for one in world.health.get() if one.name == "foreign-isolation")
        assert (red.ok, red.code) == (False, "isolation/foreign-policy")
        assert f"{kind}/open" in red.message
        assert f"{kind}/open" in {one["object"] for one in await world.records()}
        assert admin.request("DELETE", f"{path}/open").ok
        await world.until(lambda: world.report(cell).isolation == "enforced")
        await world.until(lambda: next(one for one in world.health.get() if one.name == "foreign-isolation").ok)


async def test_v9_a_kind_in_an_unknown_version_makes_isolation_unknown(
    world: World, admin: ApiClient, cell: str
) -> None:
    """What a plugin of next year serves is not taken for a cluster without it; the condition names the version."""
    world.prober.state = "enforced"
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    await world.until(lambda: world.report(cell).isolation == "enforced")
    with installed_kind(admin, "k8s.ovn.org", "v7", "AdminPolicyBasedExternalRoute", "adminpolicybasedexternalroutes",
                        scope="Cluster"):  # fmt: skip
        subject = "k8s.ovn.org/v1 AdminPolicyBasedExternalRoute"
        await world.until(
            lambda: _subjects(world, cell) == [subject] and "v7" in world.report(cell).conditions[0].message
        )
        assert world.report(cell).isolation == "unknown"
        assert {one.code for one in world.report(cell).conditions} == {"isolation/foreign-policy"}
    await world.until(lambda: world.report(cell).isolation == "enforced")


async def test_v9_the_decision_is_made_on_unknown_isolation(world: World, admin: ApiClient, cell: str) -> None:
    """A measurement says nothing while somebody else has a say; a policy about others changes nothing."""
    world.prober.state = "enforced"
    with installed_kind(admin, _POLICY, "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", scope="Cluster"):
        path = f"/apis/{_POLICY}/v1alpha2/clusternetworkpolicies"
        labels = {"kubernetes.io/metadata.name": f"shop--{cell}--dev"}
        for name, match in (("mine", labels), ("other", {"kubernetes.io/metadata.name": "elsewhere"})):
            body = {
                "apiVersion": f"{_POLICY}/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": name},
                "spec": {"subject": {"namespaces": {"matchLabels": match}}},
            }  # fmt: skip
            await world.until(lambda body=body: admin.request("POST", path, body).status in {201, 409})  # type: ignore[misc]
        await world.until(lambda: ("", "other") in world.engine._watches.foreign._seen.get(_CNP, {}))
        assert (await world.deploy(cell_yaml(cell), cell)).accepted
        assert world.report(cell).isolation == "unknown"
        assert {one.isolation for one in world.policy.evaluator.asked} == {"unknown"}
        assert [one.subject for one in world.report(cell).conditions] == ["ClusterNetworkPolicy/mine"]
        assert admin.request("DELETE", f"{path}/mine").ok
        await world.until(lambda: world.report(cell).isolation == "enforced")


async def test_v10_one_that_came_into_a_cell_without_the_guards_counts(
    world: World, admin: ApiClient, cell: str
) -> None:
    """The guard lets nobody make one; made under the agent's name here, as if it had been away."""
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    world.prober.state = "enforced"
    with installed_kind(admin, "cilium.io", "v2", "CiliumLocalRedirectPolicy", "ciliumlocalredirectpolicies"):
        path = f"/apis/cilium.io/v2/namespaces/shop--{cell}--dev/ciliumlocalredirectpolicies"
        body = {"apiVersion": "cilium.io/v2", "kind": "CiliumLocalRedirectPolicy", "metadata": {"name": "away"}}
        user = "system:serviceaccount:cellward-system:cellward-agent"
        await world.until(
            lambda: admin.request("POST", path, body, user=user, groups=("system:masters",)).status in {201, 409}
        )
        subject = f"CiliumLocalRedirectPolicy/shop--{cell}--dev/away"
        await world.until(lambda: _subjects(world, cell) == [subject])
        assert admin.request("DELETE", f"{path}/away").ok
        await world.until(lambda: not world.report(cell).conditions)
