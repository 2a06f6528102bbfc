"""Signing with the author's key, counting sequences, and handing documents to the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cli.context import instant, now
from cli.home import Home, Trust

if TYPE_CHECKING:
    from cellward.api import schemas
    from cellward.documents.dsse import Ed25519Signer, Envelope
    from cellward.documents.keyring import Verifier
    from cellward.documents.model import Document
    from cli.client import Client
    from cli.known import KnownDocuments

#: Project and cell.
Key = tuple[str, str]


def sign(document: Document, signer: Ed25519Signer) -> Envelope:
    """Build and sign a document."""
    from cellward.documents.dsse import sign_document
    from cellward.documents.model import build_document

    payload_type, payload = build_document(document)
    return sign_document(payload, payload_type, (signer,))


def next_sequence(home: Home, known: KnownDocuments, key: Key) -> int:
    """Number by the clock, above the highest verified sequence of the hub and the highest signed here."""
    from cellward.documents.numbers import next_number

    kept = home.read_counts("sequences.json").get("/".join(key), 0)
    return next_number(now(), (known.sequence(*key), kept))


def remember_sequences(home: Home, sequences: Mapping[Key, int]) -> None:
    """Raise the local floors."""
    kept = home.read_counts("sequences.json")
    for key, sequence in sequences.items():
        name = "/".join(key)
        kept[name] = max(kept.get(name, 0), sequence)
    home.write_json("sequences.json", kept)


def known_documents(client: Client, home: Home, trust: Trust) -> KnownDocuments:
    """What the hub has, as far as the local keyring's signatures go."""
    from cli.known import KnownDocuments

    return KnownDocuments(client, _verifier(client, home, trust), now())


def _verifier(client: Client, home: Home, trust: Trust) -> Verifier:
    from cellward.documents.keyring import Verifier
    from cli.keyring import trusted_policy

    return Verifier(trusted_policy(client, home, trust, instant()).keyring, trust.realm)


def upload(client: Client, envelopes: Sequence[Envelope], *, dry_run: bool) -> schemas.UploadResult:
    """Hand signed documents to the hub, all or none."""
    from cellward.api import schemas
    from cellward.documents.dsse import dump_envelope

    body = schemas.DocumentUpload(envelopes=[dump_envelope(envelope) for envelope in envelopes], dry_run=dry_run)
    return client.post("/documents", body, schemas.UploadResult)
