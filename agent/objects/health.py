"""Whether an object is healthy, from the object alone; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from agent.kube.conditions import condition_of


@dataclass(frozen=True, slots=True)
class Health:
    """State of one object: ``ready``, ``progressing`` (wait), ``failed`` (waiting is pointless); and why."""

    state: Literal["ready", "progressing", "failed"]
    reason: str = ""


READY: Final = Health("ready")


def health_of(obj: Mapping[str, Any]) -> Health:
    """Return the health of an object as the API server has it now."""
    if obj.get("metadata", {}).get("deletionTimestamp"):
        return Health("progressing", "it is being deleted")
    return _BY_KIND.get(str(obj.get("kind")), _by_conditions)(obj)


def is_done(obj: Mapping[str, Any]) -> bool:
    """Whether the object is a Job that completed: its end is no drift, and it must not run again."""
    return obj.get("kind") == "Job" and _condition(obj, "Complete") == "True"


def _condition(obj: Mapping[str, Any], name: str) -> str:
    return str(condition_of(obj, name).get("status", ""))


def _reason_of(obj: Mapping[str, Any], name: str) -> str:
    condition = condition_of(obj, name)
    return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")


def _observed(obj: Mapping[str, Any]) -> bool:
    generation = int(obj.get("metadata", {}).get("generation") or 0)
    return int((obj.get("status") or {}).get("observedGeneration") or 0) >= generation


def _deployment(obj: Mapping[str, Any]) -> Health:
    status = obj.get("status") or {}
    wanted = int(obj["spec"].get("replicas", 1))
    if not _observed(obj):
        return Health("progressing", "the controller has not seen it yet")
    if _reason_of(obj, "Progressing").startswith("ProgressDeadlineExceeded"):
        return Health("failed", _reason_of(obj, "Progressing"))
    updated, available = int(status.get("updatedReplicas") or 0), int(status.get("availableReplicas") or 0)
    if updated < wanted:
        return Health("progressing", f"{updated} of {wanted} pods are of this release")
    if int(status.get("replicas") or 0) > updated:
        return Health("progressing", "pods of the previous release still run")
    if available < wanted:
        return Health("progressing", f"{available} of {wanted} pods are available")
    return READY


def _stateful_set(obj: Mapping[str, Any]) -> Health:
    status, spec = obj.get("status") or {}, obj["spec"]
    wanted = int(spec.get("replicas", 1))
    if not _observed(obj):
        return Health("progressing", "the controller has not seen it yet")
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type", "RollingUpdate") == "RollingUpdate":
        partition = int((strategy.get("rollingUpdate") or {}).get("partition") or 0)
        updated = int(status.get("updatedReplicas") or 0)
        if updated < wanted - partition:
            return Health("progressing", f"{updated} of {wanted} pods are of this release")
    ready = int(status.get("readyReplicas") or 0)
    return READY if ready >= wanted else Health("progressing", f"{ready} of {wanted} pods are ready")


def _daemon_set(obj: Mapping[str, Any]) -> Health:
    status = obj.get("status") or {}
    if not _observed(obj):
        return Health("progressing", "the controller has not seen it yet")
    wanted = int(status.get("desiredNumberScheduled") or 0)
    updated, available = int(status.get("updatedNumberScheduled") or 0), int(status.get("numberAvailable") or 0)
    if min(updated, available) < wanted:
        return Health("progressing", f"{min(updated, available)} of {wanted} pods are available")
    return READY


def _job(obj: Mapping[str, Any]) -> Health:
    if _condition(obj, "Failed") == "True":
        return Health("failed", _reason_of(obj, "Failed"))
    if is_done(obj) or obj["spec"].get("suspend"):
        return READY
    return Health("progressing", "the job runs")


def _claim(obj: Mapping[str, Any]) -> Health:
    phase = str((obj.get("status") or {}).get("phase") or "Pending")
    if phase == "Lost":
        return Health("failed", "the volume is lost")
    return READY if phase == "Bound" else Health("progressing", f"the claim is {phase}")


def _service(obj: Mapping[str, Any]) -> Health:
    if obj["spec"].get("type") != "LoadBalancer":
        return READY
    addresses = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress")
    return READY if addresses else Health("progressing", "the load balancer has no address yet")


def _namespace(obj: Mapping[str, Any]) -> Health:
    phase = str((obj.get("status") or {}).get("phase") or "Active")
    return READY if phase == "Active" else Health("progressing", f"the namespace is {phase}")


def _autoscaler(obj: Mapping[str, Any]) -> Health:
    # That there is nothing to measure yet is no fault of the release; that there is nothing to scale is.
    if _condition(obj, "AbleToScale") == "False":
        return Health("progressing", _reason_of(obj, "AbleToScale"))
    return READY


def _budget(obj: Mapping[str, Any]) -> Health:
    if not _observed(obj):
        return Health("progressing", "the controller has not seen it yet")
    reason = _reason_of(obj, "DisruptionAllowed")
    return Health("progressing", reason) if reason.startswith("SyncFailed") else READY


def _always(_: Mapping[str, Any]) -> Health:
    return READY


def _by_conditions(obj: Mapping[str, Any]) -> Health:
    if _condition(obj, "Stalled") == "True" or _condition(obj, "Failed") == "True":
        return Health("failed", _reason_of(obj, "Stalled") or _reason_of(obj, "Failed"))
    if _condition(obj, "Ready") in {"False", "Unknown"}:
        return Health("progressing", _reason_of(obj, "Ready"))
    return READY


_BY_KIND: Final[Mapping[str, Callable[[Mapping[str, Any]], Health]]] = {
    "Deployment": _deployment,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "Job": _job,
    "PersistentVolumeClaim": _claim,
    "Service": _service,
    "Namespace": _namespace,
    "HorizontalPodAutoscaler": _autoscaler,
    "PodDisruptionBudget": _budget,
    # Whether its next run will work cannot be seen from the object; a run that failed is not the release's doing alone.
    "CronJob": _always,
}
