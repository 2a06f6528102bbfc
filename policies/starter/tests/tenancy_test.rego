package starter.tenancy_test

import data.starter.fixtures_test as fixtures

scheduling := "starter/tenancy/scheduling"

storage := "starter/tenancy/storage"

finalizers := "starter/tenancy/finalizers"

annotations := "starter/network/plugin-annotations"

runtime := "starter/pod-security/host-access"

names := "starter/network/service-type"

pod(more) := object.union(fixtures.spec, more)

anti(term) := pod({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [object.union(
	{"topologyKey": "kubernetes.io/hostname", "labelSelector": {}},
	term,
)]}}})

preferred(kind, term) := pod({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{
	"weight": 1,
	"podAffinityTerm": object.union({"topologyKey": "zone", "labelSelector": {}}, term),
}]}}})

pod_cases := {
	"a system priority class": {"spec": pod({"priorityClassName": "system-node-critical"}), "want": {scheduling}},
	"any priority class": {"spec": pod({"priorityClassName": "gold"}), "want": {scheduling}},
	"a priority": {"spec": pod({"priority": 2000001000}), "want": {scheduling}},
	"no priority": {"spec": pod({"priorityClassName": "", "priority": 0}), "want": set()},
	"another scheduler": {"spec": pod({"schedulerName": "mine"}), "want": {scheduling}},
	"the scheduler": {"spec": pod({"schedulerName": "default-scheduler"}), "want": set()},
	"a runtime class": {"spec": pod({"runtimeClassName": "runc"}), "want": {scheduling}},
	"a node": {"spec": pod({"nodeName": "control-plane-1"}), "want": {scheduling}},
	"a node by its labels": {"spec": pod({"nodeSelector": {"kubernetes.io/arch": "arm64"}}), "want": set()},
	"tolerates everything": {"spec": pod({"tolerations": [{"operator": "Exists"}]}), "want": {scheduling}},
	"tolerates everything, key empty": {"spec": pod({"tolerations": [{"key": "", "operator": "Exists"}]}), "want": {scheduling}},
	"tolerates the control plane": {
		"spec": pod({"tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]}),
		"want": {scheduling},
	},
	"tolerates what reserves nodes": {
		"spec": pod({"tolerations": [{"key": "dedicated", "value": "other-team"}]}),
		"want": {scheduling},
	},
	"tolerates a node in trouble": {
		"spec": pod({"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 30}]}),
		"want": set(),
	},
	"tolerates a lost node for ever": {
		"spec": pod({"tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists"}]}),
		"want": {scheduling},
	},
	"tolerates a lost node too long": {
		"spec": pod({"tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 3601}]}),
		"want": {scheduling},
	},
	"tolerates a node that is drained": {
		"spec": pod({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "tolerationSeconds": 30}]}),
		"want": {scheduling},
	},
	"tolerates a node without memory": {
		"spec": pod({"tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]}),
		"want": {scheduling},
	},
	"tolerates what looks like a condition": {
		"spec": pod({"tolerations": [{"key": "node.kubernetes.io/dedicated-gpu", "operator": "Exists"}]}),
		"want": {scheduling},
	},
	"ends after an hour": {"spec": pod({"terminationGracePeriodSeconds": 3600}), "want": set()},
	"ends after an hour and a second": {"spec": pod({"terminationGracePeriodSeconds": 3601}), "want": {finalizers}},
	"ends after 68 years": {"spec": pod({"terminationGracePeriodSeconds": 2147483647}), "want": {finalizers}},
	"ends late when a probe fails": {
		"spec": fixtures.spec_with({"livenessProbe": {"exec": {}, "terminationGracePeriodSeconds": 2147483647}}),
		"want": {finalizers},
	},
	"ends soon when a probe fails": {
		"spec": fixtures.spec_with({"livenessProbe": {"exec": {}, "terminationGracePeriodSeconds": 30}}),
		"want": set(),
	},
	"anti-affinity in its namespace": {"spec": anti({}), "want": set()},
	"anti-affinity that names its namespace": {"spec": anti({"namespaces": ["shop--front--dev"]}), "want": set()},
	"anti-affinity to another namespace": {"spec": anti({"namespaces": ["shop--front--dev", "bank--pay--dev"]}), "want": {scheduling}},
	"anti-affinity to every namespace": {"spec": anti({"namespaceSelector": {}}), "want": {scheduling}},
	"anti-affinity to some": {"spec": anti({"namespaceSelector": {"matchLabels": {"a": "b"}}}), "want": {scheduling}},
	"no selector": {"spec": anti({"namespaceSelector": null, "namespaces": []}), "want": set()},
	"preferred anti-affinity": {"spec": preferred("podAntiAffinity", {"namespaceSelector": {}}), "want": {scheduling}},
	"preferred affinity": {"spec": preferred("podAffinity", {"namespaces": ["bank--pay--dev"]}), "want": {scheduling}},
	"preferred affinity at home": {"spec": preferred("podAffinity", {}), "want": set()},
	"spread over zones": {
		"spec": pod({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}),
		"want": set(),
	},
	"inline CSI": {"spec": pod({"volumes": [{"name": "v", "csi": {"driver": "x.example"}}]}), "want": {storage}},
	"inline CSI of nobody": {"spec": pod({"volumes": [{"name": "v", "csi": {}}]}), "want": {storage}},
	"an ephemeral claim that names a volume": {
		"spec": pod({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {"volumeName": "pv-of-bank"}}}}]}),
		"want": {storage},
	},
	"an ephemeral claim": {
		"spec": pod({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}}]}),
		"want": set(),
	},
	"an ephemeral claim of a class that nobody listed": {
		"spec": pod({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": "manual"}}}}]}),
		"want": {storage},
	},
	"an ephemeral claim that stays": {
		"spec": pod({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {
			"metadata": {"finalizers": ["a.example/b"]},
			"spec": {},
		}}}]}),
		"want": {finalizers},
	},
	"a claim by name": {"spec": pod({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}), "want": set()},
}

