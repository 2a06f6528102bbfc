"""Error codes of cells: the YAML, the graph between cells, the signed spec, the rendering."""

from __future__ import annotations

from cellward.errors import InvalidInput, Notice, Refused, TooNew, define

_FIX = "Correct the file and try again."

TOO_LARGE = define("cells/too-large", InvalidInput, "The file is larger than the bound.", hint="Split it into files.")
NOT_YAML = define("cells/not-yaml", InvalidInput, "The file is not valid YAML.", hint=_FIX)
YAML_ALIAS = define(
    "cells/yaml-alias", InvalidInput, "The file uses YAML anchors or aliases, which are not supported.",
    hint="Write the value out where it is used.",
)  # fmt: skip
DUPLICATE_KEY = define("cells/duplicate-key", InvalidInput, "A key appears twice in one map.", hint=_FIX)
UNKNOWN_KIND = define(
    "cells/unknown-kind", InvalidInput, "The document is of an apiVersion or kind that is not supported here.",
    hint="Use apiVersion cellward.dev/v1alpha1 with kind Cell or Deployment.",
)  # fmt: skip
BAD_FIELD = define("cells/bad-field", InvalidInput, "A field is unknown, missing or malformed.", hint=_FIX)
DUPLICATE = define("cells/duplicate", InvalidInput, "The same thing is defined twice.", hint="Remove one of the two.")
UNKNOWN_COMPONENT = define(
    "cells/unknown-component", InvalidInput, "A component or port is named that the cell does not have.", hint=_FIX
)
UNKNOWN_TARGET = define(
    "cells/unknown-target", InvalidInput, "A connection names a cell or endpoint that does not exist.",
    hint="Deploy the other cell first, or apply both files together.",
)  # fmt: skip
NOT_VISIBLE = define(
    "cells/not-visible", InvalidInput, "A connection names an endpoint that is not visible to this cell.",
    hint="Ask the owner of the other cell to widen the endpoint's visibility.",
)  # fmt: skip
CYCLE = define(
    "cells/cycle", InvalidInput, "The cells depend on each other in a circle.",
    hint="Reverse one of the connections, or move a component to another cell.",
)  # fmt: skip
VERSION_REUSED = define(
    "cells/version-reused", InvalidInput, "What the cell offers or needs changed under the same version.",
    hint="Give the cell a new version.",
)  # fmt: skip
ENV_COLLISION = define(
    "cells/env-collision", InvalidInput, "Two sources set the same environment variable.", hint="Rename one of them."
)
KIND_NOT_ALLOWED = define(
    "cells/kind-not-allowed", InvalidInput, "A raw manifest is of a kind that a cell may not contain.",
    hint="Use a namespaced kind from the list in the reference.",
)  # fmt: skip
METADATA_SERVICE = define(
    "cells/metadata-service", InvalidInput, "A connection asks for a cloud metadata service.",
    hint="Use workload identity of the platform instead.",
)  # fmt: skip

SPEC_TOO_NEW = define(
    "cells/spec-too-new", TooNew, "The signed release has a field this version does not know.",
    hint="Upgrade what refuses it, or sign the release without the newer field.",
)  # fmt: skip
BAD_SPEC = define(
    "cells/bad-spec", InvalidInput, "The signed release does not hold a valid cell.",
    hint="Build and sign the release with the cellward CLI.",
)  # fmt: skip
NOT_HOSTED = define(
    "cells/environment-not-hosted", Refused, "The cluster does not host this environment.",
    hint="Change the Deployment's selector or environments.",
)  # fmt: skip
PROJECT_NOT_ALLOWED = define(
    "cells/project-not-allowed", Refused, "The cluster does not run cells of this project.",
    hint="Change the Deployment's selector, or let the cluster's administrator allow the project.",
)  # fmt: skip

HOST_NAME = define(
    "cells/host-name-not-expressible", Notice,
    "A connection to a host name stays closed: NetworkPolicy knows addresses.",
    hint="Name the addresses of the host instead (external.cidr).",
)  # fmt: skip
PUBLIC_WITHOUT_GATEWAY = define(
    "cells/public-endpoint-without-gateway", Notice,
    "A public endpoint is reachable from cells of its environment only.",
    hint="Put a gateway in front of it as a cell of the environment; Cellward makes none.",
)  # fmt: skip
WIDE_RANGE = define(
    "cells/external-range-is-wide", Notice,
    "An external address range can include addresses of the cluster itself.",
    hint="Name a smaller range; inside the cluster, what the other cell offers decides.",
)  # fmt: skip
NOTHING_TO_TRY = define(
    "cells/nothing-to-try-at-start", Notice,
    "The start gate of this cluster cannot prove that the pods of a component are closed.",
    hint="Name smaller ports in the cell's external connections: 443, 6443, 7445 and 10250 are what the gate tries.",
)  # fmt: skip
