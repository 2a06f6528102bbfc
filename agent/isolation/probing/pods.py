"""The Jobs of a probe, and what their pods say; pure.

A probe's pods are selected by the cell's policies like pods of the component they stand for, by its label, and by no
Service: they lack the name that Services select by, and a readiness gate that nobody fulfils keeps them out of
endpoints whatever a hand-written Service selects. They run as nobody, on nothing, and end by themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.isolation.probing.edges import RESPONDER_PORT, Target
from agent.kube.interfaces import JSONObject
from cellward.cells import labels

#: Of every pod and Job of a probe: which one it belongs to.
LABEL: Final = "cellward.dev/probe"
#: Of every pod: which part of the probe it is.
PART: Final = "cellward.dev/probe-part"
PROGRAM: Final = "/opt/cellward/bin/prober"
CONTAINER: Final = "prober"
_GATE: Final = "cellward.dev/never-ready"
#: After which a Job is ended, and after which one that ended is removed, seconds: also when no agent lives any more.
_DEADLINE, _KEPT = 90, 60


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pod measured: for each target whether it was open, and when it was open last, seconds."""

    open: tuple[bool, ...]
    lag_seconds: tuple[float, ...]
    node: str


def responder(probe: str, namespace: str, image: str) -> JSONObject:
    """Return the Job whose pod answers."""
    return _job(probe, "responder", namespace, image, labels_of="", arguments=["serve", str(RESPONDER_PORT)], env=[])


def caller(
    probe: str,
    part: str,
    namespace: str,
    image: str,
    *,
    component: str,
    wanted: Sequence[Target],
    settle_seconds: float,
) -> JSONObject:
    """Return the Job whose pod tries the targets as a pod of ``component``."""
    targets = [{"to": _joined(one), "how": one.how, "closed": one.expected == "closed"} for one in wanted]
    plan = json.dumps({"settle_ms": int(settle_seconds * 1000), "targets": targets}, separators=(",", ":"))
    env = [
        {"name": "PROBE_PLAN", "value": plan},
        {"name": "NODE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
    ]
    return _job(probe, part, namespace, image, labels_of=component, arguments=["try"], env=env)


def address_of(pod: Mapping[str, Any]) -> str:
    """Return the address of a pod whose container runs; empty while it does not."""
    status = pod.get("status") or {}
    running = any("running" in (one.get("state") or {}) for one in status.get("containerStatuses") or ())
    return str(status.get("podIP") or "") if running else ""


def trouble_of(pod: Mapping[str, Any]) -> str:
    """Return why a pod of a probe will not run by itself; empty while it may."""
    status = pod.get("status") or {}
    for one in status.get("containerStatuses") or ():
        waiting = (one.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}:
            return f"its image was not pulled: {str(waiting.get('message') or waiting['reason'])[:300]}"
        if waiting.get("reason") in {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}:
            return f"its container was not started: {str(waiting.get('message') or waiting['reason'])[:300]}"
    return ""


def outcome_of(pod: Mapping[str, Any], job_uid: str, count: int) -> Outcome | None:
    """Read the result of a pod that ended; None of one that did not, of a stranger's, and of nonsense.

    Args:
        pod: as the API server has it.
        job_uid: of the Job that this agent made: only its own pods count.
        count: number of targets.
    """
    owners = pod["metadata"].get("ownerReferences") or ()
    if not any(owner.get("controller") and owner.get("uid") == job_uid for owner in owners):
        return None
    for one in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = (one.get("state") or {}).get("terminated")
        if one.get("name") == CONTAINER and ended is not None and ended.get("exitCode") == 0:
            return _read(str(ended.get("message") or ""), count, str((pod.get("spec") or {}).get("nodeName") or ""))
    return None


def _read(message: str, count: int, node: str) -> Outcome | None:
    try:
        said = json.loads(message)
        letters, lags = str(said["open"]), [float(one) / 1000 for one in said["lag_ms"]]
    except (ValueError, KeyError, TypeError):
        return None
    if len(letters) != count or len(lags) != count or set(letters) - set("01"):
        return None
    return Outcome(tuple(letter == "1" for letter in letters), tuple(lags), node)


def _joined(target: Target) -> str:
    return f"[{target.host}]:{target.port}" if ":" in target.host else f"{target.host}:{target.port}"


def _job(
    probe: str, part: str, namespace: str, image: str, *, labels_of: str, arguments: Sequence[str], env: Sequence[Any]
) -> JSONObject:
    marked = {LABEL: probe, PART: part}
    chosen = {**marked, labels.COMPONENT: labels_of} if labels_of else marked
    container = {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [PROGRAM],
        "args": list(arguments),
        "env": list(env),
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "32Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "readinessGates": [{"conditionType": _GATE}],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"cellward-probe-{probe}-{part}", "namespace": namespace, "labels": marked},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": _DEADLINE,
            "ttlSecondsAfterFinished": _KEPT,
            "template": {"metadata": {"labels": chosen}, "spec": pod},
        },
    }
