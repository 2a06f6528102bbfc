# METADATA
# title: Network
# description: Cells are reached through their endpoints, not beside them.
package starter.network

import data.starter.lib

default service_types := ["ClusterIP"]

service_types := lib.parameters.network.serviceTypes if is_array(lib.parameters.network.serviceTypes)

# METADATA
# title: Services stay inside the cluster
# description: >-
#   A Service has an allowed type, by default ClusterIP alone, and the address it is given: no external ones, no chosen
#   clusterIP (None, for a headless one, is no address) or loadBalancerIP, or it gets what others send there. Neither it nor
#   a pod asks a publisher of names (ExternalDNS, Consul) or an ingress configured by annotations (Ambassador) for a host
#   name or route; it could be another project's.
# custom:
#   id: starter/network/service-type
#   severity: high
#   remediation: >-
#     Use a ClusterIP Service without address or annotation of those, and an endpoint with visibility public to be reached
#     from outside. An annotation that is safe for tenants is listed by the security team in parameter network.annotations
#     of the binding.
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

outside contains sprintf("the Service chooses %s %v", [field, address]) if {
	input.object.kind == "Service"
	some field in {"clusterIP", "loadBalancerIP"}
	address := input.object.spec[field]
	not no_address(field, address)
}

outside contains sprintf("the Service chooses clusterIPs %v", [address]) if {
	input.object.kind == "Service"
	some address in input.object.spec.clusterIPs
	not no_address("clusterIPs", address)
}

no_address(_, address) if address in {"", null}

no_address(field, "None") if field in {"clusterIP", "clusterIPs"}

# Whoever publishes names for the cluster, or routes its ingress, does what these annotations say.
publisher_domains := {
	"external-dns.alpha.kubernetes.io", "external-dns.kubernetes.io", "dns.alpha.kubernetes.io", "getambassador.io",
	"consul.hashicorp.com",
}

outside contains sprintf("%s has annotation %s", [bearer.of, name]) if {
	some bearer in bearers
	some name, _ in bearer.annotations
	lib.of_domain(name, publisher_domains)
	not name in allowed_annotations
}

bearers contains {"of": "the object", "annotations": input.object.metadata.annotations}

bearers contains {"of": "the pod template", "annotations": lib.pod.metadata.annotations} if input.object.kind != "Pod"

allowed_annotations := {item | some item in lib.parameters.network.annotations}

# Domains of annotations by which a network plugin gives a pod another network, address or path than isolation knows.
# Kube-OVN names each further network in a domain below its own.
plugin_domains := {
	"k8s.v1.cni.cncf.io", "v1.multus-cni.io", "projectcalico.org", "antrea.io", "k8s.ovn.org", "ovn.kubernetes.io",
	"cilium.io", "networking.gke.io", "danm.k8s.io", "danm.io", "spidernet.io", "vpc.amazonaws.com",
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
	lib.of_domain(name, plugin_domains)
	not name in allowed_annotations
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
