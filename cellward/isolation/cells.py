"""Cells as ends of connections: what NetworkPolicies that are rendered from releases allow between them; pure.

Judged are the rendered objects, never the intent they were made from: that both say the same is what tests show. What
an agent closes besides is closed here too: a quarantined cell (``agent.isolation.driver``), and an edge whose callee
offers something else than the caller was signed for (ADR 0016). Addresses of pods are not known, so what only an
address block could decide is undetermined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cellward.cells import labels
from cellward.cells.edges import difference, needs_of, offers_of
from cellward.cells.model import CellSpec
from cellward.cells.render import RenderedCell, render
from cellward.cells.spec import spec_of
from cellward.cells.stamps import PLACEHOLDER
from cellward.documents.facts import ClusterFacts
from cellward.documents.model import Release
from cellward.documents.names import CellKey
from cellward.isolation.evaluate import judge
from cellward.isolation.model import Connection, ContainerPort, End, Judgement, Pod, Verdict, World

#: Where a pod template is within an object of each kind that has one.
_TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


@dataclass(frozen=True, slots=True)
class Member:
    """A cell as it is on a cluster.

    Attributes:
        key: which cell.
        release: what was signed.
        spec: the cell in it.
        pods: one for each pod template; ``name`` is ``component/object``.
        namespace_labels: labels of its namespace.
        policies: its NetworkPolicies as they are meant to be on the cluster.
        shut: why edges are closed that the release has, by the name of their policy.
        quarantined: whether everything is closed.
    """

    key: CellKey
    release: Release
    spec: CellSpec
    pods: tuple[Pod, ...]
    namespace_labels: Mapping[str, str]
    policies: tuple[Mapping[str, Any], ...]
    shut: Mapping[str, str]
    quarantined: bool

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.policies[0]["metadata"]["namespace"])

    def component_of(self, pod: Pod) -> str:
        """The component that a pod belongs to."""
        return pod.labels.get(labels.COMPONENT, "")


def members(placed: Iterable[tuple[str, Release, bool]]) -> tuple[Member, ...]:
    """Return the cells of one cluster from (environment, release in force, quarantined), in order.

    Raises what ``render`` raises.
    """
    read = [(CellKey(release.project, release.cell, where), release, shut) for where, release, shut in placed]
    specs = {key: spec_of(release) for key, release, _ in read}
    return tuple(sorted((_member(key, release, specs, shut) for key, release, shut in read), key=lambda one: one.key))


def world_of(cells: Sequence[Member]) -> World:
    """Return what decides between these cells, and between them and what is outside."""
    return World(
        {one.namespace: one.namespace_labels for one in cells}, [policy for one in cells for policy in one.policies]
    )


@dataclass(frozen=True, slots=True)
class Passage:
    """One component to one port of another; ``judgement`` is what the policies of both say."""

    source: str
    destination: str
    port: ContainerPort
    judgement: Judgement

    @property
    def verdict(self) -> Verdict:
        """Of both sides."""
        return self.judgement.verdict


def passages(world: World, source: Member, destination: Member) -> Iterator[Passage]:
    """Judge every component of one cell against every port that containers of another have."""
    for pod in source.pods:
        for other in destination.pods:
            for port in other.ports:
                found = judge(world, Connection(pod, other, port.port, port.protocol))
                yield Passage(source.component_of(pod), destination.component_of(other), port, found)


def judged(world: World, source: End, destination: End, port: int, protocol: str) -> Judgement:
    """Judge one connection; raises isolation/bad-policy."""
    return judge(world, Connection(source, destination, port, protocol))


def _member(key: CellKey, release: Release, specs: Mapping[CellKey, CellSpec], quarantined: bool) -> Member:
    # Whether this cluster hosts it was the agent's to decide; here only what it would be is asked for.
    facts = ClusterFacts(name="any", uid="", environments=(key.environment,), production=False)
    out = render(release, facts, key.environment, PLACEHOLDER)
    shut = _shut(key, specs)
    policies = tuple(
        _closed(policy) if quarantined or policy["metadata"]["name"] in shut else policy for policy in out.isolation
    )
    # The API server writes the name of a namespace into its labels.
    namespace = {**out.namespace_object["metadata"]["labels"], labels.NAMESPACE_NAME: out.namespace}
    return Member(key, release, specs[key], tuple(_pods(out)), namespace, policies, shut, quarantined)


def _shut(key: CellKey, specs: Mapping[CellKey, CellSpec]) -> dict[str, str]:
    """Edges whose callee is here and offers something else; one that is not here leaves the edge as it is."""
    found = {}
    for need in needs_of(specs[key]):
        callee = specs.get(CellKey(need.project, need.cell, key.environment))
        if callee is not None and (why := difference(need, offers_of(callee))):
            found[need.edge] = why
    return found


def _closed(policy: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**policy, "spec": {**policy["spec"], "ingress": [], "egress": []}}


def _pods(out: RenderedCell) -> Iterator[Pod]:
    for item in out.objects:
        template: Any = item if item["kind"] in _TEMPLATES else None
        for field in _TEMPLATES.get(item["kind"], ()):
            template = template[field]
        if template is None:
            continue
        carried = template["metadata"]["labels"]
        ports = tuple(
            ContainerPort(str(port.get("name", "")), port["containerPort"], port.get("protocol") or "TCP")
            for container in template["spec"]["containers"]
            for port in container.get("ports") or ()
        )
        name = f"{carried.get(labels.COMPONENT, '')}/{item['metadata']['name']}"
        host = bool(template["spec"].get("hostNetwork"))
        yield Pod(out.namespace, name, carried, ports=ports, host_network=host)
