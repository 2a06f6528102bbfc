# METADATA
# title: Starter policies
# description: What a cell must be before it runs; every rule has an id, a reason and a next step.
package starter

# METADATA
# title: All denials for one object
# entrypoint: true
deny contains denial if some denial in data.starter.pod_security.deny

deny contains denial if some denial in data.starter.images.deny

deny contains denial if some denial in data.starter.resources.deny

deny contains denial if some denial in data.starter.ownership.deny

deny contains denial if some denial in data.starter.network.deny

deny contains denial if some denial in data.starter.isolation.deny

deny contains denial if some denial in data.starter.tenancy.deny
