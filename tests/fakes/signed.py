"""Signed documents for tests that need many of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cellward.documents.dsse import Ed25519Signer, dump_envelope, parse_envelope, sign_document
from cellward.documents.facts import Selector
from cellward.documents.model import Approval, Deployment, Document, Release, Tombstone, build_document
from cellward.policy.publisher import RoleKeys, create_root

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=365)
EVERYWHERE = Selector(all=True)


class Author:
    """Signs for one realm with one key; returns envelopes as they travel."""

    def __init__(self, realm: str) -> None:
        self.realm = realm
        self.signer = Ed25519Signer.generate()

    def sign(self, document: Document) -> bytes:
        """Sign any document."""
        payload_type, payload = build_document(document)
        return dump_envelope(sign_document(payload, payload_type, (self.signer,)))

    def release(self, cell: str = "cart", version: str = "1", project: str = "shop") -> bytes:
        """A release whose spec nobody looks into here."""
        return self.sign(
            Release(
                realm=self.realm, project=project, cell=cell, version=version, owner="ada", spec={"version": version},
                issued_at=NOW,
            )
        )  # fmt: skip

    def deployment(
        self,
        release: bytes,
        sequence: int = 1,
        *environments: str,
        cell: str = "cart",
        project: str = "shop",
        selector: Selector = EVERYWHERE,
        fallback: str | None = None,
    ) -> bytes:
        """Place a release."""
        return self.sign(
            Deployment(
                realm=self.realm, project=project, cell=cell, environments=environments or ("dev",),
                release_digest=digest(release), sequence=sequence, issued_at=NOW, not_after=LATER,
                cluster_selector=selector, fallback=fallback,
            )
        )  # fmt: skip

    def approval(self, deployment: str, environment: str = "dev") -> bytes:
        """Approve a Deployment by digest."""
        return self.sign(
            Approval(
                realm=self.realm, project="shop", deployment_digest=deployment, environment=environment,
                issued_at=NOW, not_after=LATER,
            )
        )  # fmt: skip

    def tombstone(self, sequence: int, *environments: str, cell: str = "cart") -> bytes:
        """End a cell."""
        return self.sign(
            Tombstone(
                realm=self.realm, project="shop", cell=cell, environments=environments or ("dev",), sequence=sequence,
                delete_data=False, issued_at=NOW, not_after=LATER,
            )
        )  # fmt: skip


def digest(envelope: bytes) -> str:
    """Identity of the document in an envelope."""
    return parse_envelope(envelope).digest


def new_root() -> tuple[bytes, Author]:
    """A root of version 1, and an author of its realm."""
    author = Author("")
    keys = RoleKeys((author.signer.public_spki_der,))
    root = create_root(root=keys, policy=keys, publisher=keys, timestamp=keys, signers=(author.signer,), now=NOW)
    return root, author
