package starter.others_test

import data.starter.fixtures_test as fixtures

resources := "starter/resources/requests-and-limits"

labels := "starter/metadata/owner-and-labels"

service_type := "starter/network/service-type"

host_network := "starter/network/host-network"

proof := "starter/isolation/proof"

full := {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}

without(paths) := {"containers": [object.union(
	object.remove(fixtures.container, ["resources"]),
	{"resources": json.remove(full, paths)},
)]}

resource_cases := {
	"complete": {"spec": fixtures.spec, "want": set()},
	"no CPU request": {"spec": without(["requests/cpu"]), "want": {resources}},
	"no memory request": {"spec": without(["requests/memory"]), "want": {resources}},
	"no memory limit": {"spec": without(["limits/memory"]), "want": {resources}},
	"zero CPU request": {"spec": fixtures.spec_with({"resources": {"requests": {"cpu": "0"}}}), "want": {resources}},
	"requests of nothing in other words": {
		"spec": fixtures.spec_with({"resources": {"requests": {"cpu": "0m", "memory": "0Mi"}}}),
		"want": {resources},
	},
	"a limit of nothing": {"spec": fixtures.spec_with({"resources": {"limits": {"memory": "0.0Gi"}}}), "want": {resources}},
	"less than a byte": {"spec": fixtures.spec_with({"resources": {"limits": {"memory": "128m"}}}), "want": {resources}},
	"less than nothing": {"spec": fixtures.spec_with({"resources": {"requests": {"cpu": "-1"}}}), "want": {resources}},
	"no quantity": {"spec": fixtures.spec_with({"resources": {"requests": {"cpu": "much"}}}), "want": {resources}},
	"null": {"spec": fixtures.spec_with({"resources": {"requests": {"cpu": null}}}), "want": {resources}},
	"numbers": {"spec": fixtures.spec_with({"resources": {"requests": {"cpu": 1, "memory": 1024}}}), "want": set()},
	"number zero": {"spec": fixtures.spec_with({"resources": {"requests": {"cpu": 0}}}), "want": {resources}},
	"every way to write some": {
		"spec": fixtures.spec_with({"resources": {"requests": {"cpu": ".5", "memory": "1e6"}, "limits": {"memory": "+1.5Gi"}}}),
		"want": set(),
	},
	"a sidecar without": {
		"spec": object.union(fixtures.spec, {"initContainers": [object.union(
			object.remove(fixtures.container, ["resources"]),
			{"restartPolicy": "Always"},
		)]}),
		"want": {resources},
	},
	"no resources at all": {
		"spec": {"containers": [object.remove(fixtures.container, ["resources"])]},
		"want": {resources},
	},
	"init container without": {
		"spec": object.union(fixtures.spec, {"initContainers": [object.remove(fixtures.container, ["resources"])]}),
		"want": {resources},
	},
	"ephemeral containers cannot": {
		"spec": object.union(fixtures.spec, {"ephemeralContainers": [object.remove(fixtures.container, ["resources"])]}),
		"want": set(),
	},
}

test_resources[sprintf("%s/%s", [name, kind])] if {
	some name, case in resource_cases
	some kind, item in fixtures.around(case.spec)
	fixtures.ids(data.starter.deny) == case.want with input as fixtures.as_input(item)
}

test_one_denial_names_everything_missing if {
	item := fixtures.around({"containers": [object.remove(fixtures.container, ["resources"])]}).Pod
	some denial in data.starter.resources.deny with input as fixtures.as_input(item)
	denial.reason == "container web does not set limits.memory, requests.cpu, requests.memory"
	denial.object == "Pod/shop--front--dev/web"
	denial.severity == "medium"
	denial.remediation != ""
}

test_host_network[sprintf("%v/%s", [value, kind])] if {
	some value, want in {true: {host_network}, false: set()}
	some kind, item in fixtures.around(object.union(fixtures.spec, {"hostNetwork": value}))
	fixtures.ids(data.starter.deny) == want with input as fixtures.as_input(item)
}

