"""Errors of the applier: why a cell is not what somebody wanted it to be."""

from __future__ import annotations

from cellward.errors import Conflict, Internal, InvalidInput, Refused, Unavailable, define

ENVIRONMENT_NOT_HERE = define(
    "cell/environment-not-here",
    Refused,
    "This cluster does not host the environment.",
    hint="Deploy to an environment that the cluster's own facts name, or change the chart's values in the cluster.",
)
EDGE_DIFFERS = define(
    "cell/edge-differs",
    Refused,
    "A connection is closed: what runs on the other side is not what it was signed for.",
    hint="Apply the cell again with the values of what runs there, or deploy there what it was signed for.",
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
    "A document that is needed is not to be had.",
    hint="Upload the document to the hub; Cellward asks again by itself.",
)
DIGEST_MISMATCH = define(
    "cell/digest-mismatch",
    Refused,
    "What was fetched is not what was asked for.",
    hint="The hub or its store is damaged or lies; look at its audit log.",
)
FOREIGN_NAMESPACE = define(
    "cell/namespace-not-ours",
    Conflict,
    "The namespace exists and does not belong to this cell.",
    hint="Remove or rename that namespace; Cellward never takes over what it did not make.",
)
FOREIGN_OBJECT = define(
    "cell/object-not-ours",
    Conflict,
    "An object of that name exists and does not belong to this cell.",
    hint="Remove the object or rename the component; Cellward never takes over what it did not make.",
)
WORKER_ENDED = define(
    "cell/worker-ended",
    Internal,
    "Nothing works on a cell any more.",
    hint="Restart the agent and report this; what runs goes on running, but nothing of the cell is repaired.",
)
UNHEALTHY = define(
    "cell/not-healthy",
    Refused,
    "The release did not become healthy in time.",
    hint="Look at the pods named in the reason, then deploy a corrected release.",
)
HELD = define(
    "cell/held",
    Refused,
    "The hub withholds this deployment.",
    hint="Release the hold on the hub.",
)
REMOVED = define(
    "cell/data-kept",
    Refused,
    "The cell is removed; its data and its namespace are kept.",
    hint="Sign a Tombstone with deleteData: true to remove these too.",
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
LOCKED = define(
    "apply/locked",
    Refused,
    "A signed lock holds this cluster, so nothing new is accepted; what runs is kept, repaired and isolated.",
    hint="Whoever holds the keyring key lifts it: cellward unlock --signed KIND/SUBJECT.",
)
POLICY_CHANGED = define(
    "apply/policy-changed",
    Unavailable,
    "Policy or keyring changed while the release was being decided.",
    hint="Nothing to do: it is verified and decided again on the new ones.",
)
ISOLATION_FIRST = define(
    "cell/isolation-first",
    Unavailable,
    "A workload that is gone is not made again while the isolation of its cell is not in place.",
    hint="See what keeps the isolation of the cell from being repaired; the workload follows by itself.",
)
NOT_REPAIRED = define(
    "cell/not-repaired",
    Conflict,
    "Something of a cell differs from what was released and could not be brought back.",
    hint="An administrator mends it: docs/how-to/mend-what-the-agent-cannot.md says which commands there are.",
)
GUARD_BROKEN = define(
    "apply/admission-guard",
    Unavailable,
    "The admission policies that fence the agent are missing or changed, so nothing new is applied.",
    hint="Install the chart of the agent again; it owns these policies.",
)
PRUNE_BRAKE = define(
    "apply/prune-needs-confirmation",
    Refused,
    "The change deletes more objects than may go without confirmation.",
    hint="Sign a Deployment that confirms the number.",
)
NEEDS_REPLACE = define(
    "apply/needs-replace",
    Refused,
    "A field that cannot be changed in place would change.",
    hint="Sign a release with replace: true; the object is then deleted and made again.",
)
DATA_NOT_REPLACED = define(
    "apply/data-not-replaced",
    Refused,
    "An object that holds data would have to be replaced.",
    hint="Give the volume another name, or end the cell by a Tombstone with deleteData: true.",
)
NOT_GONE = define(
    "apply/deletion-pending",
    Unavailable,
    "An object that was deleted is not gone yet.",
    hint="A finalizer may hold it; Cellward goes on by itself once it is gone.",
)
NAMESPACE_ENDING = define(
    "apply/namespace-terminating",
    Unavailable,
    "The namespace is being deleted.",
    hint="Cellward makes it again once it is gone.",
)
RENDER_FAILED = define(
    "apply/render-failed",
    InvalidInput,
    "The release cannot be turned into objects.",
    hint="Correct the cell; the message names the place.",
)
UNEXPECTED = define(
    "apply/unexpected",
    Internal,
    "Something failed in a way nobody expected; nothing further was changed.",
    hint="This is a fault of Cellward; report it with the agent's log.",
)
ADOPTED = define(
    "cell/adopted",
    Conflict,
    "Objects of the cell were in the cluster and in no record of the agent; it has taken them back.",
    hint="The agent lost its state, or it was set back. Deploy the cell again, so that it is what was signed.",
)
