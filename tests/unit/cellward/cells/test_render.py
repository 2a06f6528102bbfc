"""Rendering: which objects, with which labels, in which order."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from cellward.cells import labels
from cellward.cells.manifests import ALLOWED
from cellward.cells.render import APPLY_ORDER, namespace_of, render
from cellward.cells.stamps import PLACEHOLDER
from cellward.errors import CellwardError, InvalidInput
from tests.fakes.refusals import refused
from tests.unit.cellward.cells.sample import FACTS, cell, component, found, load, release_of, rendered

LABELS = {
    "app.kubernetes.io/managed-by": "cellward",
    "cellward.dev/project": "shop",
    "cellward.dev/cell": "web",
    "cellward.dev/environment": "dev",
}
PROBE = {"readiness": {"http": {"path": "/ready", "port": "http", "headers": {"A": "b"}}, "periodSeconds": 5}}


def pod(**changes: Any) -> dict[str, Any]:
    """Return the pod template of a component."""
    objects = rendered(cell(components={"web": component(**changes)}))
    template: dict[str, Any] = found(objects, "Deployment", "web")["spec"]["template"]
    return template


def container(**changes: Any) -> dict[str, Any]:
    """Return the container of a component."""
    spec: dict[str, Any] = pod(**changes)["spec"]["containers"][0]
    return spec


def test_everything_is_labelled() -> None:
    """Every object and every pod says whose it is; the namespace carries the labels that the guard protects."""
    out = rendered(cell())
    assert out.namespace == "shop--web--dev" == out.namespace_object["metadata"]["name"]
    assert LABELS.items() <= out.namespace_object["metadata"]["labels"].items()
    for item in out.objects:
        metadata = item["metadata"]
        assert metadata["namespace"] == out.namespace
        assert LABELS.items() <= metadata["labels"].items()
        assert metadata["labels"]["app.kubernetes.io/version"] == "1.0.0"
        assert metadata["labels"]["cellward.dev/component"] == "web"
        assert metadata["annotations"]["cellward.dev/owner"] == "team"
    template = found(out, "Deployment", "web")["spec"]["template"]
    assert template["metadata"]["labels"] == found(out, "Deployment", "web")["metadata"]["labels"]


def test_a_missing_owner_stays_missing() -> None:
    """Nothing is made up, so that policy sees that nobody owns it."""
    for item in rendered(cell(owner="")).objects:
        assert "cellward.dev/owner" not in item["metadata"]["annotations"]


def test_defaults_meet_the_restricted_standard() -> None:
    """Whoever says nothing gets the restricted pod security standard, and no token."""
    spec = pod()["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert spec["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] == "web"
    assert spec["containers"][0]["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)


def test_what_is_asked_for_is_rendered() -> None:
    """Nothing dangerous is softened on the way to the policy that refuses it."""
    spec = pod(
        hostNetwork=True, hostPID=True, hostIPC=True,
        securityContext={
            "privileged": True, "runAsNonRoot": False, "runAsUser": 0, "capabilities": {"add": ["X"], "drop": []},
        },
        volumes={"root": {"mountPath": "/host", "hostPath": {"path": "/"}}},
    )["spec"]  # fmt: skip
    assert spec["hostNetwork"] is spec["hostPID"] is spec["hostIPC"] is True
    assert spec["securityContext"]["runAsUser"] == 0
    assert spec["securityContext"]["runAsNonRoot"] is False
    assert spec["containers"][0]["securityContext"]["privileged"] is True
    assert spec["containers"][0]["securityContext"]["capabilities"] == {"drop": [], "add": ["X"]}
    assert spec["volumes"] == [{"name": "root", "hostPath": {"path": "/"}}]


def test_service_and_pod_ports() -> None:
    """The Service shows its own port and leads to the pod's."""
    out = rendered(cell(components={"web": component(ports={"http": {"port": 8080, "servicePort": 80}})}))
    assert found(out, "Service", "web")["spec"] == {
        "type": "ClusterIP",
        "selector": {"cellward.dev/component": "web", "app.kubernetes.io/name": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
    }
    main = found(out, "Deployment", "web")["spec"]["template"]["spec"]["containers"][0]
    assert main["ports"] == [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]


def test_connections_become_variables() -> None:
    """The variable has the peer's service, namespace and *service* port in the same environment, for its users only."""
    data = cell(
        "data", "bank", components={"api": component(ports={"http": {"port": 8080, "servicePort": 80}})},
        endpoints={"api": {"component": "api", "port": "http", "visibility": "organization"}},
    )  # fmt: skip
    caller = cell(
        components={"web": component(env={"B": "2", "A": "1"}), "other": component()},
        connections=[
            {"project": "bank", "cell": "data", "endpoint": "api", "env": "DATA", "components": ["web"]},
            {"external": {"host": "mail.example.com", "ports": [{"port": 25}]}, "env": "MAIL"},
            {"external": {"cidr": "2001:db8::1/128", "ports": [{"port": 5432}]}, "env": "DB"},
        ],
    )
    for environment in ("dev", "prod"):
        out = rendered(data, caller, environment=environment)
        env = {
            name: found(out, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]["env"]
            for name in ("web", "other")
        }
        assert env["web"] == [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "2"},
            {"name": "DATA", "value": f"api.bank--data--{environment}.svc:80"},
            {"name": "DB", "value": "[2001:db8::1]:5432"},
            {"name": "MAIL", "value": "mail.example.com:25"},
        ]
        assert [item["name"] for item in env["other"]] == ["DB", "MAIL"]


