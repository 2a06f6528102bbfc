"""Health of one object, kind by kind."""

from __future__ import annotations

from typing import Any

import pytest

from agent.objects.health import health_of, is_done


def _obj(kind: str, spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"generation": 2}, "spec": spec or {}, "status": status or {}}


def _condition(name: str, status: str, reason: str = "") -> dict[str, Any]:
    return {"conditions": [{"type": name, "status": status, "reason": reason, "message": "m"}]}


_SEEN = {"observedGeneration": 2}
_GOOD = {**_SEEN, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2}


@pytest.mark.parametrize(
    ("obj", "state"),
    [
        (_obj("Deployment", {"replicas": 2}, _GOOD), "ready"),
        (_obj("Deployment", {"replicas": 0}, _SEEN), "ready"),
        (_obj("Deployment", {"replicas": 2}, {**_GOOD, "observedGeneration": 1}), "progressing"),
        (_obj("Deployment", {"replicas": 2}, {**_GOOD, "updatedReplicas": 1}), "progressing"),
        (_obj("Deployment", {"replicas": 2}, {**_GOOD, "replicas": 3}), "progressing"),
        (_obj("Deployment", {"replicas": 2}, {**_GOOD, "availableReplicas": 1}), "progressing"),
        (
            _obj("Deployment", {}, {**_SEEN, **_condition("Progressing", "False", "ProgressDeadlineExceeded")}),
            "failed",
        ),
        (_obj("StatefulSet", {"replicas": 2}, _GOOD), "ready"),
        (_obj("StatefulSet", {"replicas": 2}, {**_GOOD, "updatedReplicas": 0}), "progressing"),
        (_obj("StatefulSet", {"replicas": 2}, {**_GOOD, "readyReplicas": 1}), "progressing"),
        (
            _obj(
                "StatefulSet",
                {"replicas": 2, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}},
                {**_GOOD, "updatedReplicas": 0},
            ),
            "ready",
        ),
        (
            _obj(
                "DaemonSet",
                {},
                {**_SEEN, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberAvailable": 1},
            ),
            "ready",
        ),
        (_obj("DaemonSet", {}, {**_SEEN, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1}), "progressing"),
        (_obj("Job", {}, _condition("Complete", "True")), "ready"),
        (_obj("Job", {}, _condition("Failed", "True")), "failed"),
        (_obj("Job", {"suspend": True}), "ready"),
        (_obj("Job"), "progressing"),
        (_obj("PersistentVolumeClaim", {}, {"phase": "Bound"}), "ready"),
        (_obj("PersistentVolumeClaim", {}, {"phase": "Lost"}), "failed"),
        (_obj("PersistentVolumeClaim"), "progressing"),
        (_obj("Service", {"type": "ClusterIP"}), "ready"),
        (_obj("Service", {"type": "LoadBalancer"}), "progressing"),
        (_obj("Service", {"type": "LoadBalancer"}, {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}), "ready"),
        (_obj("Namespace", {}, {"phase": "Terminating"}), "progressing"),
        (_obj("HorizontalPodAutoscaler"), "ready"),
        (_obj("HorizontalPodAutoscaler", {}, _condition("ScalingActive", "False", "FailedGetResourceMetric")), "ready"),
        (_obj("HorizontalPodAutoscaler", {}, _condition("AbleToScale", "False", "FailedGetScale")), "progressing"),
        (_obj("PodDisruptionBudget", {}, _SEEN), "ready"),
        (
            _obj("PodDisruptionBudget", {}, {**_SEEN, **_condition("DisruptionAllowed", "False", "InsufficientPods")}),
            "ready",
        ),
        (
            _obj("PodDisruptionBudget", {}, {**_SEEN, **_condition("DisruptionAllowed", "False", "SyncFailed")}),
            "progressing",
        ),
        (_obj("PodDisruptionBudget"), "progressing"),
        (_obj("ConfigMap"), "ready"),
        (_obj("Anything", {}, _condition("Ready", "False")), "progressing"),
        (_obj("Anything", {}, _condition("Stalled", "True")), "failed"),
    ],
)
def test_health(obj: dict[str, Any], state: str) -> None:
    """Ready, to be waited for, or pointless to wait for; with a reason unless ready."""
    health = health_of(obj)
    assert health.state == state
    assert bool(health.reason) == (state != "ready")


def test_what_is_being_deleted_is_not_ready() -> None:
    """Whatever its status says."""
    obj = _obj("Service", {"type": "ClusterIP"})
    obj["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert health_of(obj).state == "progressing"


def test_only_a_completed_job_is_done() -> None:
    """A failed one is not, nor is anything else."""
    assert is_done(_obj("Job", {}, _condition("Complete", "True")))
    assert not is_done(_obj("Job", {}, _condition("Failed", "True")))
    assert not is_done(_obj("Deployment", {}, _condition("Complete", "True")))
