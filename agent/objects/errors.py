"""Errors about single objects: why one is not what was released."""

from __future__ import annotations

from cellward.errors import Conflict, Refused, Unavailable, define

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
ISOLATION_FIRST = define(
    "cell/isolation-first",
    Unavailable,
    "A deleted workload is not recreated while the isolation of its cell is not in place.",
    hint="See what keeps the isolation of the cell from being repaired; the workload follows by itself.",
)
NOT_REPAIRED = define(
    "cell/not-repaired",
    Conflict,
    "An object of the cell differs from the release and could not be repaired.",
    hint="A cluster administrator must repair it: docs/how-to/mend-what-the-agent-cannot.md lists the commands.",
)
GUARD_BROKEN = define(
    "apply/admission-guard",
    Unavailable,
    "The admission policies that fence the agent are missing or changed, so nothing new is applied.",
    hint="Install the chart of the agent again; it owns these policies.",
)
NEEDS_REPLACE = define(
    "apply/needs-replace",
    Refused,
    "A field that cannot be changed in place would change.",
    hint="Sign a release with replace: true; the object is then deleted and recreated.",
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
    "Deletion of an object is still pending.",
    hint="A finalizer may hold it; Cellward goes on by itself once it is gone.",
)
NAMESPACE_ENDING = define(
    "apply/namespace-terminating",
    Unavailable,
    "The namespace is being deleted.",
    hint="It is recreated once it is gone.",
)
