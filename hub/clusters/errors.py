"""Every way clusters and their cells can be refused."""

from __future__ import annotations

from cellward.errors import Conflict, Denied, InvalidInput, NotFound, Refused, define

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
FACTS_DIFFER = define(
    "fleet/facts-differ",
    Refused,
    "The facts that the cluster reports differ from its invite, so it is given only what both name.",
    hint="Correct the chart's values or run `cellward clusters invite NAME` with the facts that are right; whoever "
    "changed them there should not have.",
)
SET_BY_ADMIN = define(
    "fleet/set-by-admin",
    Denied,
    "Not authorized: an admin set this hold or quarantine, so only an admin may lift it.",
    hint="Ask whoever holds an admin token of this hub.",
)
