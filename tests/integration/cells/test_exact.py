"""Baselines on a real API server: of every kind, what it makes of the release and nothing beside it (V1, V10)."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from agent.kube.client import KubeClient
from tests.fakes.cell_world import World, cell_yaml, service_yaml
from tools.stack.api import ApiClient

pytestmark = pytest.mark.real

_JSON_PATCH = "application/json-patch+json"
#: One of each kind that may be released, stating little, so that the API server has much to fill in.
KINDS = """    raw:
      type: manifests
      manifests:
        - {apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {greeting: vVERSION}}
        - {apiVersion: v1, kind: ServiceAccount, metadata: {name: robot, labels: {is: vVERSION}}}
        - {apiVersion: v1, kind: Service, metadata: {name: plain}, spec: {selector: {is: vVERSION}, ports: [{port: 8}]}}
        - apiVersion: v1
          kind: Service
          metadata: {name: headless}
          spec: {clusterIP: None, selector: {is: vVERSION}, ports: [{port: 80}]}
        - apiVersion: v1
          kind: PersistentVolumeClaim
          metadata: {name: disk, labels: {is: vVERSION}}
          spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
        - apiVersion: apps/v1
          kind: DaemonSet
          metadata: {name: every}
          spec: {selector: {matchLabels: {app: e}}, template: {metadata: {labels: {app: e}}, spec: {CONTAINERS}}}
        - apiVersion: apps/v1
          kind: StatefulSet
          metadata: {name: state}
          spec:
            serviceName: headless
            replicas: 0
            selector: {matchLabels: {app: s}}
            template: {metadata: {labels: {app: s}}, spec: {CONTAINERS}}
            volumeClaimTemplates:
              - metadata: {name: data}
                spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
        - apiVersion: autoscaling/v2
          kind: HorizontalPodAutoscaler
          metadata: {name: scaler, labels: {is: vVERSION}}
          spec: {scaleTargetRef: {apiVersion: apps/v1, kind: StatefulSet, name: state}, maxReplicas: 2}
        - apiVersion: batch/v1
          kind: CronJob
          metadata: {name: nightly}
          spec: {schedule: '0 0 * * *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, CONTAINERS}}}}}
        - apiVersion: batch/v1
          kind: Job
          metadata: {name: once}
          spec: {template: {spec: {restartPolicy: Never, containers: [{name: main, image: 'registry.example/x:1'}]}}}
        - apiVersion: policy/v1
          kind: PodDisruptionBudget
          metadata: {name: few, labels: {is: vVERSION}}
          spec: {selector: {matchLabels: {app: e}}}
"""


def _text(cell: str, version: str) -> str:
    containers = "containers: [{name: main, image: 'registry.example/x:VERSION'}]"
    kinds = KINDS.replace("CONTAINERS", containers).replace("VERSION", version)
    return cell_yaml(cell, version, service_yaml(image=f"registry.example/web:{version}") + kinds)


def _path(cell: str, plural: str, name: str, group: str) -> str:
    return f"/{group}/namespaces/shop--{cell}--dev/{plural}/{name}"


def _plant(admin: ApiClient, path: str, where: str, value: Any) -> None:
    """Add to an object and edit away who did, as whoever may patch it can."""
    before = admin.request("GET", path).body["metadata"]["managedFields"]
    for operation in (
        {"op": "add", "path": where, "value": value},
        {"op": "replace", "path": "/metadata/managedFields", "value": before},
    ):
        answer = admin.request("PATCH", path, [operation], content_type=_JSON_PATCH)
        assert answer.ok, answer.message


async def test_v10_every_kind_is_known_without_a_patch(
    world: World, kube: KubeClient, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is tried under another name is what comes of the object itself, when it is made and when it is changed."""
    patched: list[str] = []
    patch_json = kube.patch_json

    async def noted(ref: Any, operations: Any, **how: Any) -> Any:
        patched.append(str(ref))
        return await patch_json(ref, operations, **how)

    monkeypatch.setattr(kube, "patch_json", noted)
    for version in ("1.0.0", "2.0.0"):
        receipt = await world.deploy(_text(cell, version), cell)
        assert receipt.accepted, receipt.refusals
    assert patched == []
    assert world.report(cell).drift_repairs == 0


async def test_v10_what_nobody_owns_ends_with_the_release_of_a_cell_taken_back(
    world: World, admin: ApiClient, cell: str
) -> None:
    """After a lost volume: containers, a key and an address, in all that takes them."""
    assert (await world.deploy(_text(cell, "1.0.0"), cell)).accepted
    await world._stop()
    evil, pods = {"name": "evil", "image": "evil.example/x:1"}, "spec/template/spec/containers"
    planted = (
        (_path(cell, "deployments", "web", "apis/apps/v1"), pods, "-", evil),
        (_path(cell, "statefulsets", "state", "apis/apps/v1"), pods, "-", evil),
        (_path(cell, "daemonsets", "every", "apis/apps/v1"), pods, "-", evil),
        (_path(cell, "cronjobs", "nightly", "apis/batch/v1"), f"spec/jobTemplate/{pods}", "-", evil),
        (_path(cell, "configmaps", "settings", "api/v1"), "data", "evil", "1"),
        (_path(cell, "services", "plain", "api/v1"), "spec", "externalIPs", ["192.0.2.1"]),
    )
    for path, place, name, value in planted:
        _plant(admin, path, f"/{place}/{name}", value)
        assert "evil" in str(admin.request("GET", path).body) or "192.0.2.1" in str(admin.request("GET", path).body)
    shutil.rmtree(world.directory)
    world.receipts.clear()
    await world._start()
    receipt = await world.deploy(_text(cell, "2.0.0"), cell)
    assert receipt.accepted, receipt.refusals
    for path, *_ in planted:
        now = str(admin.request("GET", path).body)
        assert "evil" not in now, path
        assert "192.0.2.1" not in now, path
        assert "2.0.0" in now, path
    world.engine.resync()
    await world.until(lambda: all(worker.drift.due_at() is None for worker in world.engine._roster.workers.values()))
    assert world.report(cell).drift_repairs == 0