def test_secrets_are_references() -> None:
    """A secret is named, never carried."""
    env = container(secrets={"TOKEN": {"name": "api", "key": "token"}})["env"]
    assert env == [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "api", "key": "token"}}}]


def test_config_files() -> None:
    """Files become a ConfigMap mounted file by file; a change of content changes the pod, so that it is restarted."""
    files = {"/etc/app/a.yaml": "one", "/opt/a.yaml": "two"}
    out = rendered(cell(components={"web": component(config={"files": files})}))
    data = found(out, "ConfigMap", "web-config")["data"]
    template = found(out, "Deployment", "web")["spec"]["template"]
    mounts = template["spec"]["containers"][0]["volumeMounts"]
    assert {item["mountPath"]: data[item["subPath"]] for item in mounts} == files
    assert all(item["readOnly"] for item in mounts)
    other = pod(config={"files": files | {"/opt/a.yaml": "three"}})
    key = "cellward.dev/config-digest"
    assert other["metadata"]["annotations"][key] != template["metadata"]["annotations"][key]


def test_volumes() -> None:
    """Scratch space stays with the pod, a claim is an object of its own, a stateful component brings its claims."""
    volumes = {
        "tmp": {"mountPath": "/tmp", "emptyDir": {"sizeLimit": "64Mi"}},  # noqa: S108 - a path in a pod
        "data": {"mountPath": "/data", "persistent": {"size": "1Gi", "storageClass": "fast"}},
    }
    out = rendered(cell(components={"web": component(volumes=volumes)}))
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "fast",
    }
    assert found(out, "PersistentVolumeClaim", "web-data")["spec"] == claim
    assert found(out, "Deployment", "web")["spec"]["template"]["spec"]["volumes"] == [
        {"name": "data", "persistentVolumeClaim": {"claimName": "web-data"}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
    ]
    stateful = rendered(cell(components={"web": component(type="stateful", volumes=volumes)}))
    spec = found(stateful, "StatefulSet", "web")["spec"]
    assert spec["serviceName"] == "web"
    assert [(item["metadata"], item["spec"]) for item in spec["volumeClaimTemplates"]] == [({"name": "data"}, claim)]
    assert [item["name"] for item in spec["template"]["spec"]["volumes"]] == ["tmp"]
    assert not [item for item in stateful.objects if item["kind"] == "PersistentVolumeClaim"]


def test_types_of_components() -> None:
    """Each type becomes its kind; only what serves has a Service."""
    plain = {"image": "registry.test/web:1"}
    out = rendered(
        cell(
            components={
                "a": component(replicas=3),
                "b": {"type": "worker", **plain},
                "c": {"type": "job", **plain},
                "d": {"type": "cronjob", "schedule": "0 * * * *", **plain},
                "e": component(type="stateful"),
            }
        )
    )
    kinds = {item["metadata"]["name"]: item["kind"] for item in out.objects if item["kind"] not in APPLY_ORDER[:4]}
    assert kinds == {"a": "Deployment", "b": "Deployment", "c": "Job", "d": "CronJob", "e": "StatefulSet"}
    assert [item["metadata"]["name"] for item in out.objects if item["kind"] == "Service"] == ["a", "e"]
    assert found(out, "Deployment", "a")["spec"]["replicas"] == 3
    assert found(out, "Deployment", "b")["spec"]["replicas"] == 1
    assert found(out, "Job", "c")["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"
    assert found(out, "CronJob", "d")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]


def test_template_of_a_job_does_not_change_with_the_version() -> None:
    """It cannot be changed; everything else says which version it is of."""
    raw = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "raw"}, "spec": {"template": {"spec": {}}}}
    out = rendered(
        cell(
            components={
                "a": component(),
                "c": {"type": "job", "image": "registry.test/web:1"},
                "m": {"type": "manifests", "manifests": [raw]},
            }
        )
    )
    for name in ("c", "raw"):
        job = found(out, "Job", name)
        assert job["metadata"]["labels"][labels.VERSION]
        assert labels.VERSION not in job["spec"]["template"]["metadata"]["labels"]
        assert job["spec"]["template"]["metadata"]["labels"][labels.COMPONENT]
    assert found(out, "Deployment", "a")["spec"]["template"]["metadata"]["labels"][labels.VERSION]


