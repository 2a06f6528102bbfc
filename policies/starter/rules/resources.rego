# METADATA
# title: Resources
# description: A cell says what it needs, so that it cannot starve its neighbours.
package starter.resources

import data.starter.lib

required := {["requests", "cpu"], ["requests", "memory"], ["limits", "memory"]}

# METADATA
# title: Containers have requests and limits
# description: >-
#   Regular and init containers, sidecars among them, request CPU and memory and have a memory limit, each more than
#   nothing (0m and 0Mi are nothing, and so is less than a byte of memory, such as 128m); ephemeral ones cannot.
# custom:
#   id: starter/resources/requests-and-limits
#   severity: medium
#   remediation: Set resources.requests.cpu, resources.requests.memory and resources.limits.memory to more than zero.
#   controls: ["NIST SP 800-53 SC-6", "NSA/CISA Kubernetes Hardening: resource policies"]
deny contains lib.denial(rego.metadata.rule(), reason) if {
	some container in lib.containers
	container.field != "ephemeralContainers"
	missing := [concat(".", path) |
		some path in required
		not present(container.spec, path)
	]
	count(missing) > 0
	reason := sprintf("container %s does not set %s", [container.name, concat(", ", sort(missing))])
}

present(container, path) if number_of(container.resources[path[0]][path[1]]) >= least[path[1]]

# CPU may be as little as a thousandth of a core, memory has at least one byte.
least := {"cpu": 0.001, "memory": 1}

# The amount as a number; undefined for what is not a quantity, which must not reach the built-in (it would fail).
number_of(amount) := amount if is_number(amount)

number_of(amount) := units.parse(amount) if {
	is_string(amount)
	regex.match(`^\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2}|[mkMGTPE]|[KMGTPE]i)?$`, amount)
}
