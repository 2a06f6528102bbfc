package starter.pod_security_test

import data.starter.fixtures_test as fixtures

privileged := "starter/pod-security/privileged"

host := "starter/pod-security/host-access"

root := "starter/pod-security/run-as-non-root"

cases := {
	"a plain pod": {"spec": fixtures.spec, "want": set()},
	"privileged": {"spec": fixtures.spec_with({"securityContext": {"privileged": true}}), "want": {privileged}},
	"privileged false": {"spec": fixtures.spec_with({"securityContext": {"privileged": false}}), "want": set()},
	"capability beyond the baseline": {
		"spec": fixtures.spec_with({"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}),
		"want": {privileged},
	},
	"NET_RAW is beyond the baseline": {
		"spec": fixtures.spec_with({"securityContext": {"capabilities": {"add": ["NET_RAW"]}}}),
		"want": {privileged},
	},
	"capability of the baseline, in either spelling": {
		"spec": fixtures.spec_with({"securityContext": {"capabilities": {"add": ["CHOWN", "CAP_KILL"], "drop": ["ALL"]}}}),
		"want": set(),
	},
	"privileged init container": {
		"spec": object.union(fixtures.spec, {"initContainers": [object.union(fixtures.container, {"securityContext": {"privileged": true}})]}),
		"want": {privileged},
	},
	"privileged ephemeral container": {
		"spec": object.union(fixtures.spec, {"ephemeralContainers": [object.union(fixtures.container, {"securityContext": {"privileged": true}})]}),
		"want": {privileged},
	},
	"host PID": {"spec": object.union(fixtures.spec, {"hostPID": true}), "want": {host}},
	"host IPC": {"spec": object.union(fixtures.spec, {"hostIPC": true}), "want": {host}},
	"host path": {
		"spec": object.union(fixtures.spec, {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
		"want": {host},
	},
	"other volumes": {
		"spec": object.union(fixtures.spec, {"volumes": [{"name": "v", "emptyDir": {}}]}),
		"want": set(),
	},
	"host port": {"spec": fixtures.spec_with({"ports": [{"containerPort": 80, "hostPort": 80}]}), "want": {host}},
	"host port zero is none": {
		"spec": fixtures.spec_with({"ports": [{"containerPort": 80, "hostPort": 0}]}),
		"want": set(),
	},
	"Windows host process": {
		"spec": object.union(fixtures.spec, {"securityContext": {"windowsOptions": {"hostProcess": true}}}),
		"want": {host},
	},
	"runAsNonRoot from the pod": {
		"spec": {
			"securityContext": {"runAsNonRoot": true},
			"containers": [object.remove(fixtures.container, ["securityContext"])],
		},
		"want": set(),
	},
	"runAsNonRoot nowhere": {
		"spec": {"containers": [object.remove(fixtures.container, ["securityContext"])]},
		"want": {root},
	},
	"the container overrides the pod": {
		"spec": object.union(fixtures.spec_with({"securityContext": {"runAsNonRoot": false}}), {"securityContext": {"runAsNonRoot": true}}),
		"want": {root},
	},
	"user 0 of the container": {"spec": fixtures.spec_with({"securityContext": {"runAsUser": 0}}), "want": {root}},
	"user 0 of the pod": {"spec": object.union(fixtures.spec, {"securityContext": {"runAsUser": 0}}), "want": {root}},
	"user 0 of the pod, overridden": {
		"spec": object.union(fixtures.spec_with({"securityContext": {"runAsUser": 1000}}), {"securityContext": {"runAsUser": 0}}),
		"want": set(),
	},
	"second container as root": {
		"spec": {"containers": [fixtures.container, {"name": "b", "image": "registry.k8s.io/pause:3.9", "resources": fixtures.container.resources}]},
		"want": {root},
	},
}

# Every case holds for every kind that bears pods.
test_pod_security[sprintf("%s/%s", [name, kind])] if {
	some name, case in cases
	some kind, item in fixtures.around(case.spec)
	fixtures.ids(data.starter.deny) == case.want with input as fixtures.as_input(item)
}
