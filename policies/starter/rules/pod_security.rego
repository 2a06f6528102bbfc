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

# METADATA
# title: No privileged containers
# description: No container runs privileged or adds a capability beyond the Pod Security baseline.
# custom:
#   id: starter/pod-security/privileged
#   severity: critical
#   remediation: Remove privileged and the added capabilities; ask the security team if the container truly needs one.
#   controls: ["NIST SP 800-53 AC-6", "NIST SP 800-53 CM-7", "NSA/CISA Kubernetes Hardening: pod security"]
deny contains lib.denial(rego.metadata.rule(), reason) if some reason in privileged

privileged contains sprintf("container %s is privileged", [container.name]) if {
	some container in lib.containers
	container.spec.securityContext.privileged == true
}

privileged contains sprintf("container %s adds capability %s", [container.name, capability]) if {
	some container in lib.containers
	some capability in container.spec.securityContext.capabilities.add
	is_string(capability)
	not trim_prefix(capability, "CAP_") in baseline_capabilities
}

# METADATA
# title: No access to the host
# description: No host process or IPC namespace, host path, host port or Windows host process.
# custom:
#   id: starter/pod-security/host-access
#   severity: critical
#   remediation: Use a volume claim instead of a host path, and a Service instead of a host port.
#   controls: ["NIST SP 800-53 AC-6", "NIST SP 800-53 SC-39", "NSA/CISA Kubernetes Hardening: pod security"]
deny contains lib.denial(rego.metadata.rule(), reason) if some reason in host_access

host_access contains sprintf("the pod sets %s", [field]) if {
	some field in {"hostPID", "hostIPC"}
	lib.pod.spec[field] == true
}

host_access contains sprintf("volume %s mounts a path of the host", [volume.name]) if {
	some volume in lib.pod.spec.volumes
	is_object(volume.hostPath)
}

host_access contains sprintf("container %s takes port %v of the host", [container.name, port.hostPort]) if {
	some container in lib.containers
	some port in container.spec.ports
	is_number(port.hostPort)
	port.hostPort != 0
}

host_access contains "the pod runs as a Windows host process" if {
	lib.pod.spec.securityContext.windowsOptions.hostProcess == true
}

host_access contains sprintf("container %s runs as a Windows host process", [container.name]) if {
	some container in lib.containers
	container.spec.securityContext.windowsOptions.hostProcess == true
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
