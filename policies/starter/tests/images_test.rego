package starter.images_test

import data.starter.fixtures_test as fixtures

registry := "starter/images/registry"

tag := "starter/images/mutable-tag"

digest := "@sha256:0000000000000000000000000000000000000000000000000000000000000000"

cases := {
	"registry.k8s.io/pause:3.9": set(),
	"registry.k8s.io/sub/pause:3.9": set(),
	"redis:7.4": set(),
	"docker.io/redis:7.4": set(),
	"library/redis:7.4": set(),
	"docker.io/library/redis:7.4": set(),
	"index.docker.io/library/redis:7.4": set(),
	"us-central1-docker.pkg.dev/google-samples/microservices-demo/adservice:v0.10.2": set(),
	concat("", ["redis", digest]): set(),
	concat("", ["redis:latest", digest]): set(),
	"registry.k8s.io.example.com/pause:3.9": {registry},
	"registry.k8s.iox/pause:3.9": {registry},
	"example.com/registry.k8s.io/pause:3.9": {registry},
	"registry.k8s.io:5000/pause:3.9": {registry},
	"us-central1-docker.pkg.dev/google-samples-evil/x:1.0": {registry},
	"us-central1-docker.pkg.dev/google-sample/x:1.0": {registry},
	"docker.io/libraryx/redis:7.4": {registry},
	"someone/redis:7.4": {registry},
	"docker.io/someone/redis:7.4": {registry},
	"docker.io/library/../someone/redis:7.4": {registry},
	"registry.k8s.io//pause:3.9": {registry},
	"localhost/redis:7.4": {registry},
	"localhost:5000/redis:7.4": {registry},
	"ghcr.io/x/y:1.0": {registry},
	"https://registry.k8s.io/pause:3.9": {registry},
	" registry.k8s.io/pause:3.9": {registry},
	"registry.k8s.io/pause:3.9\nx": {registry},
	"": {registry, tag},
	"redis": {tag},
	"redis:latest": {tag},
	"redis:Latest": {tag},
	"redis:main": {tag},
	"registry.k8s.io/pause": {tag},
	"localhost:5000/redis": {registry, tag},
}

test_images[sprintf("%q/%s", [image, kind])] if {
	some image, want in cases
	some kind, item in fixtures.around(fixtures.spec_with({"image": image}))
	fixtures.ids(data.starter.deny) == want with input as fixtures.as_input(item)
}

# What names one build by its form, and what does not.
tags := {
	"1.29": set(), "1.29.3": set(), "1.29.3-alpine": set(), "7.4-alpine": set(), "v0.10.4": set(), "V2.1": set(),
	"release-1.4.2": set(), "jre-17.0.9": set(), "1.37.2_build.4": set(), "2025.11": set(),
	"20251130": set(), "bookworm-20251130": set(), "2025-11-30": set(), "RELEASE.2025-11-30T00-00-00Z": set(),
	"nightly-20251130": set(),
	"1b2c3d4": set(), "sha-1b2c3d4": set(), "main-0123456789abcdef0123456789abcdef01234567": set(),
	"latest": {tag}, "stable": {tag}, "stable-alpine": {tag}, "alpine": {tag}, "stable-alpine3.20": {tag},
	"bookworm": {tag}, "mainline": {tag}, "lts": {tag}, "prod": {tag}, "x86_64": {tag},
	"1": {tag}, "v1": {tag}, "16-alpine": {tag}, "3-slim": {tag}, "jdk17-alpine3.20": {tag},
	"1.29-nightly": {tag}, "2.0-SNAPSHOT": {tag}, "v1.2.3-dev": {tag}, "latest-1.2": {tag},
	"defaced": {tag}, "deadbeef": {tag}, "a1b2c3": {tag}, "2025-13-99": {tag}, "build-41": {tag},
}

test_tags[name] if {
	some name, want in tags
	item := fixtures.around(fixtures.spec_with({"image": concat(":", ["redis", name])})).Pod
	fixtures.ids(data.starter.deny) == want with input as fixtures.as_input(item)
}

test_digest_outweighs_any_tag[name] if {
	some name, _ in tags
	item := fixtures.around(fixtures.spec_with({"image": concat("", ["redis:", name, digest])})).Pod
	fixtures.ids(data.starter.deny) == set() with input as fixtures.as_input(item)
}

