"""What may happen to a cell while the chart's guards are away, one entry for everything a guard looks at.

Each is done by a cluster-admin whom nothing stops. ``mended_by`` says who brings it back once the guards are there
again: the agent, or an administrator with the command that the agent shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent.objects.identity import CellIdentity
from tools.stack.api import Answer, ApiClient, path_of
from tools.stack.chart import AGENT_NAMESPACE

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
RBAC = "rbac.authorization.k8s.io/v1"
NETWORKING = "networking.k8s.io/v1"
LABELS = ("cellward.dev/project", "cellward.dev/cell", "cellward.dev/environment", "app.kubernetes.io/managed-by")
LEVEL = "pod-security.kubernetes.io/"
TAKE_BACK = "cellward.dev/take-back"


@dataclass(frozen=True, slots=True)
class Target:
    """One cell as somebody sees it who may write anywhere, or as ``user``."""

    admin: ApiClient
    cell: str
    user: str = ""

    @property
    def place(self) -> str:
        """Its namespace."""
        return f"shop--{self.cell}--dev"

    @property
    def account(self) -> str:
        """The name of its account."""
        return CellIdentity(self.place, AGENT_NAMESPACE).account

    def named(self, kind: str, name: str, version: str = "v1", namespace: str | None = None) -> dict[str, Any]:
        """Return what names one object of the cell."""
        place = self.place if namespace is None else namespace
        metadata = {"name": name, **({"namespace": place} if place else {})}
        return {"apiVersion": version, "kind": kind, "metadata": metadata}

    @property
    def namespace(self) -> dict[str, Any]:
        """Names the namespace."""
        return self.named("Namespace", self.place, namespace="")

    @property
    def deny(self) -> dict[str, Any]:
        """Names the policy that closes the cell."""
        return self.named("NetworkPolicy", "default-deny", NETWORKING)

    @property
    def binding(self) -> dict[str, Any]:
        """Names the binding of the cell's account."""
        return self.named("RoleBinding", "cellward-cell", RBAC)

    @property
    def service_account(self) -> dict[str, Any]:
        """Names the cell's account."""
        return self.named("ServiceAccount", self.account, namespace=AGENT_NAMESPACE)

    @property
    def workload(self) -> dict[str, Any]:
        """Names what runs."""
        return self.named("Deployment", "web", "apps/v1")

    def merge(self, what: dict[str, Any], body: dict[str, Any]) -> Answer:
        """Write some fields."""
        return self.admin.request("PATCH", path_of(what), body, content_type=MERGE, user=self.user)

    def patch(self, what: dict[str, Any], *operations: dict[str, Any]) -> Answer:
        """Write by JSON patch."""
        return self.admin.request("PATCH", path_of(what), list(operations), content_type=JSON_PATCH, user=self.user)

    def label(self, what: dict[str, Any], labels: dict[str, str | None]) -> Answer:
        """Set or take off labels."""
        return self.merge(what, {"metadata": {"labels": labels}})

    def annotate(self, annotations: dict[str, str | None]) -> Answer:
        """Set or take off annotations of the namespace."""
        return self.merge(self.namespace, {"metadata": {"annotations": annotations}})

    def delete(self, what: dict[str, Any]) -> Answer:
        """Delete."""
        return self.admin.delete(what, user=self.user)

    def create(self, what: dict[str, Any]) -> Answer:
        """Create."""
        return self.admin.create(what, user=self.user)

    def swap_image(self) -> Answer:
        """Have the workload run something else."""
        image = {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "evil:1"}
        return self.patch(self.workload, image)


