"""Verification against the keyring: scope first, one key at a time, distinct owners, time."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from cellward.documents import canonical, dsse
from cellward.documents.keyring import HUB_OWNER, Keyring, KeyringEntry, Verified, Verifier
from cellward.documents.model import Deployment, Release, build_document
from cellward.documents.numbers import milliseconds
from cellward.errors import CellwardError, Refused
from tests.vectors.generate import ISSUED, REALM, UNTIL, documents, entry, signer

DEPLOYMENT = cast("Deployment", documents()["deployment"])
RELEASE = cast("Release", documents()["release"])
NOW = ISSUED + timedelta(days=1)


def sign(*numbers: int, document: Deployment | Release = DEPLOYMENT) -> bytes:
    """Return an envelope of the document, signed by test keys."""
    payload_type, payload = build_document(document)
    return dsse.dump_envelope(dsse.sign_document(payload, payload_type, [signer(number) for number in numbers]))


def verify(
    envelope: bytes, *entries: KeyringEntry, threshold: int = 1, now: datetime = NOW, hub: tuple[str, ...] = (),
    accepted: bool = False,
) -> Verified[Deployment]:  # fmt: skip
    """Verify a Deployment against entries."""
    verifier = Verifier(Keyring(REALM, 1, entries), REALM, {"deployment": threshold}, hub_environments=hub)
    return verifier.verify(envelope, Deployment, now=now, accepted=accepted)


def refused(envelope: bytes, *entries: KeyringEntry, **options: Any) -> CellwardError:
    """Return why verification refuses."""
    with pytest.raises(CellwardError) as caught:
        verify(envelope, *entries, **options)
    return caught.value


def test_a_good_signature() -> None:
    """The verified document comes with its digest and who signed."""
    verified = verify(sign(1), entry(1, "ann"))
    assert verified.document == DEPLOYMENT
    assert verified.digest == canonical.digest(build_document(DEPLOYMENT)[1])
    assert [found.owner for found in verified.signers] == ["ann"]


def test_nobody_signed() -> None:
    """A document without an author is refused, whoever carries it."""
    error = refused(sign(), entry(1, "ann"))
    assert isinstance(error, Refused)
    assert error.code == "document/no-valid-signature"


def test_a_key_the_keyring_does_not_know() -> None:
    """Every key of the hub is such a key."""
    assert refused(sign(2), entry(1, "ann")).code == "document/no-valid-signature"


@pytest.mark.parametrize(
    "change",
    [
        {"kinds": ("release", "approval")},
        {"projects": ("other",)},
        {"projects": ("bout",)},
        {"environments": ("development",)},
        {"environments": ("production",)},
        {"environments": ()},
        {"state": "retired"},
        {"state": "compromised"},
        {"not_before": NOW + timedelta(seconds=1)},
        {"not_after": NOW - timedelta(seconds=1)},
    ],
)
def test_scope_of_a_key(change: dict[str, Any]) -> None:
    """Kind, project, *every* environment, validity and state are asked before any policy."""
    assert refused(sign(1), replace(entry(1, "ann"), **change)).code == "document/no-valid-signature"


def test_scope_that_just_fits() -> None:
    """The narrowest scope that covers the document is enough."""
    narrow = replace(
        entry(1, "ann"), kinds=("deployment",), projects=("boutique",), environments=("development", "production"),
        not_before=NOW, not_after=NOW,
    )  # fmt: skip
    assert verify(sign(1), narrow).signers == (narrow,)


def test_a_release_has_no_environment() -> None:
    """A key without environments may sign a release, but places nothing."""
    author = replace(entry(1, "ann"), environments=())
    verifier = Verifier(Keyring(REALM, 1, (author,)), REALM)
    assert verifier.verify(sign(1, document=RELEASE), Release, now=NOW).document == RELEASE
    assert refused(sign(1), author).code == "document/no-valid-signature"


def test_each_signature_is_checked_for_its_own_key() -> None:
    """A good signature under another key's id, or a broken one beside a good one, counts for nothing."""
    envelope = dsse.parse_envelope(sign(1, 2))
    one, two = envelope.signatures
    swapped = replace(envelope, signatures=(replace(one, keyid=two.keyid), replace(two, keyid=one.keyid)))
    both = (entry(1, "ann"), entry(2, "bob"))
    assert refused(dsse.dump_envelope(swapped), *both).code == "document/no-valid-signature"
    broken = replace(envelope, signatures=(one, replace(two, sig=b"\x00" * 64)))
    assert [found.owner for found in verify(dsse.dump_envelope(broken), *both).signers] == ["ann"]
    assert refused(dsse.dump_envelope(broken), *both, threshold=2).code == "document/threshold-not-met"


