"""What can go wrong while a part is found or built."""

from __future__ import annotations

from cellward.errors import InvalidInput, Unavailable, define

UNKNOWN_PART = define(
    "parts/unknown-part",
    InvalidInput,
    "There is no such part.",
    hint="Run `python -m tools.parts list` to see the known ones.",
)
NOT_THERE = define(
    "parts/not-there",
    Unavailable,
    "A real part is neither on PATH at the pinned minor version nor in the cache.",
    hint="Run `python -m tools.parts ensure <name>`, or `make demo` and `make test`, which do it for you.",
)
GO_MISSING = define(
    "parts/go-missing",
    Unavailable,
    "A real part must be built and there is no Go.",
    hint="Install Go 1.26 or later (https://go.dev/dl/) so that `go version` works, or put the part itself on PATH.",
)
GO_TOO_OLD = define(
    "parts/go-too-old",
    Unavailable,
    "A real part must be built and the installed Go is too old.",
    hint="Install Go 1.26 or later (https://go.dev/dl/) in front of the old one on PATH.",
)
DISK_TOO_SMALL = define(
    "parts/disk-too-small",
    Unavailable,
    "There is not enough free disk space to build.",
    hint="Free some space, or set CELLWARD_CACHE (and GOCACHE, GOMODCACHE) to a directory on a larger disk.",
)
CACHE_UNWRITABLE = define(
    "parts/cache-unwritable",
    Unavailable,
    "The cache for built parts cannot be written.",
    hint="Make the directory writable, or set CELLWARD_CACHE to a directory of your own on a disk with a few GB free.",
)
BUILD_FAILED = define(
    "parts/build-failed",
    Unavailable,
    "Building a real part failed.",
    hint="Read the log named above; a module that cannot be fetched needs network access or a GOPROXY you can reach.",
)
WRONG_VERSION = define(
    "parts/wrong-version",
    Unavailable,
    "A built part reports another version than the pinned one.",
    hint="Remove its directory below the cache and run the command again.",
)
PACKAGES_MISSING = define(
    "parts/packages-missing",
    Unavailable,
    "Programs of a real node could not be had as Debian packages.",
    hint="A real node needs Debian or Ubuntu with its package lists (`apt-get update`) and a network to fetch from.",
)
