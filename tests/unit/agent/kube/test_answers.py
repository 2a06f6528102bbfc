"""From answers of the API server to our errors: what is worth another try and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from agent.kube.answers import error_of
from cellward.errors import Unavailable


def _status(message: str = "", reason: str = "", causes: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return {"message": message, "reason": reason, "details": {"causes": causes or []}}


_CONFLICT = [{"reason": "FieldManagerConflict", "message": 'conflict with "kubectl" using apps/v1', "field": ".spec.x"}]


@pytest.mark.parametrize(
    ("status", "body", "code", "again"),
    [
        (404, _status("not found"), "kube/not-found", False),
        (401, _status(), "kube/unauthenticated", True),
        (429, _status(), "kube/throttled", True),
        (403, _status("deployments is forbidden: User x cannot patch"), "kube/forbidden", False),
        (403, _status('admission webhook "a.b" denied the request: no'), "kube/forbidden", False),
        (422, _status("ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"), "kube/forbidden", False),
        (403, _status("pods x is forbidden: exceeded quota: q"), "kube/quota", False),
        (500, _status('failed calling webhook "a.b": connection refused'), "kube/unavailable", True),
        (500, _status("typed patch object: .spec.x: field not declared in schema"), "kube/invalid", False),
        (503, _status(), "kube/unavailable", True),
        (400, _status('strict decoding error: unknown field "spec.x"'), "kube/invalid", False),
        (422, _status("Invalid", "Invalid", [{"message": "field is immutable", "field": "spec.selector"}]),
         "kube/immutable-field", False),
        (422, _status("updates to statefulset spec for fields other than 'replicas' are forbidden"),
         "kube/immutable-field", False),
        (422, _status("Invalid", "Invalid", [{"message": "may not change once set", "field": "spec.clusterIPs[0]"}]),
         "kube/immutable-field", False),
        (422, _status("ListOptions is invalid: sendInitialEvents: Forbidden: unless the WatchList feature gate is on"),
         "kube/too-old", True),
        (409, _status("conflict", "Conflict", _CONFLICT), "kube/field-conflict", False),
        (409, _status("the object has been modified", "Conflict"), "kube/stale", False),
        (409, _status("already exists", "AlreadyExists"), "kube/stale", False),
        (418, _status(), "kube/unexpected", False),
    ],
)  # fmt: skip
def test_answer(status: int, body: dict[str, Any], code: str, again: bool) -> None:
    """Each trap by its code; only class Unavailable is tried again."""
    error = error_of(status, body, "apply Deployment/n/x")
    assert error.code == code
    assert isinstance(error, Unavailable) is again
    assert error.message.startswith("apply Deployment/n/x: ")


def test_conflict_names_managers_and_fields() -> None:
    """V16: who owns it."""
    error = error_of(409, _status("conflict", "Conflict", _CONFLICT), "apply x")
    assert error.details == {"managers": "kubectl", "fields": ".spec.x"}


def test_refusal_names_the_policy() -> None:
    """V15: which rule."""
    text = "ValidatingAdmissionPolicy 'cellward-agent-fence' with binding 'cellward-agent-fence' denied request: no"
    assert error_of(403, _status(text), "apply x").details["by"] == "cellward-agent-fence"
    assert error_of(403, _status("cannot patch"), "apply x").details["by"] == "rbac"


def test_v15_what_refused_is_named_as_the_rule() -> None:
    """A policy, the rights, a quota by its name."""
    text = "ValidatingAdmissionPolicy 'cellward-agent-fence' with binding 'cellward-agent-fence' denied request: no"
    assert error_of(422, _status(text), "apply x").details["rule"] == "cellward-agent-fence"
    assert error_of(403, _status("cannot patch"), "apply x").details["rule"] == "rbac"
    text = "services zoo2 is forbidden: exceeded quota: few-services, requested: count/services=1"
    assert error_of(403, _status(text), "apply x").details["rule"] == "few-services"


def test_long_messages_are_cut() -> None:
    """An answer of a megabyte does not become a record of a megabyte."""
    assert len(error_of(500, _status("x" * 1_000_000), "apply x").message) < 1000
