# METADATA
# title: Pod security
# description: A cell's containers get no power over the node.
package starter.pod_security

import data.starter.lib

# What the Pod Security Standards allow to add at level baseline.
baseline_capabilities := {
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
	"NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

# Kernel settings that stay inside the pod, and SELinux types of containers, as the same standards list them.
safe_sysctls := {
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_syncookies",
}

selinux_types := {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}

# Volumes that hold what is the pod's own, what is in the cluster's API, or what an administrator made available (inline CSI
# volumes by a rule of their own).
# All others are the node's, or are mounted by the node over its own network, past the isolation of the cell.
volume_types := {
	"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}

# The security context of the pod, and of each container; a setting in one of them is a setting.
contexts contains {"of": "the pod", "spec": lib.pod.spec.securityContext}

contexts contains {"of": sprintf("container %s", [container.name]), "spec": container.spec.securityContext} if {
	some container in lib.containers
}

# METADATA
# title: No privileged containers
# description: >-
#   No container runs privileged, adds a capability beyond the Pod Security baseline, or takes off what holds it:
#   seccomp, AppArmor, SELinux, or the masks over /proc.
# custom:
#   id: starter/pod-security/privileged
#   severity: critical
#   remediation: Remove privileged and the added capabilities; ask the security team if the container truly needs one.
#   controls: ["NIST SP 800-53 AC-6", "NIST SP 800-53 CM-7", "NSA/CISA Kubernetes Hardening: pod security"]
deny contains lib.denial(rego.metadata.rule(), reason) if some reason in privileged

privileged contains sprintf("container %s is privileged", [container.name]) if {
	some container in lib.containers
	lib.asked(container.spec.securityContext.privileged)
}

privileged contains sprintf("container %s adds capability %v", [container.name, capability]) if {
	some container in lib.containers
	some capability in container.spec.securityContext.capabilities.add
	not of_baseline(capability)
}

of_baseline(capability) if trim_prefix(capability, "CAP_") in baseline_capabilities

privileged contains sprintf("%s has seccomp profile %v", [context.of, type]) if {
	some context in contexts
	type := context.spec.seccompProfile.type
	not type in {"RuntimeDefault", "Localhost", null}
}

privileged contains sprintf("%s has AppArmor profile %v", [context.of, type]) if {
	some context in contexts
	type := context.spec.appArmorProfile.type
	not type in {"RuntimeDefault", "Localhost", null}
}

# The form before Kubernetes 1.30, which API servers may still read.
privileged contains sprintf("annotation %s is %v", [name, profile]) if {
	some name, profile in lib.pod.metadata.annotations
	startswith(name, "container.apparmor.security.beta.kubernetes.io/")
	not of_the_node(profile)
}

of_the_node(profile) if profile in {"", "runtime/default"}

of_the_node(profile) if startswith(profile, "localhost/")

privileged contains sprintf("%s sets SELinux %s %v", [context.of, field, value]) if {
	some context in contexts
	some field, value in context.spec.seLinuxOptions
	field != "level"
	not selinux_allowed(field, value)
}

selinux_allowed("type", value) if value in selinux_types

selinux_allowed(_, value) if value in {"", null}

privileged contains sprintf("container %s has /proc mounted %v", [container.name, mount]) if {
	some container in lib.containers
	mount := container.spec.securityContext.procMount
	not mount in {"Default", "", null}
}

# METADATA
# title: No access to the host
# description: >-
#   No host process or IPC namespace, host port or Windows host process; no volume of the host, or that the host mounts
#   from elsewhere past the cell's isolation; no kernel setting that reaches beyond the pod; no probe or hook that
#   makes the node call another address than the pod's. No annotation of the pod gives it devices or settings of the runtime
#   or its sandbox (CRI-O, containerd, NRI, CDI, Kata, gVisor), or volumes, images and templates that an injector adds after
#   the rules have seen the pod.
# custom:
#   id: starter/pod-security/host-access
#   severity: critical
#   remediation: >-
#     Use a volume claim instead of a host path, a Service instead of a host port, and fields instead of annotations; an
#     annotation that is safe for tenants is listed by the security team in parameter podSecurity.annotations of the binding.
#   controls: ["NIST SP 800-53 AC-6", "NIST SP 800-53 SC-39", "NSA/CISA Kubernetes Hardening: pod security"]
deny contains lib.denial(rego.metadata.rule(), reason) if some reason in host_access

host_access contains sprintf("the pod sets %s", [field]) if {
	some field in {"hostPID", "hostIPC"}
	lib.asked(lib.pod.spec[field])
}

host_access contains sprintf("volume %s mounts a path of the host", [volume.name]) if {
	some volume in lib.volumes
	lib.asked(volume.spec.hostPath)
}

host_access contains sprintf("volume %s is of type %s, which the node mounts past the cell's isolation", [
	volume.name,
	type,
]) if {
	some volume in lib.volumes
	some type, source in volume.spec
	not type in (volume_types | {"name", "hostPath"})
	source != null
}

host_access contains sprintf("container %s takes port %v of the host", [container.name, port.hostPort]) if {
	some container in lib.containers
	some port in container.spec.ports
	not port.hostPort in {0, null}
}

host_access contains sprintf("%s runs as a Windows host process", [context.of]) if {
	some context in contexts
	lib.asked(context.spec.windowsOptions.hostProcess)
}

host_access contains sprintf("the pod sets kernel setting %v", [sysctl.name]) if {
	some sysctl in lib.pod.spec.securityContext.sysctls
	not sysctl.name in safe_sysctls
}

# The kubelet calls it, from the node's network, where no policy of the cell holds.
host_access contains sprintf("container %s has the node call host %v", [container.name, call.host]) if {
	some container in lib.containers
	some call in calls(container.spec)
	not call.host in {"", null}
}

calls(container) := {call |
	some path in call_paths
	call := object.get(container, path, null)
	is_object(call)
}

call_paths := {array.concat(holder, [way]) |
	some holder in [["livenessProbe"], ["readinessProbe"], ["startupProbe"], ["lifecycle", "postStart"], ["lifecycle", "preStop"]]
	some way in ["httpGet", "tcpSocket"]
}

# Annotations that runtimes take as settings of the sandbox: devices, cgroups, kernel and hypervisor.
runtime_domains := {"crio.io", "cri-o.io", "nri.io", "cdi.k8s.io"}

runtime_prefixes := {"io.kubernetes.cri-o.", "io.katacontainers.", "io.containerd.", "run.oci.", "dev.gvisor."}

# Annotations that choose what an injector adds to the pod after the rules have seen it.
injector_domains := {"inject.istio.io"}

injector_prefixes := {
	"sidecar.istio.io/userVolume", "sidecar.istio.io/proxyImage", "sidecar.istio.io/bootstrapOverride",
	"proxy.istio.io/overrides",
}

host_access contains sprintf("the pod has annotation %s", [name]) if {
	some name, _ in lib.pod.metadata.annotations
	past_specification(name)
	not name in {item | some item in lib.parameters.podSecurity.annotations}
}

past_specification(name) if lib.of_domain(name, runtime_domains | injector_domains)

past_specification(name) if {
	some prefix in (runtime_prefixes | injector_prefixes)
	startswith(name, prefix)
}

# METADATA
# title: Containers do not run as root
# description: Every container runs as non-root by its own or the pod's security context, and none asks for user 0.
# custom:
#   id: starter/pod-security/run-as-non-root
#   severity: high
#   remediation: Set runAsNonRoot to true, and runAsUser to a number other than 0 if the image needs one.
#   controls: ["NIST SP 800-53 AC-6", "NSA/CISA Kubernetes Hardening: pod security"]
deny contains lib.denial(rego.metadata.rule(), reason) if some reason in as_root

as_root contains sprintf("container %s may run as root: runAsNonRoot is not true", [container.name]) if {
	some container in lib.containers
	not non_root(container.spec)
}

as_root contains sprintf("container %s asks for user 0", [container.name]) if {
	some container in lib.containers
	effective(container.spec, "runAsUser") == 0
}

# A call inside a negation is undefined when its argument is, so the comparison has a rule of its own.
non_root(container) if effective(container, "runAsNonRoot") == true

# The container's own setting, else the pod's.
effective(container, field) := container.securityContext[field] if is_set(container.securityContext[field])

else := lib.pod.spec.securityContext[field]

is_set(value) if value != null
