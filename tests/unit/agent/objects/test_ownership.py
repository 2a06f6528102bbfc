"""Ownership of fields: what is drift, what moves to us, what stays with controllers (V1)."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from agent.objects.ownership import (
    applied_by,
    as_scaled,
    drift_of,
    flexible_of,
    loosen,
    managers_of,
    restore,
    strip,
    takeover,
)

OURS = "cellward/shop--web--dev"
_SCALER = {
    "kind": "HorizontalPodAutoscaler",
    "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": 2, "maxReplicas": 10},
}


def _entry(manager: str, fields: dict[str, Any], operation: str = "Update", subresource: str = "") -> dict[str, Any]:
    entry = {"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields}
    return {**entry, **({"subresource": subresource} if subresource else {})}


def _live(*entries: dict[str, Any], kind: str = "Deployment", **parts: Any) -> dict[str, Any]:
    metadata = {
        "name": "web", "namespace": "shop--web--dev", "uid": "u", "resourceVersion": "7", "generation": 3,
        "managedFields": [_entry(OURS, {"f:spec": {"f:replicas": {}}}, "Apply"), *entries],
        **parts.pop("metadata", {}),
    }  # fmt: skip
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": {"replicas": 1}, **parts}


def test_own_entry_and_subresources_are_no_drift() -> None:
    """Status and scale writers are not foreign."""
    live = _live(_entry("kcm", {"f:status": {"f:replicas": {}}}, subresource="status"))
    assert drift_of(live, strip(live), OURS) == ""
    assert takeover(live, OURS) == []


def test_v1_an_entry_of_ours_that_is_gone_is_drift() -> None:
    """The content is as it was; what proves whose it is was edited away."""
    live = _live()
    baseline = strip(live)
    live["metadata"]["managedFields"] = []
    assert drift_of(live, baseline, OURS) == "our entry of managedFields is gone"


def test_foreign_fields_are_drift_and_move_to_our_entry() -> None:
    """The union has both, the foreign entry is gone, the version makes it optimistic."""
    container: dict[str, Any] = {'k:{"name":"x"}': {".": {}, "f:image": {}}}
    sidecar = {"f:spec": {"f:template": {"f:spec": {"f:containers": container}}}}
    live = _live(_entry("kubectl", sidecar))
    assert drift_of(live, strip(live), OURS) == "fields of kubectl"
    managed, version = takeover(live, OURS)
    (only,) = managed["value"]
    assert only["manager"] == OURS
    assert only["fieldsV1"]["f:spec"]["f:replicas"] == {}
    containers = only["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]
    assert containers == {'k:{"name":"x"}': {".": {}, "f:image": {}}}
    assert version == {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}


def test_our_name_with_another_operation_is_foreign() -> None:
    """A manager's name proves nothing."""
    live = _live(_entry(OURS, {"f:spec": {"f:paused": {}}}))
    assert drift_of(live, strip(live), OURS)


def test_lost_entry_of_ours_is_made_again() -> None:
    """Somebody edited managedFields; a fresh Apply entry takes everything."""
    live = _live()
    live["metadata"]["managedFields"] = [_entry("them", {"f:spec": {"f:replicas": {}}})]
    managed, _ = takeover(live, OURS)
    (only,) = managed["value"]
    assert (only["manager"], only["operation"]) == (OURS, "Apply")
    assert not applied_by(live, OURS)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("Deployment", {"f:metadata": {"f:annotations": {".": {}, "f:deployment.kubernetes.io/revision": {}}}}),
        ("PersistentVolumeClaim", {"f:spec": {"f:volumeName": {}}}),
        (
            "PersistentVolumeClaim",
            {"f:metadata": {"f:annotations": {".": {}, "f:pv.kubernetes.io/bind-completed": {}}}},
        ),
        ("Service", {"f:metadata": {"f:finalizers": {".": {}, 'v:"service.kubernetes.io/load-balancer-cleanup"': {}}}}),
        ("Deployment", {"f:metadata": {"f:finalizers": {".": {}, 'v:"foregroundDeletion"': {}}}}),
        ("NetworkPolicy", {"f:metadata": {"f:finalizers": {'v:"networking.k8s.aws/resources"': {}}}}),
        ("PersistentVolumeClaim", {"f:metadata": {"f:finalizers": {'v:"topolvm.example/pvc"': {}}}}),
        ("Namespace", {"f:metadata": {"f:labels": {"f:team": {}}}}),
        ("Deployment", {"f:metadata": {"f:annotations": {".": {}}}}),
    ],
)
def test_what_controllers_write_stays_theirs(kind: str, fields: dict[str, Any]) -> None:
    """The allow-list, field by field."""
    live = _live(_entry("controller", fields), kind=kind)
    assert drift_of(live, strip(live), OURS) == ""


@pytest.mark.parametrize("label", ["cellward.dev/cell", "pod-security.kubernetes.io/enforce"])
def test_our_labels_of_a_namespace_are_guarded(label: str) -> None:
    """A namespace is shared, except for what makes it a cell."""
    live = _live(_entry("them", {"f:metadata": {"f:labels": {f"f:{label}": {}}}}), kind="Namespace")
    assert drift_of(live, strip(live), OURS)


