"""Error codes of the fleet."""

from __future__ import annotations

from cellward.errors import Conflict, Denied, Exhausted, InvalidInput, NotFound, Refused, define

UNKNOWN_CLUSTER = define(
    "fleet/unknown-cluster",
    NotFound,
    "There is no cluster of this name.",
    hint="List the clusters with `cellward clusters list`, or invite it with `cellward clusters invite`.",
)
CLUSTER_EXISTS = define(
    "fleet/cluster-exists",
    Conflict,
    "There is already a cluster of this name.",
    hint="Names of clusters are never reused; choose another one, or mint a new join token for this one.",
)
BAD_CLUSTER_NAME = define(
    "fleet/bad-cluster-name",
    InvalidInput,
    "The name of the cluster is malformed.",
    hint="Use an RFC 1123 label of at most 40 characters: lower-case letters, digits and hyphens.",
)
UNKNOWN_CELL = define(
    "fleet/unknown-cell",
    NotFound,
    "There is no such cell, or it was never meant for any cluster.",
    hint="List the cells with `cellward cells list`; a cell appears when a Deployment of it was uploaded.",
)
UNKNOWN_DOCUMENT = define(
    "fleet/unknown-document",
    NotFound,
    "There is no document of this digest.",
    hint="Upload it with `cellward apply`.",
)
BAD_DOCUMENT = define(
    "fleet/bad-document",
    InvalidInput,
    "An uploaded document cannot be read, so nothing of the upload was kept.",
    hint="Upload DSSE envelopes as `cellward apply` makes them.",
)
DOCUMENT_TOO_LARGE = define(
    "fleet/document-too-large",
    InvalidInput,
    "An uploaded document is larger than the hub carries, so nothing of the upload was kept.",
    hint="Split the cell, or move configuration out of it.",
)
FOREIGN_REALM = define(
    "fleet/foreign-realm",
    Refused,
    "The document or root belongs to another installation.",
    hint="Check which hub you are logged in to, and which trust.yaml you use.",
)
NO_REALM = define(
    "fleet/no-realm",
    Conflict,
    "This hub has no root of trust yet.",
    hint="Run `cellward init` once against this hub.",
)
REALM_ADOPTED = define(
    "fleet/realm-adopted",
    Conflict,
    "This hub has adopted another root of trust; the first one stays.",
    hint="Use the trust.yaml made by the first `cellward init`, or set up another hub.",
)
UNVERIFIED_DOCUMENT = define(
    "fleet/unverified-document",
    Refused,
    "No signature of an uploaded document counts by the keyring this hub serves, so nothing of the upload was kept.",
    hint="Sign with a key of the keyring whose scope covers the document; `cellward keys list` shows yours. "
    "Agents would refuse it too.",
)
NO_KEYRING = define(
    "fleet/no-keyring",
    Conflict,
    "This hub serves no keyring yet, so no document can be verified.",
    hint="Publish policy first with `cellward policy publish`.",
)
PROJECT_FULL = define(
    "fleet/project-full",
    Exhausted,
    "The project has as much on this hub as its bounds allow, so nothing of the upload was kept.",
    hint="Delete cells that are not needed, upload less at a time of what waits for signatures, or ask for higher "
    "limits in the hub's settings.",
)
FACTS_DIFFER = define(
    "fleet/facts-differ",
    Refused,
    "The cluster says of itself what its invite does not, so it is given only what both name.",
    hint="Correct the chart's values or run `cellward clusters invite NAME` with the facts that are right; whoever "
    "changed them there should not have.",
)
SET_BY_ADMIN = define(
    "fleet/set-by-admin",
    Denied,
    "An admin set this hold or quarantine, so only an admin may loosen or lift it.",
    hint="Ask whoever holds an admin token of this hub.",
)
SEQUENCE_TAKEN = define(
    "fleet/sequence-taken",
    Conflict,
    "Another document has this sequence already, so nothing of the upload was kept.",
    hint="Somebody deployed meanwhile; run `cellward apply` again.",
)
