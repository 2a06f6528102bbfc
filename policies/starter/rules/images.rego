# METADATA
# title: Images
# description: Where images come from, and that a name means one image.
package starter.images

import data.starter.lib

default registries := ["docker.io/library", "us-central1-docker.pkg.dev/google-samples", "registry.k8s.io"]

registries := lib.parameters.images.registries if is_array(lib.parameters.images.registries)

mutable_tags := {"latest", "main", "master", "edge", "nightly", "dev", "develop", "canary"}

# METADATA
# title: Images come from allowed registries
# description: The image's repository is, or lies below, one of the registries the binding allows.
# custom:
#   id: starter/images/registry
#   severity: high
#   remediation: Use an image from an allowed registry, or ask the security team to add the registry to the binding.
#   controls: ["NIST SP 800-53 CM-7", "NIST SP 800-53 SR-4", "NSA/CISA Kubernetes Hardening: images"]
deny contains lib.denial(rego.metadata.rule(), reason) if {
	some container in lib.containers
	not from_allowed(container.spec)
	reason := sprintf("container %s uses image %s, which is not from an allowed registry", [
		container.name,
		shown(container.spec),
	])
}

# METADATA
# title: Images have immutable names
# description: Every image has a digest, or a tag that is not known to move.
# custom:
#   id: starter/images/mutable-tag
#   severity: medium
#   remediation: Name the image by digest or by a version tag.
#   controls: ["NIST SP 800-53 CM-2", "NIST SP 800-53 CM-14", "NIST SP 800-53 SI-7"]
deny contains lib.denial(rego.metadata.rule(), reason) if {
	some container in lib.containers
	not pinned(container.spec)
	reason := sprintf("container %s uses image %s, whose tag can move", [container.name, shown(container.spec)])
}

from_allowed(container) if {
	repository := full_repository(container.image)
	some registry in registries
	is_string(registry)
	below(repository, trim_suffix(registry, "/"))
}

# Whole path segments are compared, so that registry.k8s.io.example.com is not registry.k8s.io.
below(repository, registry) if repository == registry

below(repository, registry) if startswith(repository, concat("", [registry, "/"]))

# The repository with its registry written out, as container runtimes read it; undefined when it is malformed.
full_repository(image) := concat("/", ["docker.io/library", name]) if {
	name := repository_of(image)
	not contains(name, "/")
}

full_repository(image) := concat("/", ["docker.io", name]) if {
	name := repository_of(image)
	contains(name, "/")
	not is_host(split(name, "/")[0])
}

full_repository(image) := name if {
	name := repository_of(image)
	contains(name, "/")
	is_host(split(name, "/")[0])
	not split(name, "/")[0] in docker_hosts
}

full_repository(image) := concat("/", ["docker.io", below_library(rest)]) if {
	name := repository_of(image)
	contains(name, "/")
	parts := split(name, "/")
	parts[0] in docker_hosts
	rest := concat("/", array.slice(parts, 1, count(parts)))
}

docker_hosts := {"docker.io", "index.docker.io", "registry-1.docker.io"}

below_library(rest) := rest if contains(rest, "/")

below_library(rest) := concat("/", ["library", rest]) if not contains(rest, "/")

is_host(segment) if contains(segment, ".")

is_host(segment) if contains(segment, ":")

is_host("localhost")

# The image without tag and digest, when it is well formed.
repository_of(image) := name if {
	is_string(image)
	regex.match(`^[a-z0-9]+([._:-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?$`, image)
	named := split(image, "@")[0]
	tag := tag_of(image)
	name := trim_suffix(named, concat("", [":", tag]))
}

# The tag, empty when there is none; a colon before the last slash belongs to a port.
tag_of(image) := tag if {
	named := split(image, "@")[0]
	segments := split(named, "/")
	parts := split(segments[count(segments) - 1], ":")
	count(parts) == 2
	tag := parts[1]
} else := ""

pinned(container) if {
	is_string(container.image)
	contains(container.image, "@sha256:")
}

pinned(container) if {
	is_string(container.image)
	tag := tag_of(container.image)
	tag != ""
	not lower(tag) in mutable_tags
}

shown(container) := container.image if {
	is_string(container.image)
} else := "(none)"
