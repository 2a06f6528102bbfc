"""Raw manifests in a cell: which kinds, and what is set on them.

Allowed is what a cell's account may write in its own namespace, all of it namespaced. Anything cluster-scoped, anything
that gives rights or opens isolation, and every kind nobody thought of is refused, before signing and when rendered.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from cellward.cells import labels
from cellward.cells.errors import BAD_FIELD, KIND_NOT_ALLOWED
from cellward.cells.gated import GATE, put_first

#: (apiVersion, kind) of what may be given raw.
ALLOWED = frozenset(
    {
        ("v1", "ConfigMap"),
        ("v1", "PersistentVolumeClaim"),
        ("v1", "Service"),
        ("v1", "ServiceAccount"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("batch/v1", "CronJob"),
        ("batch/v1", "Job"),
        ("policy/v1", "PodDisruptionBudget"),
    }
)
_METADATA = {"name", "labels", "annotations"}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")


def check_manifest(manifest: Mapping[str, Any], where: str) -> None:
    """Refuse what a raw manifest may not be or say.

    Raises cells/kind-not-allowed, or cells/bad-field for a namespace, a status, other metadata, or a label that
    cellward sets itself, also on its pods, jobs and claims.
    """
    identity = (str(manifest.get("apiVersion")), str(manifest.get("kind")))
    if identity not in ALLOWED:
        kinds = ", ".join(sorted(kind for _, kind in ALLOWED))
        raise KIND_NOT_ALLOWED(f"{where}: {identity[0]} {identity[1]} is not one of {kinds}"[:400])
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict) or not _NAME.match(str(metadata.get("name"))):
        raise BAD_FIELD(f"{where}.metadata.name: is missing or malformed", field=f"{where}.metadata.name")
    extra = sorted(set(metadata) - _METADATA)
    if extra or "status" in manifest:
        field = f"{where}.metadata.{extra[0]}" if extra else f"{where}.status"
        raise BAD_FIELD(f"{field}: is not taken in a raw manifest", field=field)
    for place, found in _metadata_of(manifest, where):
        _check_metadata(found, place)
    for claim in _claim_templates(manifest):
        _check_claim_template(claim, f"{where} claim template metadata")
    _check_retention(manifest, where)
    _check_service(manifest, where)
    _check_containers(manifest, where)


def _check_containers(manifest: Mapping[str, Any], where: str) -> None:
    """Refuse a container that passes for the start gate."""
    for template in _templates(manifest):
        pod = template.get("spec")
        for field in ("initContainers", "containers"):
            found = pod.get(field) if isinstance(pod, dict) else None
            if any(isinstance(one, dict) and one.get("name") == GATE for one in found or ()):
                at = f"{where} pod template {field}"
                raise BAD_FIELD(f"{at}: the name {GATE} is for the start gate of a cluster", field=at)


def _check_service(manifest: Mapping[str, Any], where: str) -> None:
    """Refuse a Service that claims addresses: whoever may claim one gets what others send there (CVE-2020-8554)."""
    spec = manifest.get("spec")
    if manifest.get("kind") == "Service" and isinstance(spec, dict) and spec.get("externalIPs"):
        field = f"{where}.spec.externalIPs"
        raise BAD_FIELD(f"{field}: is not taken; a cell is reached by its endpoints", field=field)


def _check_retention(manifest: Mapping[str, Any], where: str) -> None:
    """Refuse a StatefulSet that takes its volumes along: data ends by a tombstone that says so, by nothing else."""
    spec = manifest.get("spec")
    policy = spec.get("persistentVolumeClaimRetentionPolicy") if isinstance(spec, dict) else None
    for when, what in policy.items() if isinstance(policy, dict) else ():
        if what != "Retain":
            field = f"{where}.spec.persistentVolumeClaimRetentionPolicy.{when}"
            raise BAD_FIELD(f"{field}: only Retain is taken; data goes by a tombstone with deleteData", field=field)


def prepare_manifest(
    manifest: Mapping[str, Any],
    namespace: str,
    own: Mapping[str, str],
    annotations: Mapping[str, str],
    gate: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a copy with namespace, labels and annotations set, labels also on its pods, and the gate in them."""
    result: dict[str, Any] = copy.deepcopy(dict(manifest))
    metadata = result["metadata"]
    metadata["namespace"] = namespace
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}
    metadata["labels"] = {**(metadata.get("labels") or {}), **own}
    for template in _templates(result):
        inner = template.setdefault("metadata", {}) or {}
        template["metadata"] = inner
        # The template of a Job cannot change, and a new version alone is to change nothing that cannot.
        once = labels.without_version(own) if result.get("kind") == "Job" else own
        inner["labels"] = {**(inner.get("labels") or {}), **once}
        if isinstance(template.get("spec"), dict):
            put_first(template["spec"], gate)
    return result


def _metadata_of(manifest: Mapping[str, Any], where: str) -> list[tuple[str, Any]]:
    found = [(f"{where}.metadata", manifest["metadata"])]
    found += [(f"{where} pod template metadata", item.get("metadata") or {}) for item in _templates(manifest)]
    spec = manifest.get("spec")
    job = spec.get("jobTemplate") if isinstance(spec, dict) else None
    found += [(f"{where} job template metadata", job.get("metadata") or {})] if isinstance(job, dict) else []
    return found


def _claim_templates(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the templates of claims: those of a StatefulSet, and those that go with a pod."""
    spec = manifest.get("spec")
    own = spec.get("volumeClaimTemplates") if isinstance(spec, dict) else None
    found = list(own) if isinstance(own, list) else []
    for template in _templates(manifest):
        pod = template.get("spec")
        volumes = pod.get("volumes") if isinstance(pod, dict) else None
        for volume in volumes if isinstance(volumes, list) else ():
            ephemeral = volume.get("ephemeral") if isinstance(volume, dict) else None
            found += [ephemeral.get("volumeClaimTemplate")] if isinstance(ephemeral, dict) else []
    return [one for one in found if isinstance(one, dict)]


def _check_claim_template(template: Mapping[str, Any], where: str) -> None:
    """Refuse what a claim of the cell may not say: Kubernetes copies all of it, owners too, to the claims it makes."""
    metadata = template.get("metadata") or {}
    _check_metadata(metadata, where)
    if extra := sorted(set(metadata) - _METADATA):
        raise BAD_FIELD(f"{where}.{extra[0]}: is not taken in a raw manifest", field=f"{where}.{extra[0]}")


def _check_metadata(metadata: object, where: str) -> None:
    if not isinstance(metadata, dict):
        raise BAD_FIELD(f"{where}: is not a map", field=where)
    for name in ("labels", "annotations"):
        values = metadata.get(name) or {}
        if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            raise BAD_FIELD(f"{where}.{name}: is not a map of text", field=f"{where}.{name}")
        ours = sorted(key for key in values if key.startswith(labels.PREFIX) or key == labels.MANAGED_BY)
        if ours:
            raise BAD_FIELD(f"{where}.{name}.{ours[0]}: is set by cellward", field=f"{where}.{name}")


def _templates(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the pod templates of a manifest, however deep its kind keeps them."""
    spec = manifest.get("spec")
    if isinstance(spec, dict) and manifest.get("kind") == "CronJob":
        inner = spec.get("jobTemplate")
        spec = inner.get("spec") if isinstance(inner, dict) else None
    template = spec.get("template") if isinstance(spec, dict) else None
    return [template] if isinstance(template, dict) else []
