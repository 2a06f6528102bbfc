"""The audit log: pages, the whole as an export, and the signed head."""

from __future__ import annotations

import asyncio
import json
import re

import structlog
from aiohttp import web
from pydantic import Field

from cellward.api import schemas
from cellward.audit.record import HUB_ORIGIN
from cellward.errors import CellwardError
from hub.api.errors import BAD_CURSOR
from hub.api.routing import Call, Query, RouteTable
from hub.audit.model import IndexedRecord

routes = RouteTable("audit")
#: Seconds whoever exports the log may take to read on.
PATIENCE = 30.0
#: No log grows beyond what JSON keeps exactly.
_INDEX = re.compile(r"[0-9]{1,15}\Z")
_log = structlog.get_logger()


class RecordQuery(Query):
    """Paging by index of the log."""

    cursor: str = Field(
        default="", max_length=20, description="nextCursor of the page before; empty for the beginning."
    )
    limit: int = Field(default=100, ge=1, le=1000)
    newest: bool = Field(default=False, description="Start with the newest page; only without a cursor.")


@routes.get("/audit/records", role="viewer", response=schemas.AuditPage, query=RecordQuery)
async def list_audit_records(call: Call) -> schemas.AuditPage:
    """Page through the log, oldest first; the cursor can be asked again later for what is new."""
    query, audit = call.query(RecordQuery), call.services.audit
    if query.cursor and not _INDEX.match(query.cursor):
        raise BAD_CURSOR("the cursor is not an index of the log")
    start = int(query.cursor or 0)
    if query.newest and not query.cursor:
        start = max(0, (await audit.head()).size - query.limit)
    records = await audit.tail(start, query.limit)
    after = records[-1].index + 1 if records else start
    return schemas.AuditPage(items=[_record(record) for record in records], next_cursor=str(after))


@routes.get("/audit/checkpoint", role="viewer", response=schemas.Checkpoint, reach="shared")
async def get_audit_checkpoint(call: Call) -> schemas.Checkpoint:
    """Return the newest signed tree head."""
    head = await call.services.audit.head()
    return schemas.Checkpoint(size=head.size, root=head.root, note=head.note.decode("utf-8"))


@routes.get("/audit/export", role="viewer", response=None, media_type="application/x-ndjson")
async def export_audit(call: Call) -> web.StreamResponse:
    """Stream the whole log for offline verification."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    await call.services.realm.require()
    await call.services.audit.head()
    await response.prepare(call.request)

    async def write(piece: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await response.write(piece)

    try:
        await call.services.audit.export(write)
    except (CellwardError, TimeoutError) as error:
        # The status line is out already: cut the answer off, so that nobody takes a part for the whole.
        code = error.code if isinstance(error, CellwardError) else "reads-too-slowly"
        _log.warning("export-cut", code=code, correlation_id=call.request_id)
        if call.request.transport is not None:
            call.request.transport.abort()
        return response
    await response.write_eof()
    return response


def _record(found: IndexedRecord) -> schemas.AuditRecord:
    """Show a record; its bytes were checked when they were taken, and the reader may check them again."""
    body = json.loads(found.record)
    shown = {name: body[name] for name in _SHOWN if name in body}
    shown["correlation_id"] = body.get("correlationId", "")
    # An agent may leave its name out, or be one of before its join: the certificate it came with says whose it is.
    shown["cluster"] = found.cluster or shown.get("cluster", "")
    shown["writer"] = "hub" if shown.get("origin") == HUB_ORIGIN else "agent"
    return schemas.AuditRecord(index=found.index, record=found.record, **shown)


_SHOWN = (
    "origin",
    "cluster",
    "epoch",
    "seq",
    "time",
    "actor",
    "action",
    "object",
    "decision",
    "code",
    "reason",
    "rule",
    "details",
)
