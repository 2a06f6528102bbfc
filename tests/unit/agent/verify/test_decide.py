"""What a record says of a decision."""

from __future__ import annotations

from datetime import UTC, datetime

from agent.verify.decide import details_of
from cellward.audit.record import redact
from cellward.documents.keyring import Keyring
from cellward.policy.model import BindingSet, Decision, VerifiedSet, Violation


def test_record_of_a_decision_names_what_decided_and_what_would_have_refused() -> None:
    """Without them nobody can tell afterwards by which policy something was let in, nor what a shadow would change."""
    policy = VerifiedSet(
        realm="r", root_version=1, timestamp_version=2, snapshot_version=7, targets_version=5, keyring_version=4,
        snapshot_expires=datetime(2026, 1, 1, tzinfo=UTC), keyring=Keyring("r", 1, ()), binding_set=BindingSet("r", ()),
        bundles={}, digests={},
    )  # fmt: skip
    bundles = {"starter": "sha256:" + "1" * 64, "base": "sha256:" + "2" * 64}
    warned, watched = (Violation("base/warned", "x"),), (Violation("next/a", "x"), Violation("next/a", "y"))
    details = details_of(Decision(True, (), warned, bundles, "id", watched), policy, "enforced")  # noqa: FBT003
    kept, dropped = redact(details)
    assert (kept, dropped) == (details, 0), "everything is on the list and short enough"
    assert details == {
        "decisionId": "id",
        "isolation": "enforced",
        "violations": "0",
        "warnings": "1",
        "shadow": "2",
        "rules": "warnings base/warned, shadow next/a",
        "bundleDigest": f"base@sha256:{'2' * 64}, starter@sha256:{'1' * 64}",
        "snapshot": "7",
        "targets": "5",
    }
    assert "rules" not in details_of(Decision(True, (), (), bundles, "id"), policy, "enforced")  # noqa: FBT003
