"""What can go wrong while an image is made."""

from __future__ import annotations

from cellward.errors import InvalidInput, Unavailable, define

PACKAGES_GONE = define(
    "image/packages-gone",
    Unavailable,
    "Debian packages of the pinned list could not be had.",
    hint="On Debian 12 (amd64): `apt-get update`, and `make pin-images` where a package was replaced. Elsewhere: use the Dockerfile.",  # noqa: E501
)
PACKAGE_DIFFERS = define(
    "image/package-differs",
    InvalidInput,
    "A Debian package is not the pinned one.",
    hint="Remove the file that is named, and find out who serves another one under this name.",
)
WHEELS_GONE = define(
    "image/wheels-gone",
    Unavailable,
    "Wheels of the lock could not be installed.",
    hint="Its own words are above; a wheel that cannot be fetched needs a package index that you can reach.",
)
NOT_FINISHED = define(
    "image/not-finished",
    Unavailable,
    "The tree of an image could not be finished.",
    hint="Its own words are above. The Python of the image runs on Linux on amd64.",
)
BAD_KEY = define(
    "image/bad-key",
    InvalidInput,
    "The key to sign with cannot be used.",
    hint="Name a PEM file with an unencrypted ECDSA P-256 key: `openssl ecparam -genkey -name prime256v1 -noout`.",
)
NO_REGISTRY = define(
    "image/no-registry",
    Unavailable,
    "The digest of a base image could not be resolved.",
    hint="Run it where the registry can be reached; the Dockerfile is as it was.",
)
