"""What the hub's rooms may ask of its store about signed documents; ``Store.documents`` implements it.

Documents are kept for ever, so nothing that happens with every upload reads them all. For each cell and environment the
store says which documents are *current*: of those that choose clusters alike the one with the highest sequence that is
verified, and whose release is. What is current changes in the transaction that keeps, judges or drops documents.

The rules of ``hub.store.interfaces`` hold here as well. What signatures come to is for the room that keeps documents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cellward.documents.names import CellKey
from hub.store.rows import Json, Page


@dataclass(frozen=True, slots=True)
class DocumentEntry:
    """What is known of a signed document without its envelope, which is under the digest of its payload.

    ``kind`` is the payload type's kind in lower case: release, deployment, approval, tombstone, ….
    ``meta`` says what a document is found by, beside its names: ``subject`` and ``fallback``, digests of documents, and
    ``selector``, by which a Deployment chooses clusters. ``standing`` is verified, pending or unverified, and
    ``judgement`` says why: ``once``, that it was verified before. ``size`` is that of the envelope, bytes.
    """

    digest: str
    kind: str
    project: str
    cell: str = ""
    environments: tuple[str, ...] = ()
    sequence: int = 0
    meta: Json = field(default_factory=dict)
    standing: str = "unverified"
    judgement: Json = field(default_factory=dict)
    size: int = 0


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A signed document as it is kept: its envelope, and what ``DocumentEntry`` says of it."""

    digest: str
    kind: str
    envelope: bytes
    project: str
    cell: str = ""
    environments: tuple[str, ...] = ()
    sequence: int = 0
    meta: Json = field(default_factory=dict)
    received_at: datetime | None = None
    standing: str = "unverified"
    judgement: Json = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the envelope."""
        return len(self.envelope)


@dataclass(frozen=True, slots=True)
class Judged:
    """What the signatures of a kept document come to by now."""

    digest: str
    standing: str
    judgement: Json


@dataclass(frozen=True, slots=True)
class Usage:
    """What a project has: verified documents, others, and the bytes of their envelopes."""

    verified: int = 0
    verified_bytes: int = 0
    loose: int = 0
    loose_bytes: int = 0


class DocumentStore(Protocol):
    """Signed documents by digest. Changes notify ``documents``."""

    async def put(self, document: DocumentRow, seen: bytes | None = None) -> bool:
        """Keep a document and return whether it is new.

        A known digest gets the envelope, standing and judgement given; its index stays. ``seen`` is the envelope its
        writer read before: where another one is kept by now nothing changes, and store/moved is raised.
        """
        ...

    async def put_many(
        self, documents: Sequence[DocumentRow], seen: Mapping[str, bytes] | None = None
    ) -> tuple[bool, ...]:
        """``put`` for each, all or nothing; ``seen`` by digest."""
        ...

    async def judge_many(self, judged: Sequence[Judged]) -> None:
        """Set standing and judgement of kept documents, all or none; digests that are not kept are passed over."""
        ...

    async def drop(self, digests: Sequence[str]) -> frozenset[str]:
        """Forget documents, except those that are verified by now; return which are gone."""
        ...

    async def get(self, digest: str) -> DocumentRow | None:
        """Return a document."""
        ...

    async def get_many(self, digests: Collection[str]) -> Mapping[str, DocumentRow]:
        """Return those of the documents that are kept, by digest."""
        ...

    async def list(
        self, kind: str = "", project: str = "", cell: str = "", cursor: str = "", limit: int = 100
    ) -> Page[DocumentRow]:
        """Return documents in the order they were kept, filtered by what is not empty; raises store/bad-cursor."""
        ...

    async def entries(self, digests: Collection[str]) -> Mapping[str, DocumentEntry]:
        """Return what is known of those of the documents that are kept, by digest."""
        ...

    async def current(
        self, newest: int, keys: Collection[CellKey] | None = None, environments: Collection[str] | None = None
    ) -> Mapping[CellKey, Sequence[DocumentEntry]]:
        """Return the current documents of cells, passing over sequences beyond ``newest``; None for any key.

        In no order; a key without any is absent.
        """
        ...

    async def keys(self) -> frozenset[CellKey]:
        """Return the keys with a current document."""
        ...

    async def naming(self, digests: Collection[str]) -> frozenset[CellKey]:
        """Return the keys of which a current document is one of these, or names one as its subject or fallback."""
        ...

    async def approvals(self, subjects: Collection[str]) -> Sequence[DocumentEntry]:
        """Return the verified approvals of documents, in the order they were kept."""
        ...

    async def named(self, digests: Collection[str]) -> frozenset[str]:
        """Return those that a Deployment names, as subject or fallback, on which any signature counts."""
        ...

    async def taken(self, numbers: Collection[tuple[CellKey, int]]) -> Mapping[tuple[CellKey, int], str]:
        """Return the verified documents that have these sequences, where there are any."""
        ...

    async def ahead(self, newest: int) -> bool:
        """Whether a current document has a sequence beyond ``newest``."""
        ...

    async def usage(self, project: str) -> Usage:
        """Return what a project has."""
        ...

    async def places(self, project: str, besides: Collection[tuple[str, str]] = ()) -> int:
        """Return in how many pairs of cell and environment a project has a current document, with those given."""
        ...

    async def loose(self, project: str, *, once: bool) -> Sequence[DocumentEntry]:
        """Return a project's documents that are not verified, in the order they were kept.

        Without ``once`` those that were verified before are left out: there may be as many as were ever kept.
        """
        ...