# Forms of tags from the binding are for the whole tag.
test_tag_patterns_from_the_binding[name] if {
	some name, want in {"build-41": set(), "build-41x": {tag}, "xbuild-41": {tag}, "latest": {tag}, "1.29": set()}
	verified := fixtures.with_parameters({"images": {"tagPatterns": ["build-[0-9]+", 7]}})
	item := fixtures.around(fixtures.spec_with({"image": concat(":", ["redis", name])})).Pod
	fixtures.ids(data.starter.deny) == want with input as {"object": item, "verified": verified}
}

image_volumes := {
	"a good one": {"image": {"reference": "registry.k8s.io/data:1.0"}, "want": set()},
	"another registry": {"image": {"reference": "evil.example/x:1.0"}, "want": {registry}},
	"a tag that moves": {"image": {"reference": "registry.k8s.io/x:latest"}, "want": {tag}},
	"both": {"image": {"reference": "evil.example/x:latest", "pullPolicy": "Always"}, "want": {registry, tag}},
	"no reference": {"image": {}, "want": {registry, tag}},
	"no object": {"image": "evil.example/x:1.0", "want": {registry, tag}},
	"null": {"image": null, "want": set()},
}

# What a pod mounts from an image is pulled as its containers are, whatever object made the pod.
test_image_volumes[sprintf("%s/%s", [name, kind])] if {
	some name, case in image_volumes
	volumes := [{"name": "other", "emptyDir": {}}, {"name": "data", "image": case.image}]
	some kind, item in fixtures.around(object.union(fixtures.spec, {"volumes": volumes}))
	fixtures.ids(data.starter.deny) == case.want with input as fixtures.as_input(item)
}

test_image_volume_is_named if {
	spec := object.union(fixtures.spec, {"volumes": [{"name": "data", "image": {"reference": "evil.example/x:1.0"}}]})
	some denial in data.starter.images.deny with input as fixtures.as_input(fixtures.around(spec).Job)
	denial.reason == "volume data uses image evil.example/x:1.0, which is not from an allowed registry"
}

test_image_missing if {
	item := fixtures.around({"containers": [object.remove(fixtures.container, ["image"])]}).Pod
	fixtures.ids(data.starter.deny) == {registry, tag} with input as fixtures.as_input(item)
}

test_image_not_a_string if {
	item := fixtures.around(fixtures.spec_with({"image": 7})).Pod
	fixtures.ids(data.starter.deny) == {registry, tag} with input as fixtures.as_input(item)
}

test_init_and_ephemeral_images if {
	every field in {"initContainers", "ephemeralContainers"} {
		extra := object.union(fixtures.container, {"name": "x", "image": "ghcr.io/x/y:1.0"})
		item := fixtures.around(object.union(fixtures.spec, {field: [extra]})).Pod
		fixtures.ids(data.starter.deny) == {registry} with input as fixtures.as_input(item)
	}
}

test_registries_from_the_binding if {
	verified := fixtures.with_parameters({"images": {"registries": ["ghcr.io/acme/"]}})
	item := fixtures.around(fixtures.spec_with({"image": "ghcr.io/acme/web:1.0"})).Deployment
	fixtures.ids(data.starter.deny) == set() with input as object.union(fixtures.as_input(item), {"verified": verified})
	other := fixtures.around(fixtures.spec).Deployment
	fixtures.ids(data.starter.deny) == {registry} with input as object.union(fixtures.as_input(other), {"verified": verified})
	alike := fixtures.around(fixtures.spec_with({"image": "ghcr.io/acmeevil/web:1.0"})).Deployment
	fixtures.ids(data.starter.deny) == {registry} with input as object.union(fixtures.as_input(alike), {"verified": verified})
}

# The start gate is let through by the agent's word alone: its name and its image together.
gate := {"name": "cellward-start-gate", "image": concat("", ["cellward.local/agent", digest])}

gated(images) := object.union(fixtures.verified, {"startGate": {"images": images}})

gate_cases := [
	{"container": {}, "verified": gated([gate.image]), "want": set()},
	{"container": {"name": "other"}, "verified": gated([gate.image]), "want": {registry}},
	{"container": {"image": "cellward.local/agent:1.0"}, "verified": gated([gate.image]), "want": {registry}},
	{"container": {}, "verified": gated([]), "want": {registry}},
	{"container": {}, "verified": fixtures.verified, "want": {registry}},
]

test_the_start_gate[index] if {
	some index, one in gate_cases
	container := object.union(object.union(fixtures.container, gate), one.container)
	item := fixtures.around(object.union(fixtures.spec, {"initContainers": [container]})).Deployment
	fixtures.ids(data.starter.deny) == one.want with input as {"object": item, "verified": one.verified}
}
