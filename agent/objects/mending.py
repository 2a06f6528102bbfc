"""What keeps an object from being brought back, and what an administrator does about it; pure.

The agent cannot mend everything: it may not write admission configuration, finalizers or a namespace that somebody else
made. For whatever it cannot, there is one command to run, and it is part of the message (V15).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.kube.errors import KUBE_FORBIDDEN, KUBE_QUOTA, KUBE_UNAVAILABLE
from agent.kube.interfaces import ObjectRef
from agent.objects.errors import FOREIGN_NAMESPACE, ISOLATION_FIRST, NOT_GONE, NOT_REPAIRED
from agent.objects.fence import NAMES
from cellward.cells.conditions import CellCondition
from cellward.cells.labels import TAKE_BACK
from cellward.errors import CellwardError

#: What the API server says of what is made in a namespace that is being deleted.
_ENDING: Final = "being terminated"
_WEBHOOKS: Final = "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations"


def unrepaired(ref: ObjectRef, cause: str, error: CellwardError, place: str) -> CellCondition:
    """Return the condition of an object in the cell's namespace ``place`` whose repair failed again."""
    wrong = f"{cause}; " if cause else ""
    return CellCondition(NOT_REPAIRED.code, str(ref), f"{wrong}{error.message}; next: {next_step(ref, error, place)}")


def next_step(ref: ObjectRef, error: CellwardError, place: str) -> str:
    """Return the command that mends it, or shows what does."""
    if error.code == FOREIGN_NAMESPACE.code:
        # What is in it was made by whoever made it: it is not the cell's, and the agent never takes that over.
        return f"kubectl delete namespace {place}"
    if error.code == ISOLATION_FIRST.code:
        return f"mend the isolation of {place} first"
    if error.code == NOT_GONE.code:
        return f"see who holds it: kubectl get {_named(ref)} -o jsonpath='{{.metadata.finalizers}}'"
    if error.code == KUBE_QUOTA.code:
        return f"kubectl describe resourcequota -n {place}"
    if error.code == KUBE_FORBIDDEN.code:
        return _refused(ref, error.details, error.message, place)
    if error.code == KUBE_UNAVAILABLE.code and "webhook" in error.message:
        return f"mend or except the webhook: {_WEBHOOKS}"
    return f"kubectl get {_named(ref)} -o yaml"


def _refused(ref: ObjectRef, details: Mapping[str, str], message: str, place: str) -> str:
    if _ENDING in message:
        return f"see what holds the namespace: kubectl get namespace {place} -o jsonpath='{{.status.conditions}}'"
    by = details.get("by", "")
    if by not in NAMES:
        reinstall = "helm upgrade cellward-agent CHART -n cellward-system --reuse-values"
        return reinstall if by == "rbac" else f"let {by} except the namespace {place}; {_WEBHOOKS}"
    if ref.kind != "Namespace":
        return f"mend Namespace/{place} first"
    return f"kubectl annotate namespace {place} {TAKE_BACK}={place} --overwrite"


def _named(ref: ObjectRef) -> str:
    group = ref.api_version.rpartition("/")[0]
    kind = f"{ref.kind.lower()}.{group}" if group else ref.kind.lower()
    return f"{kind} {ref.name} -n {ref.namespace}" if ref.namespace else f"{kind} {ref.name}"
