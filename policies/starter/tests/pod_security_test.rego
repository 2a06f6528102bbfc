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
	"ALL capabilities, or none that is known": {
		"spec": fixtures.spec_with({"securityContext": {"capabilities": {"add": ["ALL", 7]}}}),
		"want": {privileged},
	},
	"privileged sidecar": {
		"spec": object.union(fixtures.spec, {"initContainers": [object.union(
			fixtures.container,
			{"restartPolicy": "Always", "securityContext": {"privileged": true}},
		)]}),
		"want": {privileged},
	},
	"profiles of the runtime and of the node": {
		"spec": object.union(
			fixtures.spec_with({"securityContext": {
				"seccompProfile": {"type": "Localhost", "localhostProfile": "x.json"},
				"appArmorProfile": {"type": "RuntimeDefault"},
				"seLinuxOptions": {"level": "s0:c1", "type": "container_t"},
				"procMount": "Default",
			}}),
			{"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}},
		),
		"want": set(),
	},
	"seccomp off": {
		"spec": fixtures.spec_with({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
		"want": {privileged},
	},
	"seccomp off for the pod": {
		"spec": object.union(fixtures.spec, {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
		"want": {privileged},
	},
	"AppArmor off": {
		"spec": fixtures.spec_with({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
		"want": {privileged},
	},
	"SELinux type of the host": {
		"spec": fixtures.spec_with({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}),
		"want": {privileged},
	},
	"SELinux user": {
		"spec": object.union(fixtures.spec, {"securityContext": {"seLinuxOptions": {"user": "system_u"}}}),
		"want": {privileged},
	},
	"/proc without masks": {
		"spec": fixtures.spec_with({"securityContext": {"procMount": "Unmasked"}}),
		"want": {privileged},
	},
	"NFS, past the isolation": {
		"spec": object.union(fixtures.spec, {"volumes": [{"name": "v", "nfs": {"server": "192.0.2.1", "path": "/"}}]}),
		"want": {host},
	},
	"a program of the node mounts": {
		"spec": object.union(fixtures.spec, {"volumes": [{"name": "v", "flexVolume": {"driver": "x/y"}}]}),
		"want": {host},
	},
	"a volume type nobody thought of": {
		"spec": object.union(fixtures.spec, {"volumes": [{"name": "v", "later": {}}]}),
		"want": {host},
	},
	"host path of a volume without a name": {
		"spec": object.union(fixtures.spec, {"volumes": [{"hostPath": {"path": "/"}}]}),
		"want": {host},
	},
	"every volume of the pod's own": {
		"spec": object.union(fixtures.spec, {"volumes": [{"name": type, type: {}} |
			some type in ["configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"]
		]}),
		"want": set(),
	},
	"host port of an init container": {
		"spec": object.union(fixtures.spec, {"initContainers": [object.union(fixtures.container, {"ports": [{"hostPort": 80}]})]}),
		"want": {host},
	},
	"Windows host process of a container": {
		"spec": fixtures.spec_with({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
		"want": {host},
	},
	"kernel setting of the pod": {
		"spec": object.union(fixtures.spec, {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}}),
		"want": set(),
	},
	"kernel setting of the node": {
		"spec": object.union(fixtures.spec, {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}),
		"want": {host},
	},
	"probe of the pod": {
		"spec": fixtures.spec_with({"livenessProbe": {"httpGet": {"port": 80}}, "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}}),
		"want": set(),
	},
	"probe of another host": {
		"spec": fixtures.spec_with({"readinessProbe": {"tcpSocket": {"port": 80, "host": "10.0.0.1"}}}),
		"want": {host},
	},
	"hook that calls another host": {
		"spec": fixtures.spec_with({"lifecycle": {"postStart": {"httpGet": {"port": 80, "host": "169.254.169.254"}}}}),
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
	"user 0 of the container, against the pod": {
		"spec": object.union(
			fixtures.spec_with({"securityContext": {"runAsUser": 0}}),
			{"securityContext": {"runAsNonRoot": true, "runAsUser": 1000}},
		),
		"want": {root},
	},
	"user 0 of an init container": {
		"spec": object.union(
			fixtures.spec,
			{"initContainers": [object.union(fixtures.container, {"securityContext": {"runAsUser": 0}})]},
		),
		"want": {root},
	},
	"runAsNonRoot null falls to the pod": {
		"spec": object.union(
			fixtures.spec_with({"securityContext": {"runAsNonRoot": null}}),
			{"securityContext": {"runAsNonRoot": false}},
		),
		"want": {root},
	},
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

# The form of AppArmor profiles before Kubernetes 1.30.
test_apparmor_annotation[profile] if {
	some profile, want in {"unconfined": {privileged}, "runtime/default": set(), "localhost/x": set()}
	annotations := {"container.apparmor.security.beta.kubernetes.io/web": profile}
	item := object.union(fixtures.around(fixtures.spec).Pod, {"metadata": {"annotations": annotations}})
	fixtures.ids(data.starter.deny) == want with input as fixtures.as_input(item)
}
