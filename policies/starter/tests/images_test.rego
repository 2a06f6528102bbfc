package starter.images_test

import data.starter.fixtures_test as fixtures

registry := "starter/images/registry"

tag := "starter/images/mutable-tag"

digest := "@sha256:0000000000000000000000000000000000000000000000000000000000000000"

cases := {
	"registry.k8s.io/pause:3.9": set(),
	"registry.k8s.io/sub/pause:3.9": set(),
	"redis:7": set(),
	"docker.io/redis:7": set(),
	"library/redis:7": set(),
	"docker.io/library/redis:7": set(),
	"index.docker.io/library/redis:7": set(),
	"us-central1-docker.pkg.dev/google-samples/microservices-demo/adservice:v0.10.2": set(),
	concat("", ["redis", digest]): set(),
	concat("", ["redis:latest", digest]): set(),
	"registry.k8s.io.example.com/pause:3.9": {registry},
	"registry.k8s.iox/pause:3.9": {registry},
	"example.com/registry.k8s.io/pause:3.9": {registry},
	"registry.k8s.io:5000/pause:3.9": {registry},
	"us-central1-docker.pkg.dev/google-samples-evil/x:1": {registry},
	"us-central1-docker.pkg.dev/google-sample/x:1": {registry},
	"docker.io/libraryx/redis:7": {registry},
	"someone/redis:7": {registry},
	"docker.io/someone/redis:7": {registry},
	"docker.io/library/../someone/redis:7": {registry},
	"registry.k8s.io//pause:3.9": {registry},
	"localhost/redis:7": {registry},
	"localhost:5000/redis:7": {registry},
	"ghcr.io/x/y:1": {registry},
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
		extra := object.union(fixtures.container, {"name": "x", "image": "ghcr.io/x/y:1"})
		item := fixtures.around(object.union(fixtures.spec, {field: [extra]})).Pod
		fixtures.ids(data.starter.deny) == {registry} with input as fixtures.as_input(item)
	}
}

test_registries_from_the_binding if {
	verified := fixtures.with_parameters({"images": {"registries": ["ghcr.io/acme/"]}})
	item := fixtures.around(fixtures.spec_with({"image": "ghcr.io/acme/web:1"})).Deployment
	fixtures.ids(data.starter.deny) == set() with input as object.union(fixtures.as_input(item), {"verified": verified})
	other := fixtures.around(fixtures.spec).Deployment
	fixtures.ids(data.starter.deny) == {registry} with input as object.union(fixtures.as_input(other), {"verified": verified})
	alike := fixtures.around(fixtures.spec_with({"image": "ghcr.io/acmeevil/web:1"})).Deployment
	fixtures.ids(data.starter.deny) == {registry} with input as object.union(fixtures.as_input(alike), {"verified": verified})
}
