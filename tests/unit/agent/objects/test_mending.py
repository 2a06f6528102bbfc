"""Each obstacle of a repair has a command for an administrator (V15)."""

from __future__ import annotations

import pytest

from agent.kube.errors import KUBE_FORBIDDEN, KUBE_INVALID, KUBE_QUOTA, KUBE_UNAVAILABLE
from agent.kube.interfaces import ObjectRef
from agent.objects.errors import FOREIGN_NAMESPACE, ISOLATION_FIRST, NOT_GONE, NOT_REPAIRED
from agent.objects.mending import next_step, unrepaired
from cellward.cells.labels import TAKE_BACK
from cellward.errors import CellwardError

PLACE = "shop--web--dev"
NAMESPACE = ObjectRef("v1", "Namespace", "", PLACE)
WEB = ObjectRef("apps/v1", "Deployment", PLACE, "web")
FENCE = {"by": "cellward-agent-fence"}


@pytest.mark.parametrize(
    ("ref", "error", "step"),
    [
        (NAMESPACE, KUBE_FORBIDDEN("no", **FENCE), f"kubectl annotate namespace {PLACE} {TAKE_BACK}={PLACE} "),
        (NAMESPACE, FOREIGN_NAMESPACE("theirs"), f"kubectl delete namespace {PLACE}"),
        (WEB, KUBE_FORBIDDEN("no", **FENCE), f"mend Namespace/{PLACE} first"),
        (WEB, KUBE_FORBIDDEN("it is being terminated", by="rbac"), "see what holds the namespace: kubectl get "),
        (WEB, KUBE_FORBIDDEN("no", by="rbac"), "helm upgrade cellward-agent "),
        (WEB, KUBE_FORBIDDEN("no", by="theirs"), f"let theirs except the namespace {PLACE}; kubectl get "),
        (WEB, KUBE_UNAVAILABLE('failed calling webhook "x"'), "mend or except the webhook: kubectl get "),
        (WEB, KUBE_QUOTA("full"), f"kubectl describe resourcequota -n {PLACE}"),
        (WEB, NOT_GONE("held"), f"see who holds it: kubectl get deployment.apps web -n {PLACE} -o jsonpath="),
        (WEB, ISOLATION_FIRST("open"), f"mend the isolation of {PLACE} first"),
        (WEB, KUBE_INVALID("odd"), f"kubectl get deployment.apps web -n {PLACE} -o yaml"),
    ],
)  # fmt: skip
def test_v15_every_obstacle_has_a_next_step(ref: ObjectRef, error: CellwardError, step: str) -> None:
    """Said beside what is wrong, in one message."""
    assert next_step(ref, error, PLACE).startswith(step)
    condition = unrepaired(ref, "content differs", error, PLACE)
    assert (condition.code, condition.subject) == (NOT_REPAIRED.code, str(ref))
    assert condition.message == f"content differs; {error.message}; next: {next_step(ref, error, PLACE)}"
