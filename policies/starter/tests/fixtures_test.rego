# METADATA
# title: Fixtures
# description: Objects that every rule accepts, to be broken one by one; not part of the bundle.
package starter.fixtures_test

labels := {
	"app.kubernetes.io/name": "web",
	"app.kubernetes.io/part-of": "front",
	"app.kubernetes.io/version": "1.0.0",
	"app.kubernetes.io/managed-by": "cellward",
	"cellward.dev/project": "shop",
	"cellward.dev/cell": "front",
	"cellward.dev/environment": "dev",
	"cellward.dev/component": "web",
}

metadata := {
	"name": "web", "namespace": "shop--front--dev", "labels": labels,
	"annotations": {"cellward.dev/owner": "team-front"},
}

container := {
	"name": "web",
	"image": "registry.k8s.io/pause:3.9",
	"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}},
	"securityContext": {"runAsNonRoot": true},
}

spec := {"containers": [container]}

spec_with(c) := {"containers": [object.union(container, c)]}

pod_template(s) := {"metadata": {"labels": labels}, "spec": s}

# The six kinds that bear pods in a cell, around one pod spec.
around(s) := {
	"Pod": {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": s},
	"Deployment": workload("Deployment", s),
	"StatefulSet": workload("StatefulSet", s),
	"DaemonSet": workload("DaemonSet", s),
	"Job": workload("Job", s),
	"CronJob": {
		"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata,
		"spec": {"jobTemplate": {"spec": {"template": pod_template(s)}}},
	},
}

workload(kind, s) := {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": {"template": pod_template(s)}}

service := {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"type": "ClusterIP"}}

verified := {
	"project": "shop", "cell": "front", "environment": "dev", "isolation": "enforced",
	"cluster": {"production": false},
	"binding": {"name": "base", "mode": "enforce", "parameters": {}},
}

as_input(object) := {"schema": "cellward.decision/v1", "verified": verified, "object": object}

with_parameters(parameters) := object.union(verified, {"binding": {"parameters": parameters}})

# Ids of the rules that deny.
ids(denials) := {denial.rule | some denial in denials}
