"""The golden vectors: what is committed is what the code makes, and the code still reads it."""

from __future__ import annotations

import pytest

from cellward.documents import canonical
from cellward.documents.keyring import Keyring, Verifier
from cellward.documents.model import parse_document, payload_type_of
from tests.vectors.generate import GOLDEN, ISSUED, REALM, documents, generate

KINDS = ("release", "deployment", "approval", "tombstone", "cluster")


def test_generating_again_gives_the_same_bytes() -> None:
    """A change of any signed byte, or of any rendered object, must be a visible decision."""
    made = generate()
    assert {file.name for file in GOLDEN.iterdir()} == set(made)
    for name, data in made.items():
        assert (GOLDEN / name).read_bytes() == data, f"{name} differs: run python -m tests.vectors.generate and read it"


@pytest.mark.parametrize("kind", KINDS)
def test_committed_payloads_are_read_as_what_they_were(kind: str) -> None:
    """Payload bytes of every kind parse to the document they were built from."""
    payload = (GOLDEN / f"{kind}.payload.json").read_bytes()
    assert parse_document(payload_type_of(kind), payload) == documents()[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_committed_envelopes_verify_against_the_committed_keyring(kind: str) -> None:
    """Both owners of the vector are counted, for every kind."""
    keyring = Keyring.from_json(canonical.decode((GOLDEN / "keyring.json").read_bytes()))
    document = documents()[kind]
    envelope = (GOLDEN / f"{kind}.envelope.json").read_bytes()
    verified = Verifier(keyring, REALM, {kind: 2}).verify(envelope, type(document), now=ISSUED)
    assert verified.document == document
    assert [signer.owner for signer in verified.signers] == ["security", "team-cart"]
