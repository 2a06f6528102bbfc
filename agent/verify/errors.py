"""Errors of verification: why a document does not hold on this cluster, or is not allowed to."""

from __future__ import annotations

from cellward.errors import Internal, Refused, Unavailable, define

ENVIRONMENT_NOT_HERE = define(
    "cell/environment-not-here",
    Refused,
    "This cluster does not host the environment.",
    hint="Deploy to an environment that the cluster's own facts name, or change the chart's values in the cluster.",
)
PROJECT_NOT_ALLOWED = define(
    "cell/project-not-allowed",
    Refused,
    "This cluster does not allow the project.",
    hint="Add the project to the facts in the chart's values of this cluster.",
)
SELECTOR_DOES_NOT_MATCH = define(
    "cell/selector-does-not-match",
    Refused,
    "The signed placement does not choose this cluster.",
    hint="Sign a Deployment whose clusterSelector matches the facts of this cluster.",
)
ITEM_MISMATCH = define(
    "cell/document-mismatch",
    Refused,
    "The document is about another cell than the hub says.",
    hint="The hub named the wrong document; look at its audit log.",
)
DOCUMENT_MISSING = define(
    "cell/document-missing",
    Unavailable,
    "A required document is not available from the hub.",
    hint="Upload the document to the hub; the agent retries by itself.",
)
DIGEST_MISMATCH = define(
    "cell/digest-mismatch",
    Refused,
    "Verification failed: the fetched document has another digest than requested.",
    hint="The hub or its store is damaged or lies; look at its audit log.",
)
POLICY_DENIED = define(
    "policy/denied",
    Refused,
    "The policy of this cluster refuses the release.",
    hint="Change what the rule names, or ask the security team for an exception.",
)
POLICY_STALE = define(
    "apply/policy-stale",
    Unavailable,
    "The verified policy is too old for a new deployment.",
    hint="Publish a fresh snapshot (cellward policy refresh) and check that this cluster reaches the hub.",
)
POLICY_CHANGED = define(
    "apply/policy-changed",
    Unavailable,
    "Policy or keyring changed while the decision was in flight.",
    hint="Nothing to do: it is verified and decided again on the new ones.",
)
UNEXPECTED = define(
    "apply/unexpected",
    Internal,
    "Internal error of the agent; nothing further was changed.",
    hint="This is a fault of Cellward; report it with the agent's log.",
)
