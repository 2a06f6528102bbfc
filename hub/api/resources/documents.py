"""Signed documents: verified as a service, indexed, and carried."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cellward.api import schemas
from hub.api.auth import require_scope
from hub.api.resources import convert
from hub.api.routing import Call, Page, RouteTable
from hub.fleet.model import IndexEntry
from hub.store.interfaces import DocumentRow

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
)
async def upload_documents(call: Call) -> schemas.UploadResult:
    """Take signed documents that verify, all or none; what agents make of them is their own decision."""
    body = call.body(schemas.DocumentUpload)
    call.details["count"] = str(len(body.envelopes))
    call.rates.documents(call.principal, len(body.envelopes))

    def permit(entry: IndexEntry) -> None:
        call.details.update(project=entry.project, cell=entry.cell)
        require_scope(call.principal, entry.project, entry.environments)

    accepted = await call.services.fleet.accept(body.envelopes, dry_run=body.dry_run, permit=permit)
    call.subject = f"Document//{accepted.entries[0].digest}" if accepted.entries else ""
    return schemas.UploadResult(
        items=[convert.document(entry) for entry in accepted.entries],
        clusters=list(accepted.clusters),
        dry_run=body.dry_run,
    )


@routes.get("/documents", role="viewer", response=schemas.DocumentList, query=DocumentQuery, reach="own")
async def list_documents(call: Call) -> schemas.DocumentList:
    """List documents, newest last; those that the token is for."""
    query = call.query(DocumentQuery)
    project = query.project
    if not project and len(call.principal.projects) == 1:
        project = call.principal.projects[0].replace("*", "")
    page = await call.services.fleet.documents(
        kind=query.kind, project=project, cell=query.cell, cursor=query.cursor, limit=query.limit
    )
    items = [convert.document(row) for row in page.items if _reached(call, row)]
    return schemas.DocumentList(items=items, next_cursor=page.cursor)


@routes.get("/documents/{digest}", role="viewer", response=schemas.Document, reach="own")
async def get_document(call: Call) -> schemas.Document:
    """Show one document with its envelope."""
    row = await call.services.fleet.document(call.name("digest"))
    if not _reached(call, row):
        require_scope(call.principal, row.project, row.environments)
    return schemas.Document(**convert.document(row).model_dump(), envelope=row.envelope)


def _reached(call: Call, row: DocumentRow) -> bool:
    """Whether the token is for something the document is about; a release is about no environment in particular."""
    if not row.environments:
        return call.principal.covers(row.project)
    return any(call.principal.covers(row.project, (environment,)) for environment in row.environments)
