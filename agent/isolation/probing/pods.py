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

from agent.isolation.probing.edges import RESPONDER_PORT, Pod, Target
from agent.kube.conditions import is_ready
from agent.kube.interfaces import JSONObject
from cellward.cells import gate, labels

#: Of every pod and Job of a probe: which one it belongs to.
LABEL: Final = "cellward.dev/probe"
#: Of every pod: which part of the probe it is.
PART: Final = "cellward.dev/probe-part"
PROGRAM: Final = gate.PROGRAM
CONTAINER: Final = "prober"
_GATE: Final = "cellward.dev/never-ready"
#: After which a Job is ended, and after which one that ended is removed, seconds: also when no agent lives any more.
_DEADLINE, _KEPT = 90, 60
#: Of a termination message, as the kubelet bounds it.
_LONGEST: Final = 4096


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pod measured: for each target whether it was open, and when it was open last, seconds."""

    open: tuple[bool, ...]
    lag_seconds: tuple[float, ...]
    node: str


def responder(probe: str, namespace: str, image: str) -> JSONObject:
    """Return the Job whose pod answers. The kubelet asks it, so that it is known to before anybody finds it closed."""
    job = _job(probe, "responder", namespace, image, labels_of="", arguments=["serve", str(RESPONDER_PORT)], env=[])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["readinessProbe"] = {"tcpSocket": {"port": RESPONDER_PORT}, "periodSeconds": 1, "timeoutSeconds": 1}
    return job


def caller(
    probe: str,
    part: str,
    namespace: str,
    image: str,
    *,
    component: str,
    wanted: Sequence[Target],
    settle_seconds: float,
    node: str = "",
) -> JSONObject:
    """Return the Job whose pod tries the targets as a pod of ``component``, on a node if that is named."""
    targets = [{"to": _joined(one), "how": one.how, "closed": one.expected == "closed"} for one in wanted]
    plan = json.dumps({"settle_ms": int(settle_seconds * 1000), "targets": targets}, separators=(",", ":"))
    env = [
        {"name": "PROBE_PLAN", "value": plan},
        {"name": "NODE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
    ]
    job = _job(probe, part, namespace, image, labels_of=component, arguments=["try"], env=env)
    if node:
        # By affinity, not by nodeName, so that there is room; the cell runs there, whatever the node is tainted with.
        field = {"key": "metadata.name", "operator": "In", "values": [node]}
        wanted_node = {"nodeSelectorTerms": [{"matchFields": [field]}]}
        affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": wanted_node}}
        job["spec"]["template"]["spec"] |= {"affinity": affinity, "tolerations": [{"operator": "Exists"}]}
    return job


def address_of(pod: Mapping[str, Any]) -> str:
    """Return the address of a pod that answered the kubelet; empty while it did not."""
    status = pod.get("status") or {}
    ready = any(one.get("name") == CONTAINER and one.get("ready") for one in status.get("containerStatuses") or ())
    return str(status.get("podIP") or "") if ready else ""


def is_of(pod: Mapping[str, Any], job_uid: str) -> bool:
    """Whether a pod is one of this Job's own."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner.get("uid") == job_uid for owner in owners)


def ready_pod_of(pod: Mapping[str, Any]) -> Pod | None:
    """Return a pod of a cell as something to be reached; None while it is not ready."""
    spec, status = pod["spec"], pod.get("status") or {}
    if not is_ready(pod) or not status.get("podIP"):
        return None
    answers = any(one.get("readinessProbe") for one in spec.get("containers") or ())
    component = str(pod["metadata"]["labels"][labels.COMPONENT])
    return Pod(component, str(status["podIP"]), str(spec.get("nodeName") or ""), answers)


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


def end_of(pod: Mapping[str, Any]) -> str:
    """Say how a pod ended that left no result; empty while it runs."""
    status = pod.get("status") or {}
    for one in status.get("containerStatuses") or ():
        ended = (one.get("state") or {}).get("terminated")
        if ended is not None:
            return f"it ended with {ended.get('exitCode')}: {str(ended.get('message') or ended.get('reason'))[:300]}"
    if status.get("phase") in {"Failed", "Succeeded"}:
        return f"it ended: {str(status.get('reason') or status['phase'])[:100]}"
    return ""


def outcome_of(pod: Mapping[str, Any], job_uid: str, count: int) -> Outcome | None:
    """Read the result of a pod that ended; None of one that did not, of a stranger's, and of nonsense.

    Args:
        pod: as the API server has it.
        job_uid: of the Job that this agent made: only its own pods count.
        count: number of targets.
    """
    if not is_of(pod, job_uid):
        return None
    for one in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = (one.get("state") or {}).get("terminated")
        if one.get("name") == CONTAINER and ended is not None and ended.get("exitCode") == 0:
            return _read(str(ended.get("message") or ""), count, str((pod.get("spec") or {}).get("nodeName") or ""))
    return None


def _read(message: str, count: int, node: str) -> Outcome | None:
    """Read what a prober wrote; a kubelet may hand on anything (V16)."""
    if len(message) > _LONGEST:
        return None
    try:
        said = json.loads(message)
        letters, lags = said["open"], said["lag_ms"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(letters, str) or len(letters) != count or set(letters) - set("01"):
        return None
    if not isinstance(lags, list) or len(lags) != count:
        return None
    # Neither truths nor floats, of which some are no numbers.
    if not all(type(one) is int and 0 <= one <= _DEADLINE * 1000 for one in lags):
        return None
    return Outcome(tuple(letter == "1" for letter in letters), tuple(one / 1000 for one in lags), node)


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
