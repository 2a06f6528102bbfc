# METADATA
# title: Resources
# description: A cell says what it needs, so that it cannot starve its neighbours.
package starter.resources

import data.starter.lib

required := {["requests", "cpu"], ["requests", "memory"], ["limits", "memory"]}

# METADATA
# title: Containers have requests and limits
# description: Regular and init containers request CPU and memory and have a memory limit; ephemeral ones cannot.
# custom:
#   id: starter/resources/requests-and-limits
#   severity: medium
#   remediation: Set resources.requests.cpu, resources.requests.memory and resources.limits.memory.
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

present(container, path) if {
	amount := container.resources[path[0]][path[1]]
	not amount in {null, "", 0, "0"}
}
