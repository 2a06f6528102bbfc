"""Content and telemetry over the link port: bounded, resumable, filed under the certificate's name (V3, V13, V16)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import content_pb2, content_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc
from hub.sync.limits import SyncLimits
from hub.sync.services import CHUNK
from tests.fakes.bare_agent import BareAgent, failure
from tests.fakes.ports import FakeLinkHub


@pytest.fixture
async def here() -> AsyncIterator[FakeLinkHub]:
    """A hub on loopback."""
    async with FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1)).running() as hub:
        yield hub


@pytest.fixture
async def channel(here: FakeLinkHub) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of eu-1."""
    agent = BareAgent("eu-1")
    await agent.join(here, await here.invite("eu-1"))
    async with agent.channel(here) as opened:
        yield opened


async def fetch(channel: grpc.aio.Channel, request: content_pb2.FetchRequest) -> list[content_pb2.Chunk]:
    """All chunks of one fetch."""
    return [chunk async for chunk in content_pb2_grpc.ContentStub(channel).Fetch(request)]


async def test_content_comes_in_chunks_and_from_an_offset(here: FakeLinkHub, channel: grpc.aio.Channel) -> None:
    """Chunks of 64 KiB; an interrupted fetch goes on where it ended."""
    data = os.urandom(3 * CHUNK + 17)
    digest = here.content.put(data)
    whole = await fetch(channel, content_pb2.FetchRequest(digest=digest))
    assert b"".join(chunk.data for chunk in whole) == data
    assert {chunk.total for chunk in whole} == {len(data)}
    assert max(len(chunk.data) for chunk in whole) == CHUNK
    rest = await fetch(channel, content_pb2.FetchRequest(digest=digest, offset=CHUNK + 1))
    assert b"".join(chunk.data for chunk in rest) == data[CHUNK + 1 :]
    end = await fetch(channel, content_pb2.FetchRequest(digest=digest, offset=len(data)))
    assert [(chunk.total, chunk.data) for chunk in end] == [(len(data), b"")]
    beyond = content_pb2.FetchRequest(digest=digest, offset=len(data) + 1)
    assert (await failure(fetch(channel, beyond)))[1] == "link/bad-offset"


async def test_an_envelope_that_gained_a_signature_is_fetched_with_it(
    here: FakeLinkHub, channel: grpc.aio.Channel
) -> None:
    """A digest is that of the payload: the listener asks its port each time, which knows when an envelope changed."""
    digest = here.content.put(b"one signature")
    assert (await fetch(channel, content_pb2.FetchRequest(digest=digest)))[0].data == b"one signature"
    here.content.blobs[digest] = b"two signatures"
    assert (await fetch(channel, content_pb2.FetchRequest(digest=digest)))[0].data == b"two signatures"


async def test_tuf_metadata_by_role_and_version_and_absence_is_an_answer(
    here: FakeLinkHub, channel: grpc.aio.Channel
) -> None:
    """The newest without a version; what is not there is said to be absent, not an error."""
    here.content.metadata = {("timestamp", 3): b"three", ("timestamp", 4): b"four", ("root", 1): b"root"}

    async def tuf(role: str, version: int) -> content_pb2.Chunk:
        wanted = content_pb2.TufMetadata(role=role, version=version)
        return (await fetch(channel, content_pb2.FetchRequest(tuf=wanted)))[0]

    assert (await tuf("timestamp", 0)).data == b"four"
    assert (await tuf("timestamp", 3)).data == b"three"
    assert (await tuf("root", 2)).absent
    assert (await tuf("nobody", 0)).absent


@pytest.mark.parametrize(
    "request_",
    [
        content_pb2.FetchRequest(),
        content_pb2.FetchRequest(digest="../../etc/passwd"),
        content_pb2.FetchRequest(digest="sha256:" + "A" * 64),
        content_pb2.FetchRequest(tuf=content_pb2.TufMetadata(role="../root")),
        content_pb2.FetchRequest(tuf=content_pb2.TufMetadata(role="")),
    ],
)
async def test_v16_malformed_fetches_are_refused(channel: grpc.aio.Channel, request_: content_pb2.FetchRequest) -> None:
    """V16: digests and roles are whole names, never paths."""
    assert await failure(fetch(channel, request_)) == (grpc.StatusCode.INVALID_ARGUMENT, "wire/bad-message")


async def test_v13_audit_is_acknowledged_batch_by_batch_under_the_certificates_name(
    here: FakeLinkHub, channel: grpc.aio.Channel
) -> None:
    """V13: what is acknowledged was taken; a gap is answered with the number expected, on the same stream."""
    push: Any = telemetry_pb2_grpc.TelemetryStub(channel).PushAudit()
    await push.write(telemetry_pb2.AuditBatch(epoch=1, first_seq=1, records=[b"a", b"b"]))
    assert (await push.read()).seq == 2
    await push.write(telemetry_pb2.AuditBatch(epoch=1, first_seq=9, records=[b"z"]))
    refused = await push.read()
    assert (refused.refused_code, refused.expected_seq) == ("audit/gap", 3)
    await push.write(telemetry_pb2.AuditBatch(epoch=1, first_seq=3, records=[b"c"]))
    assert (await push.read()).seq == 3
    await push.done_writing()
    assert await push.code() is grpc.StatusCode.OK
    assert here.audit.records == {"eu-1": [b"a", b"b", b"c"]}


async def test_v16_a_batch_beyond_its_bound_is_refused(here: FakeLinkHub, channel: grpc.aio.Channel) -> None:
    """V16: the number of records is bounded as well as their size."""
    push: Any = telemetry_pb2_grpc.TelemetryStub(channel).PushAudit()
    await push.write(telemetry_pb2.AuditBatch(epoch=1, first_seq=1, records=[b""] * 5000))
    assert await push.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert here.audit.records == {}


async def test_metrics_are_filed_under_the_certificates_name(here: FakeLinkHub, channel: grpc.aio.Channel) -> None:
    """V3: the newest snapshot of eu-1, whatever a label says."""
    push: Any = telemetry_pb2_grpc.TelemetryStub(channel).PushMetrics()
    for seq in (1, 2):
        await push.write(telemetry_pb2.MetricsBatch(seq=seq))
        assert (await push.read()).seq == seq
    await push.done_writing()
    assert here.metrics.snapshots["eu-1"].seq == 2
    assert set(here.metrics.snapshots) == {"eu-1"}