def test_probes_and_resources() -> None:
    """Probes and amounts are rendered as said; amounts that are not said are absent."""
    main = container(probes=PROBE, resources={"requests": {"cpu": "100m", "memory": "64Mi"}})
    assert main["readinessProbe"] == {
        "httpGet": {"path": "/ready", "port": "http", "httpHeaders": [{"name": "A", "value": "b"}]},
        "periodSeconds": 5,
    }
    assert main["resources"] == {"requests": {"cpu": "100m", "memory": "64Mi"}}
    assert "resources" not in container()
    assert container(probes={"liveness": {"grpc": {"port": 1}}})["livenessProbe"] == {"grpc": {"port": 1}}
    assert container(probes={"startup": {"exec": ["a", "b"]}})["startupProbe"] == {"exec": {"command": ["a", "b"]}}


def test_apply_order() -> None:
    """What others need comes first; ties are broken by name."""
    files = {"files": {"/etc/a": "x"}}
    volumes = {"data": {"mountPath": "/data", "persistent": {"size": "1Gi"}}}
    out = rendered(cell(components={name: component(config=files, volumes=volumes) for name in ("b", "a")}))
    order = [(item["kind"], item["metadata"]["name"]) for item in out.objects]
    assert order == sorted(order, key=lambda item: (APPLY_ORDER.index(item[0]), item[1]))
    assert [kind for kind, _ in order[::2]] == [
        "ServiceAccount",
        "ConfigMap",
        "PersistentVolumeClaim",
        "Service",
        "Deployment",
    ]


def test_rendering_is_a_function() -> None:
    """The same release gives the same objects in whatever order it is written, and is not changed by it."""
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "raw"}, "data": {"a": "b"}}
    components = {"web": component(), "api": component(), "raw": {"type": "manifests", "manifests": [manifest]}}
    source, turned = (cell(components=dict(order)) for order in (components.items(), reversed(components.items())))
    release = release_of(source)
    before = copy.deepcopy(release.spec)
    first = render(release, FACTS, "dev", PLACEHOLDER)
    assert release.spec == before
    assert first == render(release_of(turned), FACTS, "dev", PLACEHOLDER)


