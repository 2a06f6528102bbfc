# METADATA
# title: Images
# description: Where images come from, and that a name means one image.
package starter.images

import data.starter.lib

default registries := ["docker.io/library", "us-central1-docker.pkg.dev/google-samples", "registry.k8s.io"]

registries := lib.parameters.images.registries if is_array(lib.parameters.images.registries)

# Further forms of tags that name one build here, as patterns (RE2) for the whole tag.
default tag_patterns := []

tag_patterns := lib.parameters.images.tagPatterns if is_array(lib.parameters.images.tagPatterns)

# Everything the node pulls for the pod: images of containers of every kind, and images mounted as volumes.
used contains {"by": sprintf("container %s", [container.name]), "image": reference(container.spec, "image")} if {
	some container in lib.containers
}

used contains {"by": sprintf("volume %s", [volume.name]), "image": reference(volume.spec.image, "reference")} if {
	some volume in lib.volumes
	is_set(volume.spec.image)
}

is_set(value) if value != null

# The start gate of the cluster, which the agent put there itself, with the image that its installation names. The
# agent refuses a container of that name from anybody else.
of_start_gate(one) if {
	one.by == "container cellward-start-gate"
	one.image in input.verified.startGate.images
}

# What stands there, empty when it is no text; nothing that is empty is allowed or pinned.
reference(holder, field) := holder[field] if {
	is_string(holder[field])
} else := ""

# METADATA
# title: Images come from allowed registries
# description: >-
#   Whatever a pod pulls, for containers or for image volumes, is from a repository that is, or lies below, one of the
#   registries the binding allows. The start gate that a cluster's installation adds is let through.
# custom:
#   id: starter/images/registry
#   severity: high
#   remediation: Use an image from an allowed registry, or ask the security team to add the registry to the binding.
#   controls: ["NIST SP 800-53 CM-7", "NIST SP 800-53 SR-4", "NSA/CISA Kubernetes Hardening: images"]
deny contains lib.denial(rego.metadata.rule(), reason) if {
	some one in used
	not from_allowed(one.image)
	not of_start_gate(one)
	reason := sprintf("%s uses image %s, which is not from an allowed registry", [one.by, shown(one.image)])
}

# METADATA
# title: Images have immutable names
# description: >-
#   Whatever a pod pulls is named by digest, or by a tag that by its form names one build: a version of at least two
#   numbers (1.29, v0.10.4, 7.4-alpine), a date (20251130, 2025-11-30), or a commit hash of 7 to 40 digits
#   (sha-1b2c3d4). Anything else is taken to move: no tag, words (latest, stable, alpine, bookworm), a major version
#   alone (1, v1), and versions that say so (1.4-nightly, 2.0-SNAPSHOT). The binding may add forms
#   (images.tagPatterns, for build numbers and the like). Only a digest also holds when the registry itself changes
#   what a tag names.
# custom:
#   id: starter/images/mutable-tag
#   severity: medium
#   remediation: Name the image by digest or by a version tag.
#   controls: ["NIST SP 800-53 CM-2", "NIST SP 800-53 CM-14", "NIST SP 800-53 SI-7"]
deny contains lib.denial(rego.metadata.rule(), reason) if {
	some one in used
	not pinned(one.image)
	reason := sprintf("%s uses image %s, whose tag can move", [one.by, shown(one.image)])
}

from_allowed(image) if {
	repository := full_repository(image)
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

pinned(image) if contains(image, "@sha256:")

pinned(image) if names_one_build(tag_of(image))

names_one_build(tag) if is_date(tag)

names_one_build(tag) if is_commit(tag)

names_one_build(tag) if {
	is_version(tag)
	not says_it_moves(tag)
}

names_one_build(tag) if {
	some pattern in tag_patterns
	is_string(pattern)
	regex.match(sprintf("^(?:%s)$", [pattern]), tag)
}

# Two numbers at least, at the beginning or behind a separator: the 3.20 of stable-alpine3.20 is not the image's own.
is_version(tag) if regex.match(`^([A-Za-z]+[-_])*[vV]?[0-9]+\.[0-9]+`, tag)

is_date(tag) if regex.match(`(^|[-_.])20[0-9]{2}([-.]?)(0[1-9]|1[0-2])([-.]?)(0[1-9]|[12][0-9]|3[01])($|[-_.T])`, tag)

# With a digit, because defaced and effaced are words.
is_commit(tag) if {
	some part in split(replace(tag, "_", "-"), "-")
	regex.match(`^[0-9a-f]{7,40}$`, part)
	regex.match(`[0-9]`, part)
}

moving_words := {"latest", "nightly", "snapshot", "edge", "dev", "develop", "main", "master", "canary", "head"}

says_it_moves(tag) if {
	some word in regex.split(`[-_.+]`, lower(tag))
	word in moving_words
}

shown(image) := image if {
	image != ""
} else := "(none)"
