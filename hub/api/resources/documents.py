"""Signed documents: opaque to the hub beyond an index."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cellward.api import schemas
from hub.api.resources import convert
from hub.api.routing import Call, Page, RouteTable

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
)
async def upload_documents(call: Call) -> schemas.UploadResult:
    """Take signed documents, all or none; what agents make of them is their own decision."""
    body = call.body(schemas.DocumentUpload)
    call.details["count"] = str(len(body.envelopes))
    accepted = await call.services.fleet.accept(body.envelopes, dry_run=body.dry_run)
    call.subject = f"Document//{accepted.entries[0].digest}" if accepted.entries else ""
    return schemas.UploadResult(
        items=[convert.document(entry) for entry in accepted.entries],
        clusters=list(accepted.clusters),
        dry_run=body.dry_run,
    )


@routes.get("/documents", role="viewer", response=schemas.DocumentList, query=DocumentQuery)
async def list_documents(call: Call) -> schemas.DocumentList:
    """List documents, newest last."""
    query = call.query(DocumentQuery)
    page = await call.services.fleet.documents(
        kind=query.kind, project=query.project, cell=query.cell, cursor=query.cursor, limit=query.limit
    )
    return schemas.DocumentList(items=[convert.document(row) for row in page.items], next_cursor=page.cursor)


@routes.get("/documents/{digest}", role="viewer", response=schemas.Document)
async def get_document(call: Call) -> schemas.Document:
    """Show one document with its envelope."""
    row = await call.services.fleet.document(call.name("digest"))
    return schemas.Document(**convert.document(row).model_dump(), envelope=row.envelope)
