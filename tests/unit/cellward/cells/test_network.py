"""V10 (objects): what is declared is exactly what the NetworkPolicies allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellward.cells.labels import namespace_of
from cellward.cells.network import intent, to_network_policies
from cellward.cells.render import render
from cellward.cells.stamps import PLACEHOLDER, Stamps
from tests.unit.cellward.cells.netpol import Outside, Pod, allowed
from tests.unit.cellward.cells.sample import FACTS, cell, component, load, releases

ENVIRONMENTS = ("dev", "prod")
PROTOCOLS = ("TCP", "UDP")
Specs = dict[tuple[str | None, str | None], dict[str, Any]]
EXTERNAL = "203.0.113.0/24"
PROBED_PORTS = (53, 80, 443, 7000, 8080)
OUTSIDE = (
    Outside("203.0.113.9"), Outside("198.51.100.1"), Outside("169.254.169.254"), Outside("169.254.20.10"),
    Outside("168.63.129.16"), Outside("10.96.0.1"),
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a pod belongs; None for what is no cell."""

    pod: Pod
    project: str | None = None
    cell: str | None = None
    environment: str | None = None
    component: str | None = None

    @property
    def key(self) -> tuple[str | None, str | None, str | None]:
        """The cell it is part of."""
        return self.project, self.cell, self.environment


ports = st.fixed_dictionaries(
    {"port": st.sampled_from((7000, 8080)), "protocol": st.sampled_from(PROTOCOLS)},
    optional={"servicePort": st.sampled_from((80, 443))},
)


