"""Where the start gate stands in what runs pods: before everything else, and in a Job for good; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

#: Name of the container; no other container of a cell has it.
GATE: Final = "cellward-start-gate"


def put_first(pod: dict[str, Any], gate: Mapping[str, Any] | None) -> None:
    """Put the gate before everything that the spec of a pod runs; nothing changes without one."""
    if gate is not None:
        pod["initContainers"] = [dict(gate), *(pod.get("initContainers") or ())]


def without_gate(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod template as it would be without a gate."""
    spec = dict(template.get("spec") or {})
    others = [one for one in spec.pop("initContainers", None) or () if one.get("name") != GATE]
    if others:
        spec["initContainers"] = others
    return {**template, "spec": spec}


def gate_images(manifests: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the images of the start gates in rendered objects, in order; nobody else may give a container the name."""
    specs = [pod for manifest in manifests if (pod := _pod_of(manifest))]
    return tuple(
        sorted({str(one["image"]) for pod in specs for one in pod.get("initContainers") or () if one["name"] == GATE})
    )


def is_ungated(manifest: Mapping[str, Any]) -> bool:
    """Whether an object makes pods that begin with something else; a Job that is there makes no more of them."""
    pod = _pod_of(manifest)
    first: Mapping[str, Any] = next(iter(pod.get("initContainers") or ()), {})
    return bool(pod) and manifest.get("kind") != "Job" and first.get("name") != GATE


def _pod_of(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the pod spec that an object makes pods of; empty when it makes none."""
    spec = manifest.get("spec") or {}
    if manifest.get("kind") == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    return (spec.get("template") or {}).get("spec") or {}


def keep_gate(manifest: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Job with the gate, or without, that it has: its template cannot change, and it runs but once.

    A template that changes otherwise needs another Job anyway, which gets the gate of today.
    """
    if manifest.get("kind") != "Job" or known.get("kind") != "Job":
        return manifest
    ours, theirs = manifest["spec"], known.get("spec") or {}
    was = theirs.get("template") or {}
    if {**ours, "template": without_gate(ours["template"])} != {**theirs, "template": without_gate(was)}:
        return manifest
    return {**manifest, "spec": {**ours, "template": was}}
