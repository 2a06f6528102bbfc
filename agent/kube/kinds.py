"""The closed list of kinds Cellward manages or watches, with their paths; no kind is discovered.

A static table needs no discovery requests at start, cannot be led astray by an aggregated API, and is the list V2 asks
for: an object of any other kind has no path at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from agent.kube.errors import KUBE_INVALID, KUBE_UNKNOWN_KIND
from agent.kube.interfaces import ObjectRef


@dataclass(frozen=True, slots=True)
class KindInfo:
    """One kind."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True


_RBAC = "rbac.authorization.k8s.io/v1"
_ADMISSION = "admissionregistration.k8s.io/v1"
_POLICY = "policy.networking.k8s.io"
_ALL: Final = (
    KindInfo("v1", "Namespace", "namespaces", namespaced=False),
    KindInfo("v1", "ServiceAccount", "serviceaccounts"),
    KindInfo("v1", "ConfigMap", "configmaps"),
    KindInfo("v1", "Secret", "secrets"),
    KindInfo("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    KindInfo("v1", "Service", "services"),
    KindInfo("apps/v1", "Deployment", "deployments"),
    KindInfo("apps/v1", "StatefulSet", "statefulsets"),
    KindInfo("apps/v1", "DaemonSet", "daemonsets"),
    KindInfo("batch/v1", "Job", "jobs"),
    KindInfo("batch/v1", "CronJob", "cronjobs"),
    KindInfo("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    KindInfo("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    KindInfo("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    KindInfo(_RBAC, "RoleBinding", "rolebindings"),
    KindInfo(_ADMISSION, "ValidatingAdmissionPolicy", "validatingadmissionpolicies", namespaced=False),
    KindInfo(_ADMISSION, "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", namespaced=False),
    # How much of it is used says when to try again what it refused; watched, never written.
    KindInfo("v1", "ResourceQuota", "resourcequotas"),
    # Why what a cell runs does not run; watched in cells by their own accounts, never written.
    KindInfo("v1", "Pod", "pods"),
    KindInfo("v1", "Event", "events"),
    # What pods use, where somebody serves it; listed in cells by their own accounts.
    KindInfo("metrics.k8s.io/v1beta1", "PodMetrics", "pods"),
    # A new one has to be measured; watched, never written.
    KindInfo("v1", "Node", "nodes", namespaced=False),
    # Of network plugins, where they are there; watched, never written.
    KindInfo(f"{_POLICY}/v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", namespaced=False),
    KindInfo(f"{_POLICY}/v1alpha1", "AdminNetworkPolicy", "adminnetworkpolicies", namespaced=False),
    KindInfo(f"{_POLICY}/v1alpha1", "BaselineAdminNetworkPolicy", "baselineadminnetworkpolicies", namespaced=False),
    KindInfo("crd.antrea.io/v1beta1", "ClusterNetworkPolicy", "clusternetworkpolicies", namespaced=False),
    KindInfo("crd.antrea.io/v1beta1", "NetworkPolicy", "networkpolicies"),
    KindInfo("crd.projectcalico.org/v1", "GlobalNetworkPolicy", "globalnetworkpolicies", namespaced=False),
    KindInfo("crd.projectcalico.org/v1", "NetworkPolicy", "networkpolicies"),
    KindInfo("projectcalico.org/v3", "GlobalNetworkPolicy", "globalnetworkpolicies", namespaced=False),
    KindInfo("projectcalico.org/v3", "NetworkPolicy", "networkpolicies"),
    KindInfo("cilium.io/v2", "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies", namespaced=False),
    KindInfo("cilium.io/v2", "CiliumNetworkPolicy", "ciliumnetworkpolicies"),
    KindInfo("cilium.io/v2", "CiliumLocalRedirectPolicy", "ciliumlocalredirectpolicies"),
    KindInfo("cilium.io/v2", "CiliumClusterwideEnvoyConfig", "ciliumclusterwideenvoyconfigs", namespaced=False),
    KindInfo("cilium.io/v2", "CiliumEnvoyConfig", "ciliumenvoyconfigs"),
    KindInfo("cilium.io/v2", "CiliumEgressGatewayPolicy", "ciliumegressgatewaypolicies", namespaced=False),
    KindInfo("networking.k8s.aws/v1alpha1", "ClusterNetworkPolicy", "clusternetworkpolicies", namespaced=False),
    KindInfo("networking.k8s.aws/v1alpha1", "ApplicationNetworkPolicy", "applicationnetworkpolicies"),
    KindInfo("networking.gke.io/v1alpha1", "FQDNNetworkPolicy", "fqdnnetworkpolicies"),
    KindInfo("k8s.ovn.org/v1", "AdminPolicyBasedExternalRoute", "adminpolicybasedexternalroutes", namespaced=False),
    KindInfo("k8s.ovn.org/v1", "EgressFirewall", "egressfirewalls"),
    KindInfo("kubeovn.io/v1", "Subnet", "subnets", namespaced=False),
)
KINDS: Final[Mapping[tuple[str, str], KindInfo]] = {(info.api_version, info.kind): info for info in _ALL}


def kind_of(api_version: str, kind: str) -> KindInfo:
    """Return the entry of a kind; raises kube/unknown-kind."""
    info = KINDS.get((api_version, kind))
    if info is None:
        raise KUBE_UNKNOWN_KIND(f"{api_version} {kind} is not a kind Cellward manages", kind=kind)
    return info


def collection_path(info: KindInfo, namespace: str) -> str:
    """Return the path of all objects of a kind, in one namespace or, without one, in all."""
    base = f"/apis/{info.api_version}" if "/" in info.api_version else f"/api/{info.api_version}"
    if info.namespaced and namespace:
        return f"{base}/namespaces/{quote(namespace, safe='')}/{info.plural}"
    return f"{base}/{info.plural}"


def group_path(info: KindInfo, version: str = "") -> str:
    """Return the path where discovery tells of a kind's group, or of one version of it."""
    path = f"/apis/{quote(info.api_version.split('/')[0], safe='')}"
    return f"{path}/{quote(version, safe='')}" if version else path


def object_path(ref: ObjectRef) -> str:
    """Return the path of one object; raises kube/unknown-kind or kube/invalid for a missing name or namespace."""
    info = kind_of(ref.api_version, ref.kind)
    if not ref.name or info.namespaced != bool(ref.namespace):
        raise KUBE_INVALID(f"{ref} needs a name and {'a' if info.namespaced else 'no'} namespace", object=str(ref))
    return f"{collection_path(info, ref.namespace)}/{quote(ref.name, safe='')}"