@st.composite
def systems(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw cells of two projects; connections point to earlier cells only, so that there is no circle."""
    made: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 4))):
        components = {
            f"c{index}": component(
                ports={"main": draw(ports)}, **draw(st.sampled_from([{}, {"scrape": {"port": "main"}}]))
            )
            for index in range(draw(st.integers(1, 2)))
        }
        visibility = st.sampled_from(("cell", "project", "organization", "public"))
        endpoints = {
            f"e-{name}": {"component": name, "port": "main", "visibility": draw(visibility)} for name in components
        }
        project = draw(st.sampled_from(("shop", "bank")))
        connections = _connections(draw, made, project, sorted(components))
        made.append(cell(f"cell{number}", project, components=components, endpoints=endpoints, connections=connections))
    return made


def _connections(draw: st.DrawFn, made: list[dict[str, Any]], project: str, names: list[str]) -> list[dict[str, Any]]:
    connections: list[dict[str, Any]] = []
    for peer in made:
        for endpoint, offered in peer["spec"]["endpoints"].items():
            same = peer["metadata"]["project"] == project
            reach = ("project", "organization", "public") if same else ("organization", "public")
            if offered["visibility"] in reach and draw(st.booleans()):
                users = draw(st.none() | st.lists(st.sampled_from(names), min_size=1, unique=True))
                named = not same or draw(st.booleans())
                connection = {"project": peer["metadata"]["project"]} if named else {}
                connection["cell"] = peer["metadata"]["name"]
                connections.append({**connection, "endpoint": endpoint, **({"components": users} if users else {})})
    if draw(st.booleans()):
        connections.append({"external": {"cidr": EXTERNAL, "ports": [{"port": 443}]}})
    return connections


def pods_of(made: list[dict[str, Any]]) -> Iterator[Place]:
    """Return one pod per component and environment, and pods of namespaces that are no cells."""
    address = iter(f"10.0.{high}.{low}" for high in range(256) for low in range(1, 255))
    for manifest in made:
        project, name = manifest["metadata"]["project"], manifest["metadata"]["name"]
        for environment in ENVIRONMENTS:
            namespace = namespace_of(project, name, environment)
            labels = {
                "cellward.dev/project": project, "cellward.dev/cell": name, "cellward.dev/environment": environment,
            }  # fmt: skip
            for part in manifest["spec"]["components"]:
                pod = Pod(
                    namespace, part, next(address), {**labels, "cellward.dev/component": part},
                    {**labels, **PLACEHOLDER.of_namespace(project), "kubernetes.io/metadata.name": namespace},
                )  # fmt: skip
                yield Place(pod, project, name, environment, part)
    # A foreign namespace whose pod copied every label that a cell's pods have: labels of pods open nothing.
    copied = {
        "cellward.dev/project": "shop", "cellward.dev/cell": "cell0", "cellward.dev/environment": "dev",
        "cellward.dev/component": "c0", "k8s-app": "kube-dns", "app.kubernetes.io/managed-by": "cellward",
    }  # fmt: skip
    for namespace, labels in (
        ("attacker", copied),
        ("kube-system", {"k8s-app": "kube-dns"}),
        ("kube-system", {"component": "other"}),
        ("cellward-system", {"app.kubernetes.io/name": "cellward-agent"}),
    ):
        yield Place(Pod(namespace, "pod", next(address), labels, {"kubernetes.io/metadata.name": namespace}))
    yield from impostors(copied, address)


def impostors(labels: dict[str, str], address: Iterator[str]) -> Iterator[Place]:
    """Return pods of namespaces that say in their labels that they are a cell, without the stamps or with others."""
    project, other = (PLACEHOLDER.of_namespace(name)["cellward.dev/stamp"] for name in ("shop", "other"))
    others: tuple[dict[str, str], ...] = (
        {},
        Stamps.of(b"x" * 32).of_namespace("shop"),
        {"cellward.dev/stamp": other},
        {"cellward.dev/cluster-stamp": project, "cellward.dev/stamp": "shop"},
    )
    said = {name: value for name, value in labels.items() if name.startswith("cellward.dev/")}
    for number, stamps in enumerate(others):
        namespace = f"impostor{number}"
        yield Place(
            Pod(namespace, "pod", next(address), labels, {**said, **stamps, "kubernetes.io/metadata.name": namespace})
        )


def declared(made: list[dict[str, Any]], source: Place, target: Place | Outside, port: int, protocol: str) -> bool:
    """Say from the YAML alone whether traffic is declared."""
    cells: Specs = {(item["metadata"]["project"], item["metadata"]["name"]): item["spec"] for item in made}
    if source.cell is None:
        return isinstance(target, Outside) or target.cell is None or _inward(cells, source, target, port, protocol)
    if isinstance(target, Outside) or target.cell is None:
        return _outward(cells[source.project, source.cell], target, port, protocol)
    if source.key == target.key:
        return True
    return source.environment == target.environment and _between(cells, source, target, port, protocol)


def _inward(cells: Specs, source: Place, target: Place, port: int, protocol: str) -> bool:
    """From what is no cell: the agent's scrape, nothing else."""
    found = cells[target.project, target.cell]["components"][target.component]
    from_agent = source.pod.namespace == "cellward-system" and "scrape" in found
    return from_agent and _listens(found, port, protocol)


def _outward(spec: dict[str, Any], target: Place | Outside, port: int, protocol: str) -> bool:
    """To what is no cell: DNS, and the external range when it was declared."""
    if isinstance(target, Place):
        return target.pod.namespace == "kube-system" and target.pod.labels.get("k8s-app") == "kube-dns" and port == 53
    if target.ip == "169.254.20.10":
        return port == 53
    wanted = any("external" in item for item in spec["connections"])
    return wanted and target.ip == "203.0.113.9" and (port, protocol) == (443, "TCP")


def _between(cells: Specs, source: Place, target: Place, port: int, protocol: str) -> bool:
    """Between cells: a connection of the source's component to an endpoint on the target's component."""
    callee = cells[target.project, target.cell]
    for item in cells[source.project, source.cell]["connections"]:
        if (item.get("project", source.project), item.get("cell")) != (target.project, target.cell):
            continue
        name = callee["endpoints"][item["endpoint"]]["component"]
        used = source.component in item.get("components", [source.component])
        if used and name == target.component and _listens(callee["components"][name], port, protocol):
            return True
    return False


def _listens(found: dict[str, Any], port: int, protocol: str) -> bool:
    return (port, protocol) == (found["ports"]["main"]["port"], found["ports"]["main"]["protocol"])


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(systems())
def test_declared_is_exactly_what_is_allowed(made: list[dict[str, Any]]) -> None:
    """V10: no edge more, no edge less, over every pair of pods, every port and both protocols."""
    rendering = {
        out.namespace: out.isolation
        for release in releases(load(*made))
        for environment in ENVIRONMENTS
        for out in [render(release, FACTS, environment, PLACEHOLDER)]
    }
    places = list(pods_of(made))
    for source in places:
        targets: list[Place | Outside] = [*places, *OUTSIDE]
        for target in targets:
            other = target if isinstance(target, Outside) else target.pod
            policies = list(rendering.get(source.pod.namespace, ()))
            if isinstance(other, Pod) and other.namespace != source.pod.namespace:
                policies += rendering.get(other.namespace, ())
            for port in PROBED_PORTS:
                for protocol in PROTOCOLS:
                    found = allowed(policies, source.pod, other, port, protocol)
                    wanted = declared(made, source, target, port, protocol)
                    assert found is wanted, (source, target, port, protocol)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(systems())
def test_each_side_holds_without_the_other(made: list[dict[str, Any]]) -> None:
    """V10: a cell whose caller is wide open lets in exactly what its endpoints' visibility says, and vice versa."""
    rendering = {
        (release.project, release.cell, environment): render(release, FACTS, environment, PLACEHOLDER).isolation
        for release in releases(load(*made))
        for environment in ENVIRONMENTS
    }
    cells: Specs = {(item["metadata"]["project"], item["metadata"]["name"]): item["spec"] for item in made}
    places = [place for place in pods_of(made) if place.cell is not None]
    for source in places:
        for target in places:
            if source.key == target.key:
                continue
            for port in PROBED_PORTS:
                into = allowed(rendering[target.key], source.pod, target.pod, port, "TCP")  # type: ignore[index]
                assert into is _offered(cells[target.project, target.cell], source, target, port)
                out = allowed(rendering[source.key], source.pod, target.pod, port, "TCP")  # type: ignore[index]
                same = source.environment == target.environment
                assert out is (same and _between(cells, source, target, port, "TCP"))


def _offered(spec: dict[str, Any], source: Place, target: Place, port: int) -> bool:
    reach = ("organization", "public") if source.project != target.project else ("project", "organization", "public")
    return source.environment == target.environment and any(
        endpoint["visibility"] in reach and _listens(spec["components"][endpoint["component"]], port, "TCP")
        for endpoint in spec["endpoints"].values()
        if endpoint["component"] == target.component
    )


def policies_of(*cells: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the last cell's policies by name."""
    release = releases(load(*cells))[-1]
    return {item["metadata"]["name"]: item for item in to_network_policies(intent(release, "dev"), PLACEHOLDER)}


def test_the_first_policy_closes_everything() -> None:
    """V9: default deny both ways selects every pod of the namespace, raw manifests' pods too (H4)."""
    first = next(iter(policies_of(cell()).values()))
    assert first["metadata"]["name"] == "default-deny"
    assert first["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": []}


def test_every_object_carries_every_field() -> None:
    """A forced apply takes back only fields that it names, so all of them are named."""
    every = policies_of(
        cell("data", endpoints={"api": {"component": "web", "port": "http", "visibility": "project"}}),
        cell(connections=[
            {"cell": "data", "endpoint": "api"},
            {"external": {"cidr": "0.0.0.0/0", "ports": [{"port": 443}]}},
        ]),
    )  # fmt: skip
    assert len(every) > 4
    for policy in every.values():
        assert set(policy["spec"]) == {"podSelector", "policyTypes", "ingress", "egress"}
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        labels = policy["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "cellward"
        assert labels["cellward.dev/cell"] == "web"
        assert labels["cellward.dev/environment"] == "dev"


def test_the_pod_port_is_what_opens() -> None:
    """H3: with servicePort 80 and port 8080, both sides name 8080."""
    data = cell(
        "data", components={"api": component(ports={"http": {"port": 8080, "servicePort": 80}})},
        endpoints={"api": {"component": "api", "port": "http", "visibility": "project"}},
    )  # fmt: skip
    caller = cell(connections=[{"cell": "data", "endpoint": "api", "env": "API"}])
    egress = policies_of(data, caller)["connection.shop.data.api"]["spec"]["egress"]
    ingress = policies_of(data)["endpoint.api"]["spec"]["ingress"]
    assert egress[0]["ports"] == ingress[0]["ports"] == [{"port": 8080, "protocol": "TCP"}]


def test_peers_are_named_by_labels_that_only_the_agent_writes() -> None:
    """H1, H2: every peer that is a pod of another namespace is bound to that namespace in the same entry."""
    data = cell("data", endpoints={"api": {"component": "web", "port": "http", "visibility": "organization"}})
    caller = cell(project="bank", connections=[{"project": "shop", "cell": "data", "endpoint": "api"}])
    stamps = {"cellward.dev/stamp", "cellward.dev/cluster-stamp"}
    guarded = {"cellward.dev/project", "cellward.dev/environment", "kubernetes.io/metadata.name", *stamps}
    for policy in [*policies_of(data).values(), *policies_of(data, caller).values()]:
        for rule in policy["spec"]["ingress"] + policy["spec"]["egress"]:
            for peer in rule.get("from", []) + rule.get("to", []):
                if "ipBlock" in peer or peer == {"podSelector": {}}:
                    continue
                selector = peer["namespaceSelector"]
                keys = set(selector.get("matchLabels", {}))
                keys |= {item["key"] for item in selector.get("matchExpressions", [])}
                assert keys
                assert keys <= guarded
                name = selector.get("matchLabels", {}).get("kubernetes.io/metadata.name")
                assert keys & stamps or name in {"kube-system", "cellward-system"}
                assert "podSelector" in peer


@pytest.mark.parametrize(
    ("cidr", "excluded"),
    [
        ("0.0.0.0/0", 6),
        ("169.254.0.0/16", 3),
        ("203.0.113.0/24", 0),
        ("::/0", 10),
        ("64:ff9b::/96", 6),
        ("64:ff9b::a9fe:0/112", 3),
        ("64:ff9b:1:fffe::/96", 6),
        ("fd00:ec2::/32", 2),
        ("2001:db8::/32", 0),
    ],
)
def test_metadata_services_stay_closed(cidr: str, excluded: int) -> None:
    """H5: an address range is opened without the metadata services inside it."""
    policies = policies_of(cell(connections=[{"external": {"cidr": cidr, "ports": [{"port": 80}]}}]))
    name = next(item for item in policies if item.startswith("external."))
    block = policies[name]["spec"]["egress"][0]["to"][0]["ipBlock"]
    assert len(block.get("except", [])) == excluded
    if cidr == "0.0.0.0/0":
        pod = Pod(namespace_of("shop", "web", "dev"), "p", "10.0.0.1", {}, {})
        assert allowed(list(policies.values()), pod, Outside("192.0.2.1"), 80, "TCP")
        for closed in ("169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200"):
            assert not allowed(list(policies.values()), pod, Outside(closed), 80, "TCP")


NAT64 = (
    "64:ff9b::a9fe:a9fe", "64:ff9b::a83f:8110", "64:ff9b::6464:64c8", "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:ffa9:fe:a9fe::", "64:ff9b:1:fffe:a9:fea9:fe00:0",
    "64:ff9b:1:fffe::a9fe:aa17",
)  # fmt: skip


@pytest.mark.parametrize("address", NAT64)
@pytest.mark.parametrize("cidr", ["::/0", "64:ff9b::/32", "64:ff9b::/96", "64:ff9b:1:fffe::/96"])
def test_v10_metadata_services_stay_closed_behind_a_nat64_gateway(cidr: str, address: str) -> None:
    """Each prefix length of RFC 6052, well-known and local-use; the range around them opens."""
    policies = policies_of(cell(connections=[{"external": {"cidr": cidr, "ports": [{"port": 80}]}}]))
    pod = Pod(namespace_of("shop", "web", "dev"), "p", "fd01::1", {}, {})
    beside = {"::/0": "2001:db8::1", "64:ff9b::/32": "64:ff9b::c000:201"}.get(cidr, cidr.replace("/96", "c000:201"))
    assert allowed(list(policies.values()), pod, Outside(beside), 80, "TCP")
    assert not allowed(list(policies.values()), pod, Outside(address), 80, "TCP")


def test_a_host_name_opens_nothing() -> None:
    """What NetworkPolicy cannot express stays closed (it is reported as a condition)."""
    external = {"external": {"host": "api.example.com", "ports": [{"port": 443}]}, "env": "API"}
    assert set(policies_of(cell(connections=[external]))) == set(policies_of(cell()))


def test_nothing_in_isolation_depends_on_the_environment_but_its_names() -> None:
    """One release, two environments: the policies differ in namespace and environment only."""
    data = cell("data", endpoints={"api": {"component": "web", "port": "http", "visibility": "project"}})
    release = releases(load(data, cell(connections=[{"cell": "data", "endpoint": "api"}])))[-1]
    dev, prod = (to_network_policies(intent(release, name), PLACEHOLDER) for name in ENVIRONMENTS)
    assert [repr(item).replace("'dev'", "'prod'").replace("--dev", "--prod") for item in dev] == list(map(repr, prod))


def test_the_evaluator_sees_a_hole() -> None:
    """The oracle is not blind: an added allow-all rule, or a missing default deny, changes its answer."""
    release = releases(load(cell()))[0]
    policies = list(to_network_policies(intent(release, "dev"), PLACEHOLDER))
    namespace = namespace_of("shop", "web", "dev")
    target = Pod(namespace, "web", "10.0.0.1", {"cellward.dev/component": "web"}, {})
    source = replace(target, namespace="attacker", ip="10.0.0.2")
    assert not allowed(policies, source, target, 8080, "TCP")
    hole = {**policies[0], "spec": {**policies[0]["spec"], "ingress": [{}]}}
    assert allowed([*policies, hole], source, target, 8080, "TCP")
    assert allowed([], source, target, 8080, "TCP")
