"""What is placed, and what comes out; times are aware and in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellward.documents.names import CellKey

if TYPE_CHECKING:
    from datetime import datetime

    from cellward.documents.facts import Selector


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What the hub reads out of a document to find it again, and what its signatures come to.

    Attributes:
        digest: identity of the document, over its payload.
        kind: ``release``, ``deployment``, ``approval``, ``tombstone`` or ``cluster``.
        subject: digest the document is about: of the release for a Deployment, of the Deployment for an Approval.
        fallback: digest of the release a Deployment falls back to, empty for none.
        selector: of a Deployment; None otherwise.
        standing: verified, pending or unverified; only what is verified is placed (``hub.documents.judge``).
        owners: who signed, as far as it counts; ``needed`` is how many must have.
        once: whether it was verified before, and is not any more.
        not_after: when it runs out; None for never, and for what an older hub kept.
        size: of the envelope as kept, bytes.
    """

    digest: str
    kind: str
    realm: str
    project: str = ""
    cell: str = ""
    environments: tuple[str, ...] = ()
    sequence: int = 0
    subject: str = ""
    fallback: str = ""
    version: str = ""
    selector: Selector | None = None
    standing: str = "unverified"
    owners: tuple[str, ...] = ()
    needed: int = 1
    once: bool = False
    not_after: datetime | None = None
    size: int = 0

    @property
    def verified(self) -> bool:
        """Whether as many owners signed as must."""
        return self.standing == "verified"

    @property
    def keys(self) -> tuple[CellKey, ...]:
        """What it places, per environment."""
        return tuple(CellKey(self.project, self.cell, environment) for environment in self.environments)


@dataclass(frozen=True, slots=True)
class Placement:
    """What one cluster should have for one cell in one environment."""

    key: CellKey
    deployment_digest: str
    evidence: tuple[str, ...]
