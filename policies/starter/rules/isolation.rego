# METADATA
# title: Isolation
# description: Production runs only where isolation was measured to hold.
package starter.isolation

import data.starter.lib

# What the agent measured; nothing measured is unknown.
default measured := "unknown"

measured := input.verified.isolation if is_string(input.verified.isolation)

# METADATA
# title: Production needs proved isolation
# description: >-
#   On clusters whose own facts say production, the isolation of the cell must have been measured as enforced, unless
#   the signed binding tolerates what was measured. A cell may be removed without.
# custom:
#   id: starter/isolation/proof
#   severity: critical
#   remediation: >-
#     Use a network plugin that enforces NetworkPolicy and let the probe prove it, or have the security team sign a
#     binding whose parameters isolation.tolerate name what was measured.
#   controls: ["NIST SP 800-53 SC-7", "NIST SP 800-53 CA-7"]
deny contains lib.denial_of(rego.metadata.rule(), reason, lib.cell_id) if {
	deploys
	production
	measured != "enforced"
	not tolerated
	reason := sprintf("the cluster is production and the cell's isolation is %s, not enforced", [measured])
}

# What ends needs no proof any more, or a cell whose isolation broke could never be removed.
deploys if not input.operation == "remove"

# Anything but a clear no is production.
production if not input.verified.cluster.production == false

tolerated if measured in lib.parameters.isolation.tolerate
