"""The DNS of a cluster with real nodes: CoreDNS in a pod, where policies that allow DNS expect it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tools.image.oci import image, layer
from tools.parts.locate import path_of
from tools.stack.api import ApiClient, JSONObject
from tools.stack.node.ground import DNS_SERVICE

#: Image of the pod.
IMAGE: Final = "cellward.test/coredns:1"
_NAMESPACE: Final = "kube-system"
#: The label by which NetworkPolicies everywhere know it.
_LABELS: Final = {"k8s-app": "kube-dns"}
_COREFILE: Final = """\
.:53 {
    errors
    health :8080
    ready :8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
    }
    cache 5
}
"""


def archive(directory: Path) -> Path:
    """Write the archive of its image."""
    directory.mkdir(parents=True, exist_ok=True)
    files = layer({}, {"/coredns": path_of("coredns").read_bytes()})
    config: dict[str, Any] = {"User": "65532:65532", "Entrypoint": ["/coredns"]}
    path = directory / "coredns.tar"
    path.write_bytes(image([IMAGE], [files], config).archive)
    return path


def install(admin: ApiClient) -> None:
    """Create everything; the pod starts once there is a node."""
    for manifest in _objects():
        admin.must(admin.create(manifest), f"create {manifest['kind']} of the cluster's DNS")


def _objects() -> Sequence[JSONObject]:
    meta = {"name": "coredns", "namespace": _NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"}
    account = {"kind": "ServiceAccount", "name": "coredns", "namespace": _NAMESPACE}
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    rbac = "rbac.authorization.k8s.io/v1"
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "coredns"}, "rules": rules},
        {
            "apiVersion": rbac,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "coredns"},
            "roleRef": role,
            "subjects": [account],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"Corefile": _COREFILE}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "selector": {"matchLabels": _LABELS},
                "template": {"metadata": {"labels": _LABELS}, "spec": _pod()},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": _NAMESPACE, "labels": _LABELS},
            "spec": {"clusterIP": DNS_SERVICE, "selector": _LABELS, "ports": ports},
        },
    ]


def _pod() -> JSONObject:
    return {
        "serviceAccountName": "coredns",
        # Its own resolver is this one; without a pod it would ask nobody.
        "dnsPolicy": "Default",
        # It listens on port 53 and has no capability for it.
        "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]},
        "containers": [
            {
                "name": "coredns",
                "image": IMAGE,
                "imagePullPolicy": "Never",
                "args": ["-conf", "/etc/coredns/Corefile"],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
            }
        ],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