test_pods[sprintf("%s/%s", [name, kind])] if {
	some name, case in pod_cases
	some kind, item in fixtures.around(case.spec)
	fixtures.ids(data.starter.deny) == case.want with input as fixtures.as_input(item)
}

claim(spec) := {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": fixtures.metadata, "spec": spec}

claim_cases := {
	"of the default class": {"spec": {}, "want": set()},
	"of no class by null": {"spec": {"storageClassName": null}, "want": set()},
	"of a class that nobody listed": {"spec": {"storageClassName": "manual"}, "want": {storage}},
	"nothing named": {"spec": {"volumeName": "", "selector": null, "dataSource": null}, "want": set()},
	"somebody's volume": {"spec": {"volumeName": "pv-of-bank"}, "want": {storage}},
	"a volume by its labels": {"spec": {"selector": {"matchLabels": {"owner": "bank"}}}, "want": {storage}},
	"any volume made by hand": {"spec": {"storageClassName": ""}, "want": {storage}},
	"a copy from elsewhere": {
		"spec": {"dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "data", "namespace": "bank--pay--dev"}},
		"want": {storage},
	},
	"a copy of its own": {
		"spec": {"dataSourceRef": {"kind": "VolumeSnapshot", "name": "s", "namespace": "shop--front--dev"}},
		"want": set(),
	},
	"a copy by the old field": {"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "data"}}, "want": set()},
	"a copy from elsewhere by the old field": {
		"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "data", "namespace": "bank--pay--dev"}},
		"want": {storage},
	},
}

test_claims[name] if {
	some name, case in claim_cases
	fixtures.ids(data.starter.deny) == case.want with input as fixtures.as_input(claim(case.spec))
}

volume_annotations := {
	"volume.beta.kubernetes.io/storage-class": {storage},
	"volume.kubernetes.io/selected-node": {storage},
	"volume.beta.kubernetes.io/storage-provisioner": {storage},
	"volume.kubernetes.io/storage-provisioner": {storage},
	"pv.kubernetes.io/bind-completed": {storage},
	"cdi.kubevirt.io/storage.import.source": {storage},
	"k8s.io/CloneRequest": {storage},
	"example.org/volume.kubernetes.io": set(),
	"backup.example.org/keep": set(),
}

# Around one claim: itself, the template of a StatefulSet, and that of a pod.
claimed_with(name) := {
	"claim": object.union(claim({}), {"metadata": {"annotations": {name: ""}}}),
	"claim template": stateful({"metadata": {"name": "data", "annotations": {name: ""}}, "spec": {}}),
	"ephemeral": fixtures.around(pod({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {
		"metadata": {"annotations": {name: ""}},
		"spec": {},
	}}}]})).CronJob,
}

