"""Signed documents: verified as a service, indexed, and carried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from cellward.api import schemas
from cellward.documents.dsse import Envelope, dump_envelope
from hub.api.auth import require_scope
from hub.api.resources import convert
from hub.api.routing import Call, Page, RouteTable
from hub.documents.model import Accepted
from hub.placement.model import IndexEntry
from hub.store.documents import DocumentRow
from hub.store.log import AuditEvent

routes = RouteTable("documents")


class DocumentQuery(Page):
    """Filters of the list."""

    kind: Literal["", "release", "deployment", "approval", "tombstone", "cluster"] = ""
    project: str = Field(default="", max_length=63)
    cell: str = Field(default="", max_length=63)


@routes.post(
    "/documents",
    role="deployer",
    request=schemas.DocumentUpload,
    response=schemas.UploadResult,
    action="document.upload",
    status=201,
    reach="own",
    large=True,
)
async def upload_documents(call: Call) -> schemas.UploadResult:
    """Take signed documents that verify, all or none; what agents make of them is their own decision."""
    body = call.body(schemas.DocumentUpload)
    call.details["count"] = str(len(body.envelopes))
    call.rates.documents(call.principal, len(body.envelopes))

    def describe(accepted: Accepted) -> list[AuditEvent]:
        return _describe(call, accepted)

    commit = call.committing(describe)
    accepted = await call.services.documents.accept(body.envelopes, permit=_permit(call), commit=commit)
    return schemas.UploadResult(
        items=[convert.document(entry) for entry in accepted.entries],
        clusters=list(accepted.clusters),
    )


@routes.post(
    "/documents/trials",
    role="deployer",
    request=schemas.DocumentTrial,
    response=schemas.TrialResult,
    action="document.try",
    reach="own",
    large=True,
)
async def try_documents(call: Call) -> schemas.TrialResult:
    """Say what documents would change. It takes payloads, not envelopes, so that a dry run needs no signature."""
    body = call.body(schemas.DocumentTrial)
    call.details["count"] = str(len(body.payloads))
    call.rates.documents(call.principal, len(body.payloads))
    unsigned = [dump_envelope(Envelope(one.payload_type, one.payload, ())) for one in body.payloads]
    tried = await call.services.documents.accept(unsigned, dry_run=True, permit=_permit(call))
    return schemas.TrialResult(clusters=list(tried.clusters))


@routes.get("/documents", role="viewer", response=schemas.DocumentList, query=DocumentQuery, reach="own")
async def list_documents(call: Call) -> schemas.DocumentList:
    """List documents, newest last; those that the token is for."""
    query = call.query(DocumentQuery)
    project = query.project
    if not project and len(call.principal.projects) == 1:
        project = call.principal.projects[0].replace("*", "")
    page = await call.services.documents.list(
        kind=query.kind, project=project, cell=query.cell, cursor=query.cursor, limit=query.limit
    )
    items = [convert.document(row) for row in page.items if _reached(call, row)]
    return schemas.DocumentList(items=items, next_cursor=page.cursor)


@routes.get("/documents/{digest}", role="viewer", response=schemas.Document, reach="own")
async def get_document(call: Call) -> schemas.Document:
    """Show one document with its envelope."""
    row = await call.services.documents.get(call.name("digest"))
    if not _reached(call, row):
        require_scope(call.principal, row.project, row.environments)
    return schemas.Document(**convert.document(row).model_dump(), envelope=row.envelope)


def _describe(call: Call, accepted: Accepted) -> list[AuditEvent]:
    """Name what was uploaded, and return a record for each document that made way."""
    call.subject = f"Document//{accepted.entries[0].digest}" if accepted.entries else ""
    return [
        AuditEvent(
            call.principal.subject,
            "document.drop",
            f"Document//{gone.digest}",
            "done",
            reason=f"it is {gone.standing} and made way for {call.subject}",
            correlation_id=call.request_id,
            details={"project": gone.project, "cell": gone.cell},
        )
        for gone in accepted.dropped
    ]


def _permit(call: Call) -> Callable[[IndexEntry], None]:
    """Whether the token is for a document; what it is about goes into the audit record."""

    def permit(entry: IndexEntry) -> None:
        call.details.update(project=entry.project, cell=entry.cell)
        require_scope(call.principal, entry.project, entry.environments)

    return permit


def _reached(call: Call, row: DocumentRow) -> bool:
    """Whether the token is for something the document is about; a release is about no environment in particular."""
    if not row.environments:
        return call.principal.covers(row.project)
    return any(call.principal.covers(row.project, (environment,)) for environment in row.environments)
