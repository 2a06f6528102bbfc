"""Signed documents for tests that need many of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cellward.documents import canonical
from cellward.documents.dsse import ED25519, Ed25519Signer, dump_envelope, parse_envelope, sign_document
from cellward.documents.facts import Selector
from cellward.documents.keyring import Keyring, KeyringEntry
from cellward.documents.model import KINDS, Approval, Deployment, Document, Release, Tombstone, build_document
from cellward.policy.publisher import create_root
from cellward.policy.record import RoleKeys
from hub.documents.judge import Trusted

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=365)
EVERYWHERE = Selector(all=True)


class Keys:
    """A keyring that is served (``KeyringPort``): whoever is enrolled may sign everything."""

    def __init__(self, *authors: Author) -> None:
        self.thresholds: dict[str, int] = {}
        self.entries: dict[str, KeyringEntry] = {}
        self.changes = 0
        self.absent = False
        for author in authors:
            self.enrol(author)

    def enrol(self, author: Author, **changes: object) -> None:
        """Put an author's key into the keyring, or change its entry."""
        entry = KeyringEntry(
            author.signer.keyid, ED25519, author.signer.public_spki_der, author.owner, tuple(sorted(KINDS)), ("*",),
            ("*",), NOW - timedelta(days=1), NOW + timedelta(days=3650),
        )  # fmt: skip
        self.entries[entry.keyid] = replace(self.entries.get(entry.keyid, entry), **changes)  # type: ignore[arg-type]
        self.changes += 1

    def need(self, **thresholds: int) -> None:
        """Want so many owners per kind."""
        self.thresholds.update(thresholds)
        self.changes += 1

    async def still(self, _: object, trusted: Trusted) -> bool:
        """Whether it has not changed since."""
        return trusted.mark == str(self.changes)

    async def current(self) -> Trusted | None:
        """The keyring as it is now."""
        if self.absent:
            return None
        realm = "sha256:" + "0" * 64
        entries = tuple(self.entries.values())
        return Trusted(Keyring(realm, 1, entries), dict(self.thresholds), mark=str(self.changes))


class Author:
    """Signs for one realm with one key; returns envelopes as they travel."""

    def __init__(self, realm: str, owner: str = "ada") -> None:
        self.realm = realm
        self.owner = owner
        self.signer = Ed25519Signer.generate()

    def cosign(self, envelope: bytes) -> bytes:
        """Sign a document somebody else made; the envelope has this signature alone."""
        parsed = parse_envelope(envelope)
        return dump_envelope(sign_document(parsed.payload, parsed.payload_type, (self.signer,)))

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


def forged(author: Author, kind: str, **fields: object) -> bytes:
    """Sign a document of a form that no author's own tools make."""
    body = {"schema": f"cellward.{kind}/v1", "realm": author.realm, "project": "shop", "cell": "cart", **fields}
    envelope = sign_document(canonical.encode(body), f"application/vnd.cellward.{kind}.v1+json", (author.signer,))
    return dump_envelope(envelope)