def raw(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the cell with one raw manifest."""
    return cell(components={"raw": {"type": "manifests", "manifests": [manifest]}})


def test_raw_manifests_are_put_into_the_cell() -> None:
    """Namespace, labels and owner are set, on the pods as well, so that isolation and policy see them."""
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}}
    for api, kind, spec in (
        ("apps/v1", "DaemonSet", {"selector": {}, "template": template}),
        ("batch/v1", "CronJob", {"jobTemplate": {"spec": {"template": template}}}),
    ):
        item = rendered(raw({"apiVersion": api, "kind": kind, "metadata": {"name": "x"}, "spec": spec})).objects[0]
        assert item["metadata"]["namespace"] == "shop--web--dev"
        assert LABELS.items() <= item["metadata"]["labels"].items()
        assert item["metadata"]["annotations"] == {"cellward.dev/owner": "team"}
        inner = item["spec"].get("jobTemplate", item)["spec"]["template"]
        assert inner["metadata"]["labels"]["app"] == "x"
        assert LABELS.items() <= inner["metadata"]["labels"].items()
        assert inner["metadata"]["labels"]["cellward.dev/component"] == "raw"


@pytest.mark.parametrize(
    ("api", "kind"),
    [
        ("v1", "Namespace"),
        ("v1", "Secret"),
        ("v1", "Pod"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("rbac.authorization.k8s.io/v1", "RoleBinding"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
        ("apps/v1beta1", "Deployment"),
        ("apps/v1", "ControllerRevision"),
        ("example.com/v1", "ConfigMap"),
        (None, None),
    ],
)
def test_raw_kinds_outside_the_list_are_refused(api: str | None, kind: str | None) -> None:
    """V12, V16: cluster-scoped kinds, rights, isolation, secrets and everything unknown never reach an agent."""
    with pytest.raises(InvalidInput) as caught:
        rendered(raw({"apiVersion": api, "kind": kind, "metadata": {"name": "x"}}))
    assert caught.value.code == "cells/kind-not-allowed"


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"name": "x", "namespace": "kube-system"},
        {"name": "x", "ownerReferences": []},
        {"name": "x", "labels": {"cellward.dev/cell": "other"}},
        {"name": "x", "labels": {"app.kubernetes.io/managed-by": "me"}},
        {"name": "x", "annotations": {"cellward.dev/owner": "me"}},
        {"name": "../x"},
        {"name": "x", "labels": {"a": 1}},
    ],
)
def test_raw_metadata_is_not_chosen_freely(metadata: dict[str, Any]) -> None:
    """No other namespace, no label that cellward sets, no name that is a path."""
    with pytest.raises(InvalidInput) as caught:
        rendered(raw({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}))
    assert caught.value.code == "cells/bad-field"


def test_raw_pods_cannot_claim_another_component() -> None:
    """H1: a label on a raw pod template that would make it another component's pod is refused."""
    template = {"metadata": {"labels": {"cellward.dev/component": "web"}}, "spec": {}}
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "x"},
        "spec": {"template": template},
    }
    with pytest.raises(InvalidInput):
        rendered(raw(manifest))


def _with_claim(place: str, metadata: object) -> dict[str, Any]:
    """Return a raw manifest whose jobs or claims get this metadata from their template."""
    claim = {"metadata": metadata, "spec": {"storageClassName": "fast"}}
    pod = {"spec": {"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": claim}}]}}
    api, kind, spec = {
        "claims of a StatefulSet": (
            "apps/v1",
            "StatefulSet",
            {"template": {"spec": {}}, "volumeClaimTemplates": [claim]},
        ),
        "claims of pods": ("apps/v1", "Deployment", {"template": pod}),
        "claims of pods of jobs": ("batch/v1", "CronJob", {"jobTemplate": {"spec": {"template": pod}}}),
        "jobs": ("batch/v1", "CronJob", {"jobTemplate": {"metadata": metadata, "spec": {"template": {"spec": {}}}}}),
    }[place]
    return {"apiVersion": api, "kind": kind, "metadata": {"name": "x"}, "spec": spec}


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {"cellward.dev/project": "other"}},
        {"labels": {"app.kubernetes.io/managed-by": "cellward"}},
        {"annotations": {"cellward.dev/owner": "me"}},
        {"labels": {"a": 1}},
        "text",
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["claims of a StatefulSet", "claims of pods", "claims of pods of jobs", "jobs"])
def test_v16_what_templates_make_names_no_other_cell(place: str, metadata: object) -> None:
    """Kubernetes copies the metadata of these templates to what it makes of them, in the cell's namespace."""
    with pytest.raises(InvalidInput) as caught:
        rendered(raw(_with_claim(place, metadata)))
    assert caught.value.code == "cells/bad-field"
    rendered(raw(_with_claim(place, {"labels": {"a": "b"}, "annotations": {"c": "d"}})))


