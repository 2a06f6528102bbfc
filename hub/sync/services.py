"""The plain services of the link port: content down, telemetry up, renewal. The Sync stream has its own modules."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from cellward.runtime.clock import Clock
from cellward.wire.codec import check_digest
from cellward.wire.errors import BAD_MESSAGE
from cellward.wire.v1 import (
    content_pb2,
    content_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    telemetry_pb2,
    telemetry_pb2_grpc,
)
from hub.authority.limits import Limiter, Rate
from hub.authority.service import IdentityService
from hub.sync.errors import BAD_OFFSET
from hub.sync.gate import current_peer
from hub.sync.interfaces import AuditPort, ContentPort, MetricsPort
from hub.sync.limits import SyncLimits

#: Bytes of content in one message.
CHUNK = 64 * 1024
#: Most audit records in one batch.
MAX_BATCH = 4096
_ROLE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?\Z")
_Context = grpc.aio.ServicerContext[Any, Any]


class ContentServicer(content_pb2_grpc.ContentServicer):
    """Serves opaque bytes in chunks; absent is a normal answer."""

    def __init__(self, content: ContentPort) -> None:
        self._content = content

    async def Fetch(  # noqa: N802 - the generated name
        self,
        request: content_pb2.FetchRequest,
        context: _Context,  # noqa: ARG002
    ) -> AsyncIterator[content_pb2.Chunk]:
        """Stream one piece of content from an offset. Raises wire/bad-message, link/bad-offset."""
        data = await self._read(request)
        if data is None:
            yield content_pb2.Chunk(absent=True)
            return
        if request.offset > len(data):
            raise BAD_OFFSET(f"offset {request.offset} of {len(data)} bytes")
        for start in range(request.offset, max(len(data), request.offset + 1), CHUNK):
            yield content_pb2.Chunk(total=len(data), data=data[start : start + CHUNK])

    async def _read(self, request: content_pb2.FetchRequest) -> bytes | None:
        what = request.WhichOneof("what")
        if what == "tuf":
            if not _ROLE.match(request.tuf.role):
                raise BAD_MESSAGE(f"{request.tuf.role[:80]!r} is not the name of a TUF role")
            return await self._content.tuf(request.tuf.role, request.tuf.version or None)
        if what == "policy_set":
            return await self._content.policy_set(request.policy_set.root_version, request.policy_set.snapshot_version)
        if what != "digest":
            raise BAD_MESSAGE("the request names no content")
        # Nothing is kept here: the digest is that of a payload, and its envelope may gain a signature.
        return await self._content.by_digest(current_peer().name, check_digest(request.digest))


class TelemetryServicer(telemetry_pb2_grpc.TelemetryServicer):
    """Takes audit records and metrics under the name the certificate proves."""

    def __init__(self, audit: AuditPort, metrics: MetricsPort, limits: SyncLimits, clock: Clock) -> None:
        self._audit = audit
        self._metrics = metrics
        self._least = limits.metrics_least
        self._pace = Limiter(Rate(limits.metrics_burst, limits.metrics_per_second), clock)

    async def PushAudit(  # noqa: N802 - the generated name
        self,
        request_iterator: AsyncIterator[telemetry_pb2.AuditBatch],
        context: _Context,  # noqa: ARG002
    ) -> AsyncIterator[telemetry_pb2.AuditAck]:
        """Acknowledge what is durable, batch by batch (V13)."""
        cluster = current_peer().name
        async for batch in request_iterator:
            if len(batch.records) > MAX_BATCH:
                raise BAD_MESSAGE(f"a batch of {len(batch.records)} records, at most {MAX_BATCH} are taken")
            ack = await self._audit.ingest(cluster, batch)
            # A stream mostly waits, for days; what it was sent last must not wait with it.
            del batch
            yield ack

    async def PushMetrics(  # noqa: N802 - the generated name
        self,
        request_iterator: AsyncIterator[telemetry_pb2.MetricsBatch],
        context: _Context,  # noqa: ARG002
    ) -> AsyncIterator[telemetry_pb2.MetricsAck]:
        """Take snapshots; the newest one wins. Who sends too much is not read until what it sent is paid for."""
        cluster = current_peer().name
        await asyncio.sleep(self._pace.wait(cluster))
        async for batch in request_iterator:
            self._pace.spend(cluster, max(self._least, batch.ByteSize()))
            ack = telemetry_pb2.MetricsAck(seq=batch.seq, refused=await self._metrics.push(cluster, batch))
            # A stream mostly waits, for days; what it was sent last must not wait with it.
            del batch
            yield ack
            await asyncio.sleep(self._pace.wait(cluster))


class IdentityServicer(identity_pb2_grpc.IdentityServicer):
    """Renews what the peer certificate already proves."""

    def __init__(self, service: IdentityService) -> None:
        self._service = service

    async def Renew(  # noqa: N802 - the generated name
        self,
        request: identity_pb2.RenewRequest,
        context: _Context,  # noqa: ARG002
    ) -> identity_pb2.RenewResponse:
        """Certificate for a new key and the name in the peer certificate; nothing else in the request counts (V3)."""
        issued = await self._service.renew(current_peer(), request.csr_der)
        return identity_pb2.RenewResponse(
            certificate_chain_pem=issued.chain_pem.decode("ascii"),
            hub_ca_pem=self._service.authority.hub_ca_pem.decode("ascii"),
            generation=issued.generation,
        )