service_cases := {
	"ClusterIP": {"spec": {"type": "ClusterIP"}, "want": set()},
	"no type": {"spec": {}, "want": set()},
	"headless": {"spec": {"clusterIP": "None", "clusterIPs": ["None"]}, "want": set()},
	"no address named": {"spec": {"clusterIP": "", "clusterIPs": null, "loadBalancerIP": ""}, "want": set()},
	"a cluster address of its choice": {"spec": {"clusterIP": "10.96.0.10"}, "want": {service_type}},
	"cluster addresses of its choice": {"spec": {"clusterIPs": ["10.96.0.10"]}, "want": {service_type}},
	"a second one": {"spec": {"clusterIP": "", "clusterIPs": ["", "fd00::10"]}, "want": {service_type}},
	"an address of the load balancer": {"spec": {"loadBalancerIP": "192.0.2.1"}, "want": {service_type}},
	"NodePort": {"spec": {"type": "NodePort"}, "want": {service_type}},
	"LoadBalancer": {"spec": {"type": "LoadBalancer"}, "want": {service_type}},
	"ExternalName": {"spec": {"type": "ExternalName", "externalName": "example.com"}, "want": {service_type}},
	"external address": {"spec": {"externalIPs": ["192.0.2.1"]}, "want": {service_type}},
}

test_service_type[name] if {
	some name, case in service_cases
	item := {"apiVersion": "v1", "kind": "Service", "metadata": fixtures.metadata, "spec": case.spec}
	fixtures.ids(data.starter.deny) == case.want with input as fixtures.as_input(item)
}

name_cases := {
	"external-dns.alpha.kubernetes.io/hostname": {service_type},
	"external-dns.alpha.kubernetes.io/internal-hostname": {service_type},
	"getambassador.io/config": {service_type},
	"service.kubernetes.io/topology-mode": set(),
}

test_published_names[sprintf("%s/%s", [name, spec.clusterIP])] if {
	some name, want in name_cases
	some spec in [{"clusterIP": ""}, {"clusterIP": "None"}]
	item := object.union(fixtures.service, {"metadata": {"annotations": {name: "shop.example.com"}}, "spec": spec})
	fixtures.ids(data.starter.deny) == want with input as fixtures.as_input(item)
}

test_published_name_from_the_binding if {
	name := "external-dns.alpha.kubernetes.io/hostname"
	verified := fixtures.with_parameters({"network": {"annotations": [name]}})
	item := object.union(fixtures.service, {"metadata": {"annotations": {name: "shop.example.com"}}})
	fixtures.ids(data.starter.deny) == set() with input as {"object": item, "verified": verified}
}

test_service_types_from_the_binding if {
	verified := fixtures.with_parameters({"network": {"serviceTypes": ["ClusterIP", "LoadBalancer"]}})
	item := {"kind": "Service", "metadata": fixtures.metadata, "spec": {"type": "LoadBalancer"}}
	fixtures.ids(data.starter.deny) == set() with input as {"object": item, "verified": verified}
}

test_each_label_is_required[label] if {
	some label, _ in fixtures.labels
	item := json.patch(fixtures.service, [{"op": "remove", "path": ["metadata", "labels", label]}])
	found := data.starter.deny with input as fixtures.as_input(item)
	fixtures.ids(found) == {labels}
	some denial in found
	denial.reason == sprintf("label %s is missing", [label])
}

test_labels_must_be_the_verified_ones[label] if {
	some label in ["cellward.dev/project", "cellward.dev/cell", "cellward.dev/environment"]
	item := json.patch(fixtures.service, [{"op": "replace", "path": ["metadata", "labels", label], "value": "other"}])
	fixtures.ids(data.starter.deny) == {labels} with input as fixtures.as_input(item)
}

test_pod_template_names_its_cell[label] if {
	some label in ["cellward.dev/project", "cellward.dev/cell", "cellward.dev/environment"]
	item := json.patch(
		fixtures.around(fixtures.spec).Deployment,
		[{"op": "remove", "path": ["spec", "template", "metadata", "labels", label]}],
	)
	fixtures.ids(data.starter.deny) == {labels} with input as fixtures.as_input(item)
}

test_owner_is_required if {
	item := json.remove(fixtures.service, ["metadata/annotations"])
	fixtures.ids(data.starter.deny) == {labels} with input as fixtures.as_input(item)
	empty := object.union(fixtures.service, {"metadata": {"annotations": {"cellward.dev/owner": ""}}})
	fixtures.ids(data.starter.deny) == {labels} with input as fixtures.as_input(empty)
}

