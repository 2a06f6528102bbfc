# METADATA
# title: What the rules share
# description: Pods and containers of every kind that bears them, names, parameters, and the form of a denial.
package starter.lib

templated_kinds := {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"}

# The pod of the object: its metadata and spec, wherever the kind keeps them.
pod := input.object if input.object.kind == "Pod"

pod := input.object.spec.template if input.object.kind in templated_kinds

pod := input.object.spec.jobTemplate.spec.template if input.object.kind == "CronJob"

pod := input.object.template if input.object.kind == "PodTemplate"

container_fields := {"containers", "initContainers", "ephemeralContainers"}

# Every container of the pod: regular, init and ephemeral ones.
containers contains {"field": field, "name": name_of(container), "spec": container} if {
	some field in container_fields
	some container in pod.spec[field]
	is_object(container)
}

name_of(item) := item.name if {
	is_string(item.name)
} else := "(without a name)"

# Every volume of the pod.
volumes contains {"name": name_of(volume), "spec": volume} if {
	some volume in pod.spec.volumes
	is_object(volume)
}

# Whether an annotation belongs to one of the domains, or to one below it: what stands before the slash, or all of it.
of_domain(annotation, domains) if {
	domain := split(annotation, "/")[0]
	some one in domains
	endswith(concat("", [".", domain]), concat("", [".", one]))
}

# A switch is on unless it is absent, null or false: what is no boolean is not for the rules to guess.
asked(value) if not value in {false, null}

# Parameters come from the signed binding, never from the object or the hub.
default parameters := {}

parameters := input.verified.binding.parameters if is_object(input.verified.binding.parameters)

default object_id := "(without a name)"

object_id := concat("/", [input.object.kind, input.object.metadata.namespace, input.object.metadata.name]) if {
	is_string(input.object.kind)
	is_string(input.object.metadata.namespace)
	is_string(input.object.metadata.name)
} else := concat("/", [input.object.kind, input.object.metadata.name]) if {
	is_string(input.object.kind)
	is_string(input.object.metadata.name)
}

# The cell as an object, for rules about the whole of it: equal for every object, so it is reported once.
cell_id := sprintf("Cell/%s/%s", [input.verified.project, input.verified.cell])

# A denial about the object; id, severity and remediation come from the rule's own METADATA.
denial(meta, reason) := denial_of(meta, reason, object_id)

denial_of(meta, reason, subject) := {
	"rule": meta.custom.id,
	"severity": meta.custom.severity,
	"reason": reason,
	"remediation": meta.custom.remediation,
	"object": subject,
}