@pytest.mark.parametrize("place", ["claims of a StatefulSet", "claims of pods", "claims of pods of jobs"])
@pytest.mark.parametrize("field", ["ownerReferences", "finalizers", "namespace", "generateName"])
def test_v16_a_claim_template_has_no_owner(place: str, field: str) -> None:
    """A claim that has an owner ends with it, data and all."""
    with pytest.raises(InvalidInput) as caught:
        rendered(raw(_with_claim(place, {"name": "v", field: []})))
    assert caught.value.code == "cells/bad-field"
    assert field in caught.value.message
    rendered(raw(_with_claim(place, {"name": "v"})))


def test_two_objects_of_one_name_are_refused() -> None:
    """A raw manifest cannot replace what a component renders."""
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}
    with pytest.raises(CellwardError) as caught:
        rendered(cell(components={"web": component(), "raw": {"type": "manifests", "manifests": [manifest]}}))
    assert caught.value.code == "cells/bad-spec"


def test_every_raw_kind_has_its_place_in_the_order() -> None:
    """Nothing that is allowed raw is missing from the apply order."""
    assert {kind for _, kind in ALLOWED} <= set(APPLY_ORDER)


@pytest.mark.parametrize(
    "parts", [("a--b", "c", "d"), ("a", "c" * 25, "d"), ("a", "c", "d" * 13), ("a", "C", "d"), ("", "c", "d")]
)
def test_namespaces_have_one_reading(parts: tuple[str, str, str]) -> None:
    """Two cells never share a namespace, because no name has ``--``."""
    assert namespace_of("a", "c", "d") == "a--c--d"
    with refused("document/bad-name"):
        namespace_of(*parts)


def test_loading_is_part_of_the_sample() -> None:
    """The helper loads what it is given, so that the tests above test something."""
    assert [item.key for item in load(cell("a"), cell("b"))] == [("shop", "a"), ("shop", "b")]


@pytest.mark.parametrize("when", ["whenDeleted", "whenScaled"])
def test_a_raw_stateful_set_may_not_take_its_volumes_along(when: str) -> None:
    """Persistent data ends by a tombstone with deleteData (design §2), not as a side effect of a prune."""
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db"},
        "spec": {"serviceName": "db", "persistentVolumeClaimRetentionPolicy": {when: "Delete"}},
    }
    with pytest.raises(InvalidInput) as caught:
        rendered(raw(manifest))
    assert caught.value.code == "cells/bad-field"
    assert when in caught.value.message
    manifest["spec"] = {"serviceName": "db", "persistentVolumeClaimRetentionPolicy": {when: "Retain"}}
    rendered(raw(manifest))


def test_a_raw_service_claims_no_addresses() -> None:
    """Whoever may claim an address gets what others send there (CVE-2020-8554)."""
    manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "db"},
        "spec": {"ports": [{"port": 80}], "externalIPs": ["203.0.113.7"]},
    }
    with pytest.raises(InvalidInput) as caught:
        rendered(raw(manifest))
    assert caught.value.code == "cells/bad-field"
    assert "externalIPs" in caught.value.message


@pytest.mark.parametrize(
    ("mode", "strategy"),
    [
        ("ReadWriteOnce", {"type": "Recreate"}),
        ("ReadWriteOncePod", {"type": "Recreate"}),
        ("ReadWriteMany", None),
        ("ReadOnlyMany", None),
    ],
)
def test_a_volume_of_one_pod_is_given_up_before_the_next_takes_it(mode: str, strategy: object) -> None:
    """Rolling over would wait for ever for a volume that the pod of the old release holds."""
    volume = {"data": {"mountPath": "/data", "persistent": {"size": "1Gi", "accessMode": mode}}}
    objects = rendered(cell(components={"web": component(volumes=volume)}))
    assert found(objects, "Deployment", "web")["spec"].get("strategy") == strategy


def test_two_policies_of_one_name_are_refused() -> None:
    """V10: an agent does not rely on whoever signed having looked: no edge takes the place of another."""
    data = cell("data", endpoints={"api": {"component": "web", "port": "http", "visibility": "project"}})
    release = release_of(data, cell(connections=[{"cell": "data", "endpoint": "api"}]))
    one = release.spec["connections"][0]  # type: ignore[index]
    twice = replace(release, spec={**release.spec, "connections": [one, {**one, "project": "shop"}]})  # type: ignore[dict-item]
    with pytest.raises(InvalidInput) as caught:
        render(twice, FACTS, "dev", PLACEHOLDER)
    assert caught.value.code == "cells/bad-spec"