test_annotations_of_claims[sprintf("%s/%s", [name, where])] if {
	some name, want in volume_annotations
	some where, item in claimed_with(name)
	fixtures.ids(data.starter.deny) == want with input as fixtures.as_input(item)
}

test_listed_annotation_of_a_claim_is_allowed[where] if {
	some where, item in claimed_with("cdi.kubevirt.io/storage.import.source")
	listed := {"storage": {"annotations": ["cdi.kubevirt.io/storage.import.source"]}}
	asked := object.union(fixtures.as_input(item), {"verified": fixtures.with_parameters(listed)})
	fixtures.ids(data.starter.deny) == set() with input as asked
}

with_classes(classes, item) := object.union(
	fixtures.as_input(item),
	{"verified": fixtures.with_parameters({"storage": {"classes": classes}})},
)

test_listed_class_is_allowed[where] if {
	some where, item in {
		"claim": claim({"storageClassName": "fast"}),
		"claim template": stateful({"metadata": {"name": "data"}, "spec": {"storageClassName": "fast"}}),
	}
	fixtures.ids(data.starter.deny) == set() with input as with_classes(["fast"], item)
	fixtures.ids(data.starter.deny) == {storage} with input as with_classes(["faster"], item)
}

test_no_list_allows_what_is_made_by_hand if {
	item := claim({"storageClassName": ""})
	fixtures.ids(data.starter.deny) == {storage} with input as with_classes([""], item)
}

test_class_by_the_listed_annotation[class] if {
	some class, want in {"fast": set(), "manual": {storage}}
	item := object.union(claim({}), {"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": class}}})
	more := {"classes": ["fast"], "annotations": ["volume.beta.kubernetes.io/storage-class"]}
	asked := object.union(fixtures.as_input(item), {"verified": fixtures.with_parameters({"storage": more})})
	fixtures.ids(data.starter.deny) == want with input as asked
}

stateful(template) := object.union(
	fixtures.workload("StatefulSet", fixtures.spec),
	{"spec": {"volumeClaimTemplates": [template]}},
)

test_claim_templates[name] if {
	some name, case in claim_cases
	item := stateful({"metadata": {"name": "data"}, "spec": case.spec})
	fixtures.ids(data.starter.deny) == case.want with input as fixtures.as_input(item)
}

test_claim_template_that_stays if {
	item := stateful({"metadata": {"name": "data", "finalizers": ["a.example/b"]}, "spec": {}})
	fixtures.ids(data.starter.deny) == {finalizers} with input as fixtures.as_input(item)
}

# The pod template, of each kind that has one.
template_with(kind, metadata) := object.union(
	fixtures.workload(kind, fixtures.spec),
	{"spec": {"template": {"metadata": metadata}}},
)

test_finalizers_of_templates[sprintf("%s/%s", [kind, finalizer])] if {
	some kind in ["Deployment", "StatefulSet", "DaemonSet", "Job"]
	some finalizer in ["a.example/b", "kubernetes.io/pvc-protection", "batch.kubernetes.io/job-tracking"]
	item := template_with(kind, {"finalizers": [finalizer]})
	fixtures.ids(data.starter.deny) == {finalizers} with input as fixtures.as_input(item)
}

test_finalizers_of_a_cron_job[where] if {
	some where, more in {
		"pods": {"spec": {"template": {"metadata": {"finalizers": ["a.example/b"]}}}},
		"jobs": {"metadata": {"finalizers": ["a.example/b"]}},
	}
	item := object.union(fixtures.around(fixtures.spec).CronJob, {"spec": {"jobTemplate": more}})
	fixtures.ids(data.starter.deny) == {finalizers} with input as fixtures.as_input(item)
}

test_finalizers_of_objects[finalizer] if {
	some finalizer, want in {
		"a.example/b": {finalizers},
		"batch.kubernetes.io/job-tracking": set(),
		"kubernetes.io/pvc-protection": set(),
	}
	item := object.union(claim({}), {"metadata": {"finalizers": [finalizer]}})
	fixtures.ids(data.starter.deny) == want with input as fixtures.as_input(item)
}

parameters := {
	"scheduling": {
		"priorityClasses": ["gold"], "schedulers": ["mine"], "runtimeClasses": ["gvisor"],
		"tolerations": ["dedicated", "node.kubernetes.io/unschedulable"],
		"maxGraceSeconds": 7200, "maxTolerationSeconds": 7200,
	},
	"storage": {"inlineDrivers": ["secrets-store.csi.k8s.io"]},
	"network": {"annotations": ["cni.projectcalico.org/floatingIPs"]},
}