Attempt = Callable[[Target], Answer]


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that somebody does to a cell."""

    name: str
    attempts: Sequence[Attempt]
    mended_by: Literal["agent", "administrator"] = "agent"


def _without(*names: str) -> Attempt:
    return lambda on: on.label(on.namespace, dict.fromkeys(names))


def _with(**labels: str) -> Attempt:
    return lambda on: on.label(on.namespace, dict(labels))


def _level(name: str, value: str | None) -> Attempt:
    return lambda on: on.label(on.namespace, {f"{LEVEL}{name}": value})


def _open_policy(on: Target) -> Answer:
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}
    return on.create({**on.named("NetworkPolicy", "open", NETWORKING), "spec": spec})


def _other_subject(on: Target) -> Answer:
    subject = {"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}
    return on.merge(on.binding, {"subjects": [subject]})


def _other_role(on: Target) -> Answer:
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    subject = {"kind": "ServiceAccount", "name": on.account, "namespace": AGENT_NAMESPACE}
    return on.create({**on.binding, "roleRef": role, "subjects": [subject]})


def _bare_namespace(on: Target) -> Answer:
    return on.create(on.namespace)


def _widened(on: Target) -> Answer:
    return on.patch(on.deny, {"op": "add", "path": "/spec/ingress", "value": [{}]})


#: What somebody may do to the marks of a namespace.
_MARKS: Sequence[Damage] = (
    Damage("cell label off", [_without("cellward.dev/cell")]),
    Damage("all labels off", [_without(*LABELS, *(f"{LEVEL}{mode}" for mode in ("enforce", "audit", "warn")))]),
    Damage("label of another cell", [lambda on: on.label(on.namespace, {"cellward.dev/cell": "other"})]),
    Damage("label of another project", [lambda on: on.label(on.namespace, {"cellward.dev/project": "x--y"})]),
    Damage("further label of ours", [lambda on: on.label(on.namespace, {"cellward.dev/further": "x"})]),
    Damage("mark off", [_without("app.kubernetes.io/managed-by")]),
    Damage("annotation off", [lambda on: on.annotate({TAKE_BACK: None})]),
    Damage("annotation of another", [lambda on: on.annotate({TAKE_BACK: "x--y--z"})]),
)
#: To its pod security labels.
_LEVELS: Sequence[Damage] = (
    Damage("privileged", [_level("enforce", "privileged")]),
    Damage("old version", [_level("enforce-version", "v1.25")]),
    Damage("level off", [_level("enforce", None)]),
    Damage("version off", [_level("enforce-version", None)]),
    Damage("audit lowered", [_level("audit", "privileged"), _level("audit-version", "v1.25")]),
    Damage("warn lowered", [_level("warn", "privileged"), _level("warn-version", None)]),
)
#: To the isolation of a cell.
_ISOLATION: Sequence[Damage] = (
    Damage("deny deleted", [lambda on: on.delete(on.deny)]),
    Damage("deny widened", [_widened]),
    Damage("deny without its mark", [lambda on: on.label(on.deny, {"app.kubernetes.io/managed-by": None})]),
    Damage("further policy", [_open_policy]),
)
#: To the rights of its account.
_RIGHTS: Sequence[Damage] = (
    Damage("binding deleted", [lambda on: on.delete(on.binding)]),
    Damage("binding of another", [_other_subject]),
    Damage("binding labelled", [lambda on: on.label(on.binding, {"evil": "1"})]),
    Damage("account deleted", [lambda on: on.delete(on.service_account)]),
    Damage("account changed", [lambda on: on.merge(on.service_account, {"automountServiceAccountToken": True})]),
)
GROUND: Sequence[Damage] = (*_MARKS, *_LEVELS, *_ISOLATION, *_RIGHTS)
#: The same, so many at once as do not hide each other.
AT_ONCE: Sequence[Sequence[Damage]] = [
    [one for one in row if one is not None] for row in itertools.zip_longest(_MARKS, _LEVELS, _ISOLATION, _RIGHTS)
]
#: What only somebody can do whom no guard stops, because it takes several steps or ends what was there.
UNGUARDED: Sequence[Damage] = (
    Damage("binding of another role", [lambda on: on.delete(on.binding), _other_role]),
    Damage(
        "account made anew",
        [
            lambda on: on.delete(on.service_account),
            lambda on: on.create({**on.service_account, "automountServiceAccountToken": True}),
        ],
    ),
    Damage(
        "privileged, labels and deny gone",
        [_level("enforce", "privileged"), _level("enforce-version", "v1.25"), _without(*LABELS),
         lambda on: on.delete(on.deny), lambda on: on.delete(on.binding), _open_policy],
    ),
    Damage(
        "labels and annotation off",
        [_without(*LABELS), lambda on: on.annotate({TAKE_BACK: None}), lambda on: on.delete(on.deny)],
        "administrator",
    ),
)  # fmt: skip

_FENCE, _LABELS, _LEVEL = "cellward-agent-fence", "cellward-cell-labels", "cellward-pod-security"
#: Every rule of the guards, by how its message begins, and the damage whose repair it judges; an empty tuple says that
#: it judges none: it is about what no repair writes, or does not bind the agent.
RULES: Sequence[tuple[str, str, tuple[str, ...]]] = (
    (_FENCE, "an account of a cell does not write namespaces", ()),
    (_FENCE, "the agent writes only namespaces that are cells",
     ("cell label off", "all labels off", "label of another cell", "label of another project", "further label of ours",
      "annotation off", "annotation of another", "privileged, labels and deny gone", "labels and annotation off")),
    (_FENCE, "a cell's namespace enforces the pod security level", ("privileged", "old version", "level off")),
    (_FENCE, "the agent and the accounts of cells write only in cells",
     ("deny deleted", "deny widened", "further policy", "binding deleted", "privileged, labels and deny gone")),
    (_FENCE, "in its own namespace the agent writes", ("account deleted", "account changed", "account made anew")),
    (_FENCE, "the agent and the accounts of cells write no subresources", ()),
    # Each damage comes with a swapped image, which the cell's account takes back.
    (_FENCE, "an account of a cell writes only in cells", ("privileged, labels and deny gone", "cell label off")),
    (_FENCE, "an account of a cell writes only in its own cell", ("label of another cell",)),
    (_FENCE, "an account of a cell writes no rights", ()),
    (_FENCE, "of rights the agent writes only", ("binding deleted", "binding labelled", "binding of another role")),
    (_FENCE, "the RoleBinding of a cell binds", ("binding of another", "binding of another role")),
    (_LABELS, "labels cellward.dev/* of a namespace", ()),
    (_LABELS, "labels cellward.dev/* of a cell are taken off", ()),
    ("cellward-unstamped", "the cells of this cluster are being stamped", ()),
    ("cellward-unstamped", "isolation of a cell is written", ()),
    (_LEVEL, "the pod security labels", ("privileged", "version off", "audit lowered", "warn lowered", "level off")),
    ("cellward-isolation-guard", "isolation of a cell is written", ()),
)  # fmt: skip
