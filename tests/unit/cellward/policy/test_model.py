"""Staleness and what a bundle sees."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from cellward.documents.facts import Selector
from cellward.documents.keyring import Keyring
from cellward.policy.model import Binding, BindingSet, OnStale, VerifiedSet, staleness_of
from tests.fakes.policy import FACTS, now, request, thing

REALM = "sha256:" + "a" * 64


def binding(limit: int, on_stale: OnStale, name: str = "a", selector: Selector | None = None) -> Binding:
    """Return a binding with a limit."""
    chosen = selector or Selector(all=True)
    return Binding(name, "bundles/a-1.tar.gz", "sha256:" + "b" * 64, chosen, "enforce", limit, on_stale)


def verified(expires: datetime, *bindings: Binding) -> VerifiedSet:
    """Return a set that expires."""
    keyring = Keyring(REALM, 1, ())
    return VerifiedSet(REALM, 1, 1, 1, 1, 1, expires, keyring, BindingSet(REALM, bindings), {}, {})


@pytest.mark.parametrize(
    ("bindings", "past", "verdict"),
    [
        ((binding(3600, "keep"),), -1, "fresh"),
        ((binding(3600, "keep"),), 3600, "fresh"),
        ((binding(3600, "keep"),), 3601, "keep"),
        ((binding(3600, "refuse-new"),), 3601, "refuse-new"),
        ((binding(0, "refuse-new"),), 0, "fresh"),
        ((binding(0, "refuse-new"),), 1, "refuse-new"),
        ((binding(60, "keep"), binding(600, "refuse-new", "b")), 61, "keep"),
        ((binding(60, "keep"), binding(600, "refuse-new", "b")), 601, "refuse-new"),
        ((binding(60, "refuse-new", selector=Selector(production=True)), binding(600, "keep", "b")), 61, "fresh"),
        ((), -1, "fresh"),
        ((), 1, "refuse-new"),
    ],
)
def test_staleness_counts_from_snapshot_expiry_v8(bindings: tuple[Binding, ...], past: int, verdict: str) -> None:
    """V8: the strictest binding that selects the cluster decides, counted from the snapshot's expiry."""
    expires = now()
    found = staleness_of(verified(expires, *bindings), FACTS, expires + timedelta(seconds=past))
    assert found.verdict == verdict
    assert found.seconds == max(0, past)


def test_bindings_hold_for_the_environment_asked_about() -> None:
    """On a cluster with two environments, a binding of one does not decide about the other."""
    both = replace(FACTS, environments=("dev", "prod"))
    only = binding(0, "keep", selector=Selector(environments=("prod",)))
    assert only.selects(both)
    assert only.selects(both, "prod")
    assert not only.selects(both, "dev")


def test_the_document_a_bundle_sees() -> None:
    """Facts and claims are apart, under one schema."""
    document = request(REALM, thing("Good"), hub={"production": False}).to_json(binding(1, "keep"))
    assert document["schema"] == "cellward.decision/v1"
    assert document["hub"] == {"production": False}
    seen = document["verified"]
    assert isinstance(seen, dict)
    assert seen["cluster"] == FACTS.to_json()
    assert seen["binding"] == {"name": "a", "mode": "enforce", "parameters": {}}
    assert sorted(document) == ["hub", "objects", "operation", "schema", "time", "verified"]