@given(st.lists(st.sampled_from([1, 2, 3, 4]), max_size=8), st.integers(1, 4))
def test_thresholds_count_distinct_owners(numbers: list[int], threshold: int) -> None:
    """Keys 1 and 2 are ann's, 3 is bob's, 4 is nobody's: owners count, not keys and not signatures."""
    ring = (entry(1, "ann"), entry(2, "ann"), entry(3, "bob"))
    owners = {"ann" for number in numbers if number in (1, 2)} | {"bob" for number in numbers if number == 3}
    if len(owners) >= threshold:
        verified = verify(sign(*numbers), *ring, threshold=threshold)
        assert [found.owner for found in verified.signers] == sorted(owners)
    else:
        refused(sign(*numbers), *ring, threshold=threshold)


def test_one_signature_repeated_is_one() -> None:
    """The same signature many times over does not reach a threshold."""
    envelope = dsse.parse_envelope(sign(1))
    many = replace(envelope, signatures=envelope.signatures * 5)
    assert refused(dsse.dump_envelope(many), entry(1, "ann"), threshold=2).code == "document/threshold-not-met"


def test_a_threshold_below_one_is_one() -> None:
    """No setting turns signatures off."""
    assert refused(sign(), entry(1, "ann"), threshold=0).code == "document/no-valid-signature"


def test_all_signatures_are_looked_at() -> None:
    """A compromised key among the signers neither helps nor harms; the others decide."""
    ring = (replace(entry(1, "ann"), state="compromised"), entry(2, "bob"))
    assert [found.owner for found in verify(sign(1, 2), *ring).signers] == ["bob"]


def test_payload_type_is_signed() -> None:
    """A signature for one kind never serves as another: the type is part of what is signed."""
    payload = build_document(RELEASE)[1]
    forged = dsse.sign_document(payload, "application/vnd.cellward.deployment.v1+json", [signer(1)])
    assert refused(dsse.dump_envelope(forged), entry(1, "ann")).code == "document/unknown-schema"
    assert refused(sign(1, document=RELEASE), entry(1, "ann")).code == "document/wrong-kind"


def test_realm() -> None:
    """A document, or a keyring, of another realm is refused."""
    other = "sha256:" + "6" * 64
    assert refused(sign(1, document=replace(DEPLOYMENT, realm=other)), entry(1, "ann")).code == "document/wrong-realm"
    verifier = Verifier(Keyring(other, 1, (entry(1, "ann"),)), REALM)
    with pytest.raises(Refused):
        verifier.verify(sign(1), Deployment, now=NOW)


def test_time() -> None:
    """A document ends at notAfter, and is not taken more than ten minutes ahead of this clock."""
    ring = replace(entry(1, "ann"), not_before=ISSUED - timedelta(days=1), not_after=UNTIL + timedelta(days=1))
    assert verify(sign(1), ring, now=UNTIL).document == DEPLOYMENT
    assert refused(sign(1), ring, now=UNTIL + timedelta(seconds=1)).code == "document/expired"
    assert verify(sign(1), ring, now=ISSUED - timedelta(minutes=10)).document == DEPLOYMENT
    early = refused(sign(1), ring, now=ISSUED - timedelta(minutes=10, seconds=1))
    assert early.code == "document/issued-in-the-future"


def test_a_number_far_ahead_of_the_clock() -> None:
    """Nobody may end a cell's updates for longer than ten minutes by a number; accepted before or not."""
    bound = milliseconds(NOW) + 600_000
    ring = entry(1, "ann")
    assert verify(sign(1, document=replace(DEPLOYMENT, sequence=bound)), ring).document.sequence == bound
    ahead = sign(1, document=replace(DEPLOYMENT, sequence=bound + 1))
    assert refused(ahead, ring).code == "document/number-ahead"
    assert refused(ahead, ring, accepted=True).code == "document/number-ahead"


def test_what_was_accepted_stays_accepted() -> None:
    """V1: a restart after expiry or retirement keeps what runs; a compromised key, a forged or foreign one never."""
    late = UNTIL + timedelta(days=100)
    retired = replace(entry(1, "ann"), state="retired")
    assert verify(sign(1), retired, now=late, accepted=True).document == DEPLOYMENT
    assert refused(sign(1), retired, now=late).code == "document/no-valid-signature"
    compromised = replace(retired, state="compromised")
    assert refused(sign(1), compromised, now=late, accepted=True).code == "document/no-valid-signature"
    assert refused(sign(2), retired, now=late, accepted=True).code == "document/no-valid-signature"
    narrow = replace(retired, environments=("development",))
    assert refused(sign(1), narrow, now=late, accepted=True).code == "document/no-valid-signature"


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({"state": "retired"}, True),
        ({"not_after": NOW - timedelta(days=1)}, True),
        ({"state": "compromised"}, False),
        ({"not_before": NOW + timedelta(days=1)}, False),
        ({"kinds": ("deployment",)}, False),
        ({"projects": ("other",)}, False),
    ],
)
def test_a_release_that_a_deployment_names(change: dict[str, Any], holds: bool) -> None:
    """Rolling back to the work of somebody who left is no ceremony; to what a thief may have signed it is nothing."""
    ring = replace(entry(1, "ann"), **change)
    verifier = Verifier(Keyring(REALM, 1, (ring,)), REALM)
    data = sign(1, document=RELEASE)
    if holds:
        assert verifier.verify(data, Release, now=NOW, named=True).document == RELEASE
        with pytest.raises(Refused):
            verifier.verify(data, Release, now=NOW)
        return
    with pytest.raises(Refused) as caught:
        verifier.verify(data, Release, now=NOW, named=True)
    assert caught.value.code == "document/no-valid-signature"


