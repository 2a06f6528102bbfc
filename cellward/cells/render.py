"""Rendering: (signed release, cluster facts, environment, stamps, start gate) → Kubernetes objects, and nothing else.

The agent renders what it verified; the hub uses the same function to preview, with placeholders for what a cluster's
installation alone knows: its stamps and its start gate. The same input gives the same objects in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cellward.cells import labels, workloads
from cellward.cells.conditions import CellCondition, conditions_of
from cellward.cells.errors import BAD_SPEC, NOT_HOSTED, NOTHING_TO_TRY, PROJECT_NOT_ALLOWED
from cellward.cells.gate import StartGate
from cellward.cells.manifests import prepare_manifest
from cellward.cells.model import CellSpec, Component
from cellward.cells.network import NetworkIntent, intent_of, to_network_policies
from cellward.cells.spec import spec_of
from cellward.cells.stamps import Stamps
from cellward.cells.validate import users_of
from cellward.documents.facts import ClusterFacts
from cellward.documents.model import Release

namespace_of = labels.namespace_of

#: Kinds in the order they are applied.
APPLY_ORDER = (
    "ServiceAccount",
    "ConfigMap",
    "PersistentVolumeClaim",
    "Service",
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
)
_POD_SECURITY = "pod-security.kubernetes.io/"


@dataclass(frozen=True, slots=True)
class RenderedCell:
    """A cell's objects: the namespace, its isolation, and the rest in apply order; and what they cannot express.

    ``network`` is the intent that the isolation objects were made from.
    """

    namespace: str
    namespace_object: dict[str, Any]
    network: NetworkIntent
    isolation: tuple[dict[str, Any], ...]
    objects: tuple[dict[str, Any], ...]
    conditions: tuple[CellCondition, ...] = ()


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a cell is rendered to, and what all of its objects carry."""

    release: Release
    spec: CellSpec
    environment: str
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    network: NetworkIntent
    gate: StartGate | None

    def gate_of(self, component: str) -> dict[str, Any] | None:
        """Return the container that pods of a component begin with, if any."""
        return None if self.gate is None else self.gate.container(self.network, component)

    def object(self, api_version: str, kind: str, name: str, component: str, **body: Any) -> dict[str, Any]:
        own = labels.component_labels(self.labels, component, self.release.version)
        metadata = {
            "name": name,
            "namespace": self.namespace,
            "labels": own,
            "annotations": dict(self.annotations),
        }
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body}


def render(
    release: Release, facts: ClusterFacts, environment: str, stamps: Stamps, gate: StartGate | None = None
) -> RenderedCell:
    """Return the objects of a release in one environment of one cluster.

    Args:
        release: signed, and verified by whoever renders it.
        facts: of the cluster.
        environment: one that it hosts.
        stamps: of the cluster.
        gate: what every pod begins with there; None where the installation has no start gate.

    Raises cells/environment-not-hosted and cells/project-not-allowed when the facts do not admit it, cells/spec-too-new
    and cells/bad-spec when the release cannot be understood, and what ``validate_spec`` raises.
    """
    if environment not in facts.environments:
        raise NOT_HOSTED(f"cluster {facts.name} does not host environment {environment[:40]!r}")
    if not facts.allows_project(release.project):
        raise PROJECT_NOT_ALLOWED(f"cluster {facts.name} does not run cells of project {release.project}")
    spec = spec_of(release)
    target = _Target(
        release=release,
        spec=spec,
        environment=environment,
        namespace=namespace_of(release.project, release.cell, environment),
        labels=labels.cell_labels(release.project, release.cell, environment),
        annotations={labels.OWNER: release.owner} if release.owner else {},
        network=intent_of(spec, release.project, release.cell, environment),
        gate=gate,
    )
    objects = [item for name in sorted(spec.components) for item in _component(target, name, spec.components[name])]
    objects.sort(key=_apply_key)
    isolation = to_network_policies(target.network, stamps)
    _check_unique([*isolation, *objects])
    namespace = stamps.restamp(_namespace(target))
    told = (*conditions_of(spec), *_ungated(target))
    return RenderedCell(target.namespace, namespace, target.network, isolation, tuple(objects), told)


