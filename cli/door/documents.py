"""Documents of a hub, each verified by the trusted keyring before anything is made of it.

A hub is believed about existence: that it has a document, and what verified documents it shows say. It is never
believed about what is newest: what it hides or lists in another order changes no byte that is signed, beyond a number
or a time that is bounded by this machine's clock (``cellward.documents.numbers``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from cellward.errors import CellwardError, NotFound
from cli import errors
from cli.door.pages import every
from cli.output import say, short

if TYPE_CHECKING:
    from datetime import datetime

    from cellward.api import schemas
    from cellward.documents.dsse import Envelope
    from cellward.documents.keyring import KeyringEntry, Verifier
    from cellward.documents.model import ClusterEndorsement, Deployment, Document, Release, Tombstone
    from cli.door.client import Client

    _D = TypeVar("_D", bound=Document)
    _Numbered = Deployment | Tombstone
else:
    _D = TypeVar("_D")

#: Most listed documents of a cell that are read, and of each kind most that are fetched and verified.
MAX_LISTED, MAX_VERIFIED = 5000, 8


@dataclass(frozen=True, slots=True)
class Vouched(Generic[_D]):
    """A document with its payload and whom the keyring names as its signers."""

    document: _D
    digest: str
    payload: bytes
    signers: tuple[KeyringEntry, ...]


class HubDocuments:
    """What a hub has, as far as signatures go; ``verifier`` is asked for when the first document is looked at."""

    def __init__(self, client: Client, verifier: Callable[[], Verifier], now: datetime) -> None:
        self._client = client
        self._make = verifier
        self._now = now
        self._kept: Verifier | None = None

    def numbered(self, project: str, cell: str) -> tuple[_Numbered, ...]:
        """Verified Deployments and tombstones of a cell, of those listed with the highest numbers.

        Empty where there is no keyring to verify by: then the number comes from the clock and from memory.
        """
        from cellward.documents.model import Deployment, Tombstone

        try:
            listed = [*self._listed("deployment", project, cell), *self._listed("tombstone", project, cell)]
            if not listed:
                return ()
            self._verifier()
        except CellwardError as error:
            if error.code.startswith("cli/"):
                raise
            say(f"note: documents of the hub are ignored: {error.message} [{error.code}]")
            return ()
        models: tuple[type[_Numbered], ...] = (Deployment, Tombstone)
        found = [self._or_none(digest, model) for model in models for digest in _highest(listed, model.kind)]
        return tuple(
            one.document
            for one in found
            if one is not None and (one.document.project, one.document.cell) == (project, cell)
        )

    def release(self, digest: str) -> Vouched[Release]:
        """The release of a digest; raises where the hub does not have it, or the keyring does not vouch for it."""
        from cellward.documents.model import Release

        return self._get(digest, Release)

    def deployment(self, digest: str) -> Vouched[Deployment]:
        """The Deployment of a digest; raises as ``release`` does."""
        from cellward.documents.model import Deployment

        return self._get(digest, Deployment)

    def shown(self, project: str, cell: str) -> Vouched[Release] | None:
        """The release that the hub shows for a cell, verified. For a person to look at: never for composing."""
        placed = [one for one in self.numbered(project, cell) if one.kind == "deployment"]
        for deployment in sorted(placed, key=lambda one: -one.sequence):
            found = self._or_none(getattr(deployment, "release_digest", ""), _release_model())
            if found is not None and (found.document.project, found.document.cell) == (project, cell):
                return found
        return None

    def endorsements(self) -> tuple[ClusterEndorsement, ...]:
        """Verified endorsements in force; a hub that hides one only makes its own word worth less."""
        from cellward.documents.model import ClusterEndorsement

        found = [self._or_none(item.digest, ClusterEndorsement) for item in self._listed("cluster", "", "")]
        documents = [one.document for one in found if one is not None]
        return tuple(one for one in documents if one.issued_at <= self._now <= one.not_after)

    def has(self, digest: str) -> bool:
        """Whether the hub says that it has a document: existence, nothing else."""
        from cellward.api import schemas

        try:
            return self._client.get(f"/documents/{digest}", schemas.Document).digest == digest
        except NotFound:
            return False

    def _listed(self, kind: str, project: str, cell: str) -> Iterator[schemas.DocumentSummary]:
        from cellward.api import schemas

        found = every(
            lambda cursor: self._client.get(
                "/documents", schemas.DocumentList, kind=kind, project=project, cell=cell, cursor=cursor, limit=500
            )
        )
        return (item for item in islice(found, MAX_LISTED) if item.kind == kind)

    def _or_none(self, digest: str, model: type[_D]) -> Vouched[_D] | None:
        try:
            return self._get(digest, model)
        except CellwardError as error:
            if error.code.startswith("cli/hub-un"):
                raise
            say(f"note: ignored {model.kind} {short(digest)} of the hub: {error.message}")
            return None

    def _get(self, digest: str, model: type[_D]) -> Vouched[_D]:
        from cellward.api import schemas
        from cellward.documents.dsse import parse_envelope

        verifier = self._verifier()
        envelope = self._client.get(f"/documents/{digest}", schemas.Document).envelope
        # Whether it has run out, or its signer retired, does not matter for what it says.
        found = verifier.verify(envelope, model, now=self._now, accepted=True)
        if found.digest != digest:
            raise errors.BAD_ANSWER(f"the hub answered with {short(found.digest)} when asked for {short(digest)}")
        return Vouched(found.document, digest, parse_envelope(envelope).payload, found.signers)

    def _verifier(self) -> Verifier:
        if self._kept is None:
            self._kept = self._make()
        return self._kept


def _release_model() -> type[Release]:
    from cellward.documents.model import Release

    return Release


def _highest(listed: Sequence[schemas.DocumentSummary], kind: str) -> list[str]:
    """Digests of those listed with the highest numbers; what is listed only says where to look first."""
    ordered = sorted((one for one in listed if one.kind == kind), key=lambda one: -one.sequence)
    return list(dict.fromkeys(one.digest for one in ordered))[:MAX_VERIFIED]


def upload(client: Client, envelopes: Sequence[Envelope]) -> schemas.UploadResult:
    """Hand signed documents to the hub, all or none."""
    from cellward.api import schemas
    from cellward.documents.dsse import dump_envelope

    body = schemas.DocumentUpload(envelopes=[dump_envelope(envelope) for envelope in envelopes])
    return client.post("/documents", body, schemas.UploadResult)


def try_out(client: Client, payloads: Sequence[tuple[str, bytes]]) -> schemas.TrialResult:
    """Ask the hub what unsigned payloads would change; each with its payload type."""
    from cellward.api import schemas

    body = schemas.DocumentTrial(
        payloads=[schemas.UnsignedPayload(payload_type=kind, payload=payload) for kind, payload in payloads]
    )
    return client.post("/documents/trials", body, schemas.TrialResult)
