# METADATA
# title: Owner and labels
# description: Everything that runs says whose it is and what it belongs to.
package starter.ownership

import data.starter.lib

common_labels := {
	"app.kubernetes.io/name",
	"app.kubernetes.io/part-of",
	"app.kubernetes.io/version",
	"app.kubernetes.io/managed-by",
	"cellward.dev/project",
	"cellward.dev/cell",
	"cellward.dev/environment",
}

component_label := "cellward.dev/component"

component_kinds := {"Pod", "Service", "CronJob"} | lib.templated_kinds

# Made by the agent itself, with labels of its own.
agent_kinds := {"Namespace", "NetworkPolicy", "Role", "RoleBinding"}

required_labels := common_labels | {component_label} if input.object.kind in component_kinds

else := common_labels

# Labels that must say what the agent verified.
verified_labels := {
	"cellward.dev/project": input.verified.project,
	"cellward.dev/cell": input.verified.cell,
	"cellward.dev/environment": input.verified.environment,
}

# METADATA
# title: Objects have an owner and labels
# description: Every object carries the platform's labels with true values and an owner; pod templates name their cell.
# custom:
#   id: starter/metadata/owner-and-labels
#   severity: medium
#   remediation: Set metadata.labels as named, and annotation cellward.dev/owner to the owning team.
#   controls: ["NIST SP 800-53 CM-8", "NIST SP 800-53 PM-5"]
deny contains lib.denial(rego.metadata.rule(), reason) if {
	is_string(input.object.kind)
	not input.object.kind in agent_kinds
	count(faults) > 0
	reason := concat("; ", sort(faults))
}

faults contains sprintf("label %s is missing", [label]) if {
	some label in required_labels
	not has_label(label)
}

faults contains sprintf("label %s is not %q", [label, wanted]) if {
	some label, wanted in verified_labels
	is_text(input.object.metadata.labels[label])
	input.object.metadata.labels[label] != wanted
}

faults contains "annotation cellward.dev/owner is missing" if {
	not has_owner
}

# Isolation selects pods by these labels, so the template needs them too.
faults contains sprintf("label %s of the pod template is missing or not %q", [label, wanted]) if {
	input.object.kind != "Pod"
	is_object(lib.pod.spec)
	some label, wanted in verified_labels
	not lib.pod.metadata.labels[label] == wanted
}

has_label(label) if is_text(input.object.metadata.labels[label])

has_owner if is_text(input.object.metadata.annotations["cellward.dev/owner"])

is_text(value) if {
	is_string(value)
	value != ""
}
