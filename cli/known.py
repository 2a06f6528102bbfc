"""What was deployed before, read from the hub and believed only as far as the local keyring's signatures go.

A stolen hub could otherwise have an author sign the port of somebody else's service, or burn every sequence number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cellward.errors import CellwardError
from cli.output import say, short

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from cellward.api import schemas
    from cellward.documents.keyring import Verifier
    from cellward.documents.model import Deployment, Document, Release, Tombstone
    from cli.client import Client

    _D = TypeVar("_D", bound=Document)
    _M = TypeVar("_M", Deployment, Tombstone)


@dataclass(frozen=True, slots=True)
class Placed:
    """A Deployment and the release it places, both verified."""

    digest: str
    deployment: Deployment
    release: Release


class KnownDocuments:
    """Verified documents of a hub."""

    def __init__(self, client: Client, verifier: Verifier, now: datetime) -> None:
        self._client = client
        self._verifier = verifier
        self._now = now

    def newest(self, project: str, cell: str) -> Placed | None:
        """The verified Deployment of the highest sequence with its release, None when there is none."""
        from cellward.documents.model import Deployment, Release

        for summary in sorted(self._list("deployment", project, cell), key=lambda item: -item.sequence):
            deployment = self._verified(summary.digest, Deployment)
            if deployment is None or (deployment.project, deployment.cell) != (project, cell):
                continue
            release = self._verified(deployment.release_digest, Release)
            if release is not None and (release.project, release.cell) == (project, cell):
                return Placed(summary.digest, deployment, release)
        return None

    def sequence(self, project: str, cell: str) -> int:
        """The highest sequence of a verified Deployment or tombstone, 0 for none."""
        from cellward.documents.model import Deployment, Tombstone

        return max(self._highest(project, cell, Deployment), self._highest(project, cell, Tombstone))

    def _highest(self, project: str, cell: str, model: type[_M]) -> int:
        for summary in sorted(self._list(model.kind, project, cell), key=lambda item: -item.sequence):
            document = self._verified(summary.digest, model)
            if document is not None and (document.project, document.cell) == (project, cell):
                return document.sequence
        return 0

    def _list(self, kind: str, project: str, cell: str) -> Iterator[schemas.DocumentSummary]:
        from cellward.api import schemas

        cursor = ""
        while True:
            page = self._client.get(
                "/documents", schemas.DocumentList, kind=kind, project=project, cell=cell, cursor=cursor, limit=500
            )
            yield from page.items
            cursor = page.next_cursor
            if not cursor:
                return

    def _verified(self, digest: str, model: type[_D]) -> _D | None:
        from cellward.api import schemas

        try:
            envelope = self._client.get(f"/documents/{digest}", schemas.Document).envelope
            # It was accepted before: whether it has expired since does not matter for what it says.
            found = self._verifier.verify(envelope, model, now=self._now, accepted=True)
        except CellwardError as error:
            if error.code.startswith(("cli/", "api/")):
                raise
            say(f"ignored {model.kind} {short(digest)} of the hub: {error.message}")
            return None
        return found.document if found.digest == digest else None
