"""Signing documents with the author's key: decided, remembered durably, and only then signed.

Invariant: a signature exists only over a payload that is in local memory with its number. So no crash and no failed
upload makes this machine sign two documents with one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli.state import memory
from cli.state.model import Key
from cli.state.records import digest_of, record_of

if TYPE_CHECKING:
    from cellward.documents.dsse import Ed25519Signer, Envelope
    from cellward.documents.model import ClusterEndorsement, Deployment, Release, Tombstone
    from cli.state.store import Change, Store

    Signable = Release | Deployment | Tombstone

__all__ = ["Draft", "Key", "draft", "remember", "sign", "sign_endorsement", "taken"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A document as it would be signed: its exact bytes, and nobody's signature."""

    document: Signable
    payload_type: str
    payload: bytes

    @property
    def digest(self) -> str:
        """What the document will be known by."""
        return digest_of(self.payload)


def draft(document: Signable) -> Draft:
    """Build the exact bytes of a document; raises what an agent would refuse."""
    from cellward.documents.model import build_document

    payload_type, payload = build_document(document)
    return Draft(document, payload_type, payload)


def remember(change: Change, drafts: Sequence[Draft], keyid: str) -> None:
    """Write down what is about to be signed; durable when the change has ended. Raises cli/number-used."""
    for one in drafts:
        change.put(one.payload)
        change.state = memory.remember(change.state, record_of(one.document, one.digest, keyid=keyid))


def sign(store: Store, drafts: Sequence[Draft], signer: Ed25519Signer) -> list[Envelope]:
    """Sign what is remembered; raises cli/bad-state for a payload that is not, whatever was given."""
    from cellward.documents.dsse import sign_document

    state = store.read()
    return [
        sign_document(store.payload(one.digest), one.payload_type, (signer,))
        for one in drafts
        if memory.required(state, one.digest)
    ]


def sign_endorsement(document: ClusterEndorsement, signer: Ed25519Signer) -> Envelope:
    """Sign what a cluster says of itself; it has no number, and takes the place of nothing."""
    from cellward.documents.dsse import sign_document
    from cellward.documents.model import build_document

    payload_type, payload = build_document(document)
    return sign_document(payload, payload_type, (signer,))


def taken(store: Store, drafts: Sequence[Draft]) -> None:
    """Remember that a hub took them."""
    with store.change() as change:
        change.state = memory.delivered(change.state, [one.digest for one in drafts])
