"""The hub's own leaf rotates in time, and gains its name when the realm becomes known (V5)."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509

from cellward.identity.names import HUB_DNS_NAME
from cellward.identity.x509 import load_certificates
from hub.authority.model import HubLeaf
from hub.sync.tls import RotatingLeaf
from tests.fakes.authority import REALM, FakeHub
from tests.fakes.clock import ManualClock


def names(leaf: HubLeaf) -> set[str]:
    """Names in a leaf, as text."""
    certificate = load_certificates(leaf.chain_pem)[0]
    return {
        str(name.value) for name in certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    }


def test_v5_a_leaf_is_replaced_at_half_of_its_life() -> None:
    """V5: not before, and never after."""
    clock = ManualClock(datetime(2026, 11, 23, 12, 0, tzinfo=UTC))
    hub = FakeHub(clock)
    rotating = RotatingLeaf(hub.authority, clock, lambda: hub.realm)
    first = rotating.leaf
    clock.advance(20 * 60)
    assert rotating.leaf is first
    clock.advance(10 * 60)
    assert rotating.leaf is not first
    assert rotating.leaf.not_after > clock.now()


def test_a_leaf_gains_its_uri_when_the_realm_becomes_known() -> None:
    """Before the first root there is a name to dial and no identity; afterwards both, without a restart."""
    clock = ManualClock(datetime(2026, 11, 23, 12, 0, tzinfo=UTC))
    hub = FakeHub(clock, realm=None)
    rotating = RotatingLeaf(hub.authority, clock, lambda: hub.realm, dns=("hub.example",), ips=("192.0.2.7",))
    assert names(rotating.leaf) == {HUB_DNS_NAME, "hub.example", "192.0.2.7"}
    hub.realm = REALM
    uri = f"spiffe://{hub.authority.trust_domain()}/hub/hub"
    assert names(rotating.leaf) == {HUB_DNS_NAME, "hub.example", "192.0.2.7", uri}