def _ungated(target: _Target) -> list[CellCondition]:
    """Say which components get no gate although the installation has one."""
    text = "it may talk to address ranges on every port that a start gate tries, so its pods start without one"
    return [
        CellCondition(NOTHING_TO_TRY.code, f"spec.components.{name}", text)
        for name in sorted(target.spec.components)
        if target.gate is not None and target.gate_of(name) is None
    ]


def _check_unique(objects: Sequence[Mapping[str, Any]]) -> None:
    """Refuse two objects of one name: the second would replace the first, and with a policy an edge would be lost."""
    seen = Counter((item["kind"], item["metadata"]["name"]) for item in objects)
    twice = sorted(identity for identity, count in seen.items() if count > 1)
    if twice:
        raise BAD_SPEC(f"{'/'.join(twice[0])} is rendered twice; rename the component, raw manifest or connection")


def _apply_key(item: Mapping[str, Any]) -> tuple[int, str]:
    return APPLY_ORDER.index(item["kind"]), item["metadata"]["name"]


def _namespace(target: _Target) -> dict[str, Any]:
    # Baseline is enforced, because a cell has no business below it whatever a bundle says; restricted is what the
    # defaults meet, and the API server warns of less. The versions are stated, though they are the defaults: what is
    # stated is set right by one apply. The guard of pod security in the chart names the same values.
    levels = {"enforce": "baseline", "audit": "restricted", "warn": "restricted"}
    security = {f"{_POD_SECURITY}{mode}": level for mode, level in levels.items()}
    security |= {f"{_POD_SECURITY}{mode}-version": "latest" for mode in levels}
    metadata = {
        "name": target.namespace,
        "labels": {**target.labels, **security},
        "annotations": {**target.annotations, labels.TAKE_BACK: target.namespace},
    }
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def _component(target: _Target, name: str, component: Component) -> list[dict[str, Any]]:
    own = labels.component_labels(target.labels, name, target.release.version)
    if component.type == "manifests":
        gate = target.gate_of(name)
        return [prepare_manifest(item, target.namespace, own, target.annotations, gate) for item in component.manifests]
    objects = [target.object("v1", "ServiceAccount", name, name, automountServiceAccountToken=False)]
    data = workloads.config_data(component)
    if data:
        objects.append(target.object("v1", "ConfigMap", f"{name}-config", name, data=data))
    for claim, spec in workloads.claims(name, component):
        objects.append(target.object("v1", "PersistentVolumeClaim", claim, name, spec=spec))
    if component.serves:
        objects.append(target.object("v1", "Service", name, name, spec=_service(name, component)))
    job = component.type in ("job", "cronjob")
    # The template of a Job cannot change: a new version alone must not call for a release that replaces things.
    once = labels.without_version(own) if component.type == "job" else own
    addresses, gate = _addresses(target, name), target.gate_of(name)
    template = workloads.pod_template(name, component, once, addresses, job=job, gate=gate)
    api_version, kind, workload = workloads.workload_spec(name, component, template)
    objects.append(target.object(api_version, kind, name, name, spec=workload))
    return objects


def _service(name: str, component: Component) -> dict[str, Any]:
    ports = [
        {"name": port, "port": found.exposed, "targetPort": found.port, "protocol": found.protocol}
        for port, found in sorted(component.ports.items())
    ]
    # By the name too: pods that measure isolation stand for a component, and nothing real must reach them.
    selector = {labels.COMPONENT: name, labels.NAME: name}
    return {"type": component.service_type, "selector": selector, "ports": ports}


def _addresses(target: _Target, component: str) -> dict[str, str]:
    """Return the variables that connections give a component: name to ``service.namespace.svc:port``."""
    found: dict[str, str] = {}
    for connection in target.spec.connections:
        if connection.env is None or component not in users_of(target.spec, connection):
            continue
        peer, external = connection.resolved, connection.external
        if peer is not None:
            namespace = namespace_of(peer.project, peer.cell, target.environment)
            found[connection.env] = f"{peer.service}.{namespace}.svc:{peer.service_port}"
        elif external is not None:
            host = external.host or str(external.cidr).rsplit("/", 1)[0]
            host = f"[{host}]" if ":" in host else host
            found[connection.env] = f"{host}:{external.ports[0].port}"
    return found