test_what_the_binding_lists_is_allowed[sprintf("%s/%s", [name, kind])] if {
	some name, more in {
		"class": {"priorityClassName": "gold", "priority": 1000},
		"scheduler": {"schedulerName": "mine"},
		"runtime": {"runtimeClassName": "gvisor"},
		"taint": {"tolerations": [{"key": "dedicated", "value": "shop"}]},
		"driver": {"volumes": [{"name": "v", "csi": {"driver": "secrets-store.csi.k8s.io"}}]},
		"drained": {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]},
		"lost": {"tolerations": [{"key": "node.kubernetes.io/not-ready", "tolerationSeconds": 7200}]},
		"grace": {"terminationGracePeriodSeconds": 7200},
	}
	some kind, item in fixtures.around(pod(more))
	asked := object.union(fixtures.as_input(item), {"verified": fixtures.with_parameters(parameters)})
	fixtures.ids(data.starter.deny) == set() with input as asked
}

test_what_the_binding_does_not_list_is_refused[sprintf("%s/%s", [name, kind])] if {
	some name, more in {
		"class": {"priorityClassName": "system-cluster-critical", "priority": 2000000000},
		"taint": {"tolerations": [{"operator": "Exists"}]},
		"driver": {"volumes": [{"name": "v", "csi": {"driver": "host.example"}}]},
		"lost": {"tolerations": [{"key": "node.kubernetes.io/not-ready", "tolerationSeconds": 7201}]},
		"grace": {"terminationGracePeriodSeconds": 7201},
	}
	some kind, item in fixtures.around(pod(more))
	asked := object.union(fixtures.as_input(item), {"verified": fixtures.with_parameters(parameters)})
	count(data.starter.deny) > 0 with input as asked
}

test_plugin_annotations[name] if {
	some name, want in {
		"k8s.v1.cni.cncf.io/networks": {annotations},
		"v1.multus-cni.io/default-network": {annotations},
		"cni.projectcalico.org/ipAddrs": {annotations},
		"ovn.kubernetes.io/ip_address": {annotations},
		"attachnet.default.ovn.kubernetes.io/logical_switch": {annotations},
		"networking.gke.io/interfaces": {annotations},
		"networking.gke.io/default-interface": {annotations},
		"danm.k8s.io/interfaces": {annotations},
		"ipam.cilium.io/ip-pool": {annotations},
		"io.kubernetes.cri-o.Devices": {runtime},
		"io.kubernetes.cri-o.UnifiedCgroup.c": {runtime},
		"cpu-quota.crio.io": {runtime},
		"devices.nri.io/pod": {runtime},
		"cdi.k8s.io/gpu": {runtime},
		"io.katacontainers.config.hypervisor.path": {runtime},
		"run.oci.keep_original_groups": {runtime},
		"sidecar.istio.io/userVolume": {runtime},
		"sidecar.istio.io/userVolumeMount": {runtime},
		"inject.istio.io/templates": {runtime},
		"external-dns.alpha.kubernetes.io/hostname": {names},
		"sidecar.istio.io/rewriteAppHTTPProbers": set(),
		"sidecar.istio.io/inject": set(),
		"cluster-autoscaler.kubernetes.io/safe-to-evict": set(),
		"example.org/note": set(),
		"example.org/cilium.io": set(),
		"notcilium.io/x": set(),
	}
	item := template_with("Deployment", {"annotations": {name: "bank/net"}})
	fixtures.ids(data.starter.deny) == want with input as fixtures.as_input(item)
}

test_listed_plugin_annotation_is_allowed if {
	item := template_with("Deployment", {"annotations": {"cni.projectcalico.org/floatingIPs": "[]"}})
	asked := object.union(fixtures.as_input(item), {"verified": fixtures.with_parameters(parameters)})
	fixtures.ids(data.starter.deny) == set() with input as asked
}

test_listed_runtime_annotation_is_allowed if {
	item := template_with("Deployment", {"annotations": {"cpu-quota.crio.io": "disable"}})
	listed := {"podSecurity": {"annotations": ["cpu-quota.crio.io"]}}
	asked := object.union(fixtures.as_input(item), {"verified": fixtures.with_parameters(listed)})
	fixtures.ids(data.starter.deny) == set() with input as asked
}