def test_the_hub_counts_only_where_it_is_admitted() -> None:
    """The hub's own key is not an author unless a signed binding admits it for every environment of the document."""
    hub = entry(1, HUB_OWNER)
    assert refused(sign(1), hub).code == "document/no-valid-signature"
    assert refused(sign(1), hub, hub=("development",)).code == "document/no-valid-signature"
    assert verify(sign(1), hub, hub=("development", "production")).signers == (hub,)
    everywhere = Verifier(Keyring(REALM, 1, (hub,)), REALM, hub_environments=("development", "production"))
    with pytest.raises(Refused):
        everywhere.verify(sign(1, document=RELEASE), Release, now=NOW)


def test_keyring_round_trip() -> None:
    """A keyring survives its canonical bytes."""
    ring = Keyring(REALM, 4, (entry(1, "ann"), replace(entry(2, "bob"), state="retired", environments=())))
    assert Keyring.from_json(canonical.decode(canonical.encode(ring.to_json()))) == ring


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"keyid": "0" * 64}, "document/bad-keyring"),
        ({"publicKey": "AAAA"}, "document/bad-key"),
        ({"scheme": "ecdsa-sha2-nistp256"}, "document/bad-key"),
        ({"owner": ""}, "document/bad-keyring"),
        ({"state": "sleeping"}, "document/bad-keyring"),
        ({"projects": []}, "document/bad-keyring"),
        ({"projects": ["*", "boutique"]}, "document/bad-keyring"),
        ({"kinds": ["*"]}, "document/bad-keyring"),
        ({"notAfter": None}, "document/bad-keyring"),
        ({"comment": "x"}, "document/unknown-field"),
    ],
)
def test_malformed_entries(change: dict[str, Any], code: str) -> None:
    """One bad entry refuses the whole keyring: half a keyring is another keyring."""
    good = Keyring(REALM, 1, (entry(1, "ann"), entry(2, "bob"))).to_json()
    entries = good["entries"]
    assert isinstance(entries, list)
    assert isinstance(entries[0], dict)
    entries[0] = entries[0] | change
    with pytest.raises(CellwardError) as caught:
        Keyring.from_json(good)
    assert caught.value.code == code


def test_one_key_is_one_entry() -> None:
    """The same key cannot stand for two owners."""
    ring = Keyring(REALM, 1, (entry(1, "ann"), entry(1, "bob")))
    with pytest.raises(CellwardError) as caught:
        Keyring.from_json(ring.to_json())
    assert caught.value.code == "document/bad-keyring"


def test_a_scheme_of_a_later_version_verifies_nothing() -> None:
    """Such an entry does not take the others away; its signatures do not count."""
    future = replace(entry(1, "ann"), scheme="ml-dsa-65")
    ring = Keyring.from_json(Keyring(REALM, 1, (future, entry(2, "bob"))).to_json())
    assert [found.owner for found in verify(sign(1, 2), *ring.entries).signers] == ["bob"]
    assert refused(sign(1), *ring.entries).code == "document/no-valid-signature"


def test_ecdsa_entries_verify() -> None:
    """The second scheme counts like the first."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    payload_type, payload = build_document(DEPLOYMENT)
    sig = key.sign(dsse.pae(payload_type, payload), ec.ECDSA(hashes.SHA256()))
    keyid = dsse.keyid_of(spki)
    envelope = dsse.Envelope(payload_type, payload, (dsse.Signature(keyid, sig),))
    author = replace(entry(1, "ann"), keyid=keyid, spki_der=spki, scheme=dsse.ECDSA_P256)
    assert verify(dsse.dump_envelope(envelope), author).signers == (author,)


def test_keyring_of_a_later_schema_is_too_new() -> None:
    """A keyring with another schema is refused as too new, so the last accepted one keeps deciding."""
    with pytest.raises(CellwardError) as caught:
        Keyring.from_json(Keyring(REALM, 1, ()).to_json() | {"schema": "cellward.keyring/v2"})
    assert caught.value.code == "document/unknown-schema"