@pytest.mark.parametrize(
    "finalizer", ["evil.example/keep", "kubernetes.io/evil", "service.kubernetes.io/load-balancer-cleanup"]
)
def test_v1_finalizer_of_a_stranger_is_drift(finalizer: str) -> None:
    """Whoever put it on and however the entry of managedFields looks: a deletion would never come to its end."""
    clean = _live()
    live = _live(metadata={"finalizers": ["orphan", finalizer]})
    assert drift_of(live, strip(clean), OURS) == "content differs"
    entry = _entry("kubectl", {"f:metadata": {"f:finalizers": {".": {}, f'v:"{finalizer}"': {}}}})
    assert drift_of(_live(entry), strip(clean), OURS) == "fields of kubectl"
    operation, _ = restore(live, strip(clean))
    assert operation == {"op": "replace", "path": "/metadata/finalizers", "value": ["orphan"]}


def test_what_holds_a_deleted_object_is_taken_off() -> None:
    """But for what its manifest names and for what a controller of Kubernetes takes off itself."""
    lb, mine = "service.kubernetes.io/load-balancer-cleanup", "ours.example/a"
    live = _live(kind="Service", metadata={"finalizers": [lb, "evil.example/keep", mine]})
    operation, version = loosen(live, {"kind": "Service", "metadata": {"finalizers": [mine]}})
    assert operation == {"op": "replace", "path": "/metadata/finalizers", "value": [lb, mine]}
    assert version["path"] == "/metadata/resourceVersion"
    assert loosen(_live(kind="Service", metadata={"finalizers": [lb]}), {}) == []
    assert loosen(_live(kind="PersistentVolumeClaim", metadata={"finalizers": ["x.example/y"]}), {}) == []


def test_mixed_entry_is_split() -> None:
    """What is theirs stays, what is not moves."""
    annotations: dict[str, Any] = {"f:deployment.kubernetes.io/revision": {}, "f:evil": {}}
    live = _live(_entry("kcm", {"f:metadata": {"f:annotations": annotations}}))
    managed, _ = takeover(live, OURS)
    theirs = next(entry for entry in managed["value"] if entry["manager"] == "kcm")
    assert theirs["fieldsV1"] == {"f:metadata": {"f:annotations": {"f:deployment.kubernetes.io/revision": {}}}}
    ours = next(entry for entry in managed["value"] if entry["manager"] == OURS)
    assert ours["fieldsV1"]["f:metadata"] == {"f:annotations": {"f:evil": {}}}


def test_content_nobody_owns_is_seen_and_restored() -> None:
    """An addition whose ownership was edited away differs from the baseline."""
    live = _live()
    baseline = strip(live)
    live["spec"]["paused"] = True
    live["metadata"]["labels"] = {"a/b": "c"}
    assert drift_of(live, baseline, OURS) == "content differs"
    operations = restore(live, baseline)
    assert {"op": "remove", "path": "/spec/paused"} in operations
    assert {"op": "remove", "path": "/metadata/labels"} in operations
    assert operations[-1]["path"] == "/metadata/resourceVersion"
    assert restore(_live(), baseline) == []


def test_what_is_not_ours_survives_a_restore() -> None:
    """A namespace is shared: neither setting our labels back nor taking additions off touches those of its cluster."""
    released = {"cellward.dev/cell": "web", "pod-security.kubernetes.io/enforce": "baseline"}
    theirs = {"team": "blue"}
    baseline = strip(_live(kind="Namespace", metadata={"labels": released}))
    lost = _live(kind="Namespace", metadata={"labels": theirs, "annotations": {"cellward.dev/evil": "1", "tool": "x"}})
    *operations, _ = restore(lost, baseline)
    assert operations == [
        {"op": "remove", "path": "/metadata/annotations/cellward.dev~1evil"},
        {"op": "add", "path": "/metadata/labels/cellward.dev~1cell", "value": "web"},
        {"op": "add", "path": "/metadata/labels/pod-security.kubernetes.io~1enforce", "value": "baseline"},
    ]


def test_declared_autoscaler_may_scale_its_target_and_nothing_else() -> None:
    """V1 with autoscaling: only what the release itself hands over."""
    live = _live(_entry("hpa", {"f:spec": {"f:replicas": {}}}))
    flexible = flexible_of([_SCALER], live)
    baseline = strip(live, flexible)
    live["spec"]["replicas"] = 9
    assert drift_of(live, baseline, OURS, flexible) == ""
    assert flexible_of([_SCALER], {**live, "metadata": {"name": "other"}}) is None
    assert drift_of(live, strip(_live()), OURS) != ""


@pytest.mark.parametrize(
    ("released", "live", "stated"),
    [(5, 3, 3), (5, 10, 10), (5, 11, 10), (5, 1, 5), (5, 0, 5), (0, 0, 0), (0, 1, 2), (None, 4, 4), (None, 0, 2)],
)
def test_v1_outside_its_bounds_no_autoscaler_decided(released: int | None, live: int, stated: int) -> None:
    """It chooses from 2 to 10: at zero it is off, and beyond ten somebody else scaled."""
    manifest = {
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {} if released is None else {"replicas": released},
    }
    flexible = flexible_of([_SCALER], manifest)
    now = _live()
    baseline = strip(now, flexible)
    now["spec"]["replicas"] = live
    assert bool(drift_of(now, baseline, OURS, flexible)) is (live != stated)
    assert as_scaled(manifest, now, flexible)["spec"]["replicas"] == stated


def test_inputs_are_not_changed() -> None:
    """Pure: what goes in comes out the same."""
    live = _live(_entry("them", {"f:spec": {"f:paused": {}}}))
    before = copy.deepcopy(live)
    takeover(live, OURS)
    strip(live)
    assert live == before
    assert managers_of(live) == (OURS, "them")