test_one_denial_for_everything_missing if {
	item := {"kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}}
	found := data.starter.ownership.deny with input as fixtures.as_input(item)
	count(found) == 1
	fixtures.ids(found) == {labels}
}

test_config_needs_no_component if {
	metadata := json.remove(fixtures.metadata, ["labels/cellward.dev~1component"])
	item := {"kind": "ConfigMap", "metadata": metadata}
	count(data.starter.deny) == 0 with input as fixtures.as_input(item)
}

test_objects_of_the_agent_itself[kind] if {
	some kind in ["Namespace", "NetworkPolicy", "RoleBinding"]
	count(data.starter.deny) == 0 with input as fixtures.as_input({"kind": kind, "metadata": {"name": "x"}})
}

proof_cases := {
	"development, unknown": {"production": false, "isolation": "unknown", "tolerate": [], "want": set()},
	"production, enforced": {"production": true, "isolation": "enforced", "tolerate": [], "want": set()},
	"production, unknown": {"production": true, "isolation": "unknown", "tolerate": [], "want": {proof}},
	"production, not enforced": {"production": true, "isolation": "not-enforced", "tolerate": [], "want": {proof}},
	"unknown tolerated": {"production": true, "isolation": "unknown", "tolerate": ["unknown"], "want": set()},
	"something else tolerated": {
		"production": true, "isolation": "not-enforced", "tolerate": ["unknown"],
		"want": {proof},
	},
	"a value nobody defined": {"production": true, "isolation": "Enforced", "tolerate": [], "want": {proof}},
	"production not said": {"production": null, "isolation": "unknown", "tolerate": [], "want": {proof}},
}

test_isolation_proof[name] if {
	some name, case in proof_cases
	verified := object.union(fixtures.with_parameters({"isolation": {"tolerate": case.tolerate}}), {
		"isolation": case.isolation,
		"cluster": {"production": case.production},
	})
	fixtures.ids(data.starter.deny) == case.want with input as {"verified": verified, "object": fixtures.service}
}

# A cell whose isolation broke, or was never proved, may still be ended.
test_removal_needs_no_proof if {
	verified := object.union(fixtures.verified, {"isolation": "not-enforced", "cluster": {"production": true}})
	asked := {"schema": "cellward.decision/v1", "verified": verified, "object": {}, "objects": []}
	found := data.starter.deny with input as object.union(asked, {"operation": "remove"})
	count(found) == 0
	deploying := data.starter.deny with input as object.union(asked, {"operation": "deploy"})
	fixtures.ids(deploying) == {proof}
	other := data.starter.deny with input as object.union(asked, {"operation": "removed"})
	fixtures.ids(other) == {proof}
}

# Nothing measured and no facts at all is refused.
test_isolation_proof_without_facts if {
	found := data.starter.isolation.deny with input as {"verified": {"project": "p", "cell": "c"}, "object": {}}
	fixtures.ids(found) == {proof}
}

# Equal for every object of the cell, so that the agent tells it once.
test_isolation_proof_is_about_the_cell if {
	verified := object.union(fixtures.verified, {"isolation": "unknown", "cluster": {"production": true}})
	first := data.starter.isolation.deny with input as {"verified": verified, "object": fixtures.service}
	second := data.starter.isolation.deny with input as {"verified": verified, "object": {"kind": "ConfigMap"}}
	first == second
	some denial in first
	denial.object == "Cell/shop/front"
}

# Claims of the hub and words in the object change nothing.
test_claims_do_not_count if {
	verified := object.union(fixtures.verified, {"isolation": "unknown", "cluster": {"production": true}})
	claimed := {
		"verified": verified, "object": fixtures.service,
		"hub": {"isolation": "enforced", "production": false, "parameters": {"isolation": {"tolerate": ["unknown"]}}},
		"parameters": {"isolation": {"tolerate": ["unknown"]}},
	}
	fixtures.ids(data.starter.deny) == {proof} with input as claimed
}

# A release without objects is decided on an empty object: only what concerns the whole cell speaks.
test_no_object if {
	count(data.starter.deny) == 0 with input as {"verified": fixtures.verified, "object": {}}
}

# Odd objects are judged, not crashed on.
test_odd_objects[i] if {
	some i, spec in ["text", [], {"containers": "text"}, {"containers": [null, 1, "x"]}, {"containers": {}}, null]
	item := {"kind": "Pod", "metadata": fixtures.metadata, "spec": spec}
	count(data.starter.deny) >= 0 with input as fixtures.as_input(item)
}
