# METADATA
# title: Network
# description: Cells are reached through their endpoints, not beside them.
package starter.network

import data.starter.lib

default service_types := ["ClusterIP"]

service_types := lib.parameters.network.serviceTypes if is_array(lib.parameters.network.serviceTypes)

# METADATA
# title: Services stay inside the cluster
# description: A Service has an allowed type, by default ClusterIP alone, and no external addresses.
# custom:
#   id: starter/network/service-type
#   severity: high
#   remediation: Use a ClusterIP Service, and an endpoint with visibility public to be reached from outside.
#   controls: ["NIST SP 800-53 SC-7", "NSA/CISA Kubernetes Hardening: network separation"]
deny contains lib.denial(rego.metadata.rule(), reason) if some reason in outside

outside contains sprintf("the Service is of type %v", [type]) if {
	input.object.kind == "Service"
	type := input.object.spec.type
	not type in service_types
}

outside contains sprintf("the Service has external address %v", [address]) if {
	input.object.kind == "Service"
	some address in input.object.spec.externalIPs
}

# Prefixes of annotations by which a network plugin gives a pod another network, address or path than isolation knows.
plugin_prefixes := {
	"k8s.v1.cni.cncf.io/", "v1.multus-cni.io/", "cni.projectcalico.org/", "ipam.antrea.io/", "k8s.ovn.org/",
	"ovn.kubernetes.io/", "ipam.cilium.io/", "policy.cilium.io/", "cni.cilium.io/", "network.cilium.io/",
}

# METADATA
# title: No network beside the pod network
# description: >-
#   Pods ask no network plugin for another network, a chosen address or a way around policy; networks of another
#   namespace can be named there, and policies of the pod network do not hold in any of them.
# custom:
#   id: starter/network/plugin-annotations
#   severity: high
#   remediation: >-
#     Remove the annotation; one that is safe for tenants is listed by the security team in parameter network.annotations
#     of the binding.
#   controls: ["NIST SP 800-53 SC-7", "NIST SP 800-53 AC-4", "NSA/CISA Kubernetes Hardening: network separation"]
deny contains lib.denial(rego.metadata.rule(), reason) if {
	some name, _ in lib.pod.metadata.annotations
	some prefix in plugin_prefixes
	startswith(name, prefix)
	not name in {item | some item in lib.parameters.network.annotations}
	reason := sprintf("the pod has annotation %s", [name])
}

# METADATA
# title: No host network
# description: Pods of a cell use the pod network, where isolation holds.
# custom:
#   id: starter/network/host-network
#   severity: critical
#   remediation: Remove hostNetwork; network isolation does not hold for pods on the host's network.
#   controls: ["NIST SP 800-53 SC-7", "NIST SP 800-53 AC-4", "NSA/CISA Kubernetes Hardening: network separation"]
deny contains lib.denial(rego.metadata.rule(), "the pod uses the network of the host") if {
	lib.asked(lib.pod.spec.hostNetwork)
}
