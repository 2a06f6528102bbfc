"""The audit log: pages, the whole as an export, and the signed head."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from pydantic import Field

from cellward.api import schemas, upkeep
from cellward.audit.record import HUB_ORIGIN
from cellward.errors import CellwardError
from hub.api.errors import BAD_CURSOR, BAD_REQUEST
from hub.api.routing import Call, Query, RouteTable
from hub.audit.model import IndexedRecord
from hub.audit.segments import Segment

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
    if query.cursor:
        await call.services.segments.require(start)
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
    """Stream the log for offline verification: all of it, or what follows the segments that were pruned."""
    await call.services.realm.require()
    await call.services.audit.head()
    return await _stream(call, call.services.audit.export)


@routes.get("/audit/segments", role="viewer", response=upkeep.AuditSegmentList)
async def list_audit_segments(call: Call) -> upkeep.AuditSegmentList:
    """List the sealed segments of the log, oldest first."""
    return upkeep.AuditSegmentList(items=[_segment(found) for found in await call.services.segments.list()])


@routes.get("/audit/segments/{number}", role="viewer", response=None, media_type="application/x-ndjson")
async def export_audit_segment(call: Call) -> web.StreamResponse:
    """Stream a sealed segment: the same bytes each time."""
    number, segments = _number(call), call.services.segments
    await segments.get(number)
    return await _stream(call, lambda write: segments.export(number, write))


@routes.post(
    "/audit/segments/{number}/prune",
    role="admin",
    request=upkeep.SegmentPrune,
    response=upkeep.AuditSegment,
    action="audit.prune",
)
async def prune_audit_segment(call: Call) -> upkeep.AuditSegment:
    """Forget the records of the oldest segment that is here; its hashes stay, and so does what they prove."""
    number, digest = _number(call), call.body(upkeep.SegmentPrune).digest
    call.subject = f"AuditSegment//{number}"
    call.details["digest"] = digest
    return _segment(await call.services.segments.prune(number, digest, call.commit))


def _number(call: Call) -> int:
    """Return the segment's number; raises api/bad-request."""
    text = call.name("number")
    if not _INDEX.match(text):
        raise BAD_REQUEST(f"{text[:80]!r} is not the number of a segment", parameter="number")
    return int(text)


def _segment(found: Segment) -> upkeep.AuditSegment:
    return upkeep.AuditSegment(number=found.number, first=found.first, end=found.end, pruned=found.pruned)


async def _stream(
    call: Call, export: Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    await response.prepare(call.request)

    async def write(piece: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await response.write(piece)

    try:
        await export(write)
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
