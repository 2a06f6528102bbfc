"""A bare agent for tests of the hub's listeners: keys, certificates and channels, and frames one by one."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import grpc.aio

from cellward.identity import keys
from cellward.identity.names import HUB_DNS_NAME
from cellward.identity.x509 import make_csr
from cellward.wire.v1 import enrolment_pb2, enrolment_pb2_grpc, link_pb2, link_pb2_grpc, types_pb2
from tests.fakes.authority import REALM
from tests.fakes.ports import FakeLinkHub

_OPTIONS = [("grpc.ssl_target_name_override", HUB_DNS_NAME), ("grpc.use_local_subchannel_pool", 1)]


async def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Poll a condition until it holds; fails the test by ``what`` after the deadline."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.01)


@dataclass
class BareAgent:
    """Keys of one agent, and its certificate once it joined."""

    name: str
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    chain_pem: bytes = b""
    hub_ca_pem: bytes = b""

    def __post_init__(self) -> None:
        self.key = keys.new_tls_key()
        self.statement_key = keys.new_signing_key()

    async def join(self, here: FakeLinkHub, token: str, **more: Any) -> enrolment_pb2.JoinResponse:
        """Join over the enrolment listener; fields of the request can be exchanged."""
        fields = {
            "token": token,
            "csr_der": make_csr(self.key),
            "realm": REALM,
            "cluster_uid": self.uid,
            "statement_spki_der": keys.spki_of(self.statement_key),
            **more,
        }
        credentials = grpc.ssl_channel_credentials(here.hub.authority.hub_ca_pem)
        async with grpc.aio.secure_channel(here.enrolment.address, credentials, _OPTIONS) as channel:
            answer: enrolment_pb2.JoinResponse = await enrolment_pb2_grpc.EnrolmentStub(channel).Join(
                enrolment_pb2.JoinRequest(**fields)
            )
        self.chain_pem = answer.certificate_chain_pem.encode()
        self.hub_ca_pem = answer.hub_ca_pem.encode()
        return answer

    def channel(self, here: FakeLinkHub, *options: tuple[str, Any], address: str = "") -> grpc.aio.Channel:
        """A channel to the link with this agent's certificate."""
        credentials = grpc.ssl_channel_credentials(
            here.hub.authority.hub_ca_pem, keys.private_to_pem(self.key, None), self.chain_pem
        )
        return grpc.aio.secure_channel(address or here.link.address, credentials, [*_OPTIONS, *options])

    def hello(self, **more: Any) -> link_pb2.Hello:
        """A good Hello; fields can be exchanged."""
        fields: dict[str, Any] = {
            "protocol_min": 1,
            "protocol_max": 1,
            "realm": REALM,
            "boot_id": f"boot-of-{self.name}",
            "facts": types_pb2.ClusterFacts(uid=self.uid, environments=["dev"], projects=["*"]),
            "statement_keyid": keys.spki_digest(keys.spki_of(self.statement_key)),
        }
        return link_pb2.Hello(**{**fields, **more})


@dataclass
class BareStream:
    """One Sync stream, frame by frame."""

    call: Any
    stream_id: str
    seq: int = 0
    received: int = 0

    async def send(self, **body: Any) -> None:
        """Send the next frame; ``seq``, ``stream_id`` or ``ack`` can be forced."""
        self.seq = body.pop("seq", self.seq + 1)
        stream_id, ack = body.pop("stream_id", self.stream_id), body.pop("ack", self.received)
        await self.call.write(link_pb2.AgentFrame(stream_id=stream_id, seq=self.seq, ack=ack, **body))

    async def receive(self, body: str | None = None, seconds: float = 30.0) -> link_pb2.HubFrame:
        """Next frame, checked for its number; with ``body`` heartbeats are passed over and the kind is checked."""
        while True:
            async with asyncio.timeout(seconds):
                frame = await self.call.read()
            assert frame is not grpc.aio.EOF, await self.ended()
            assert frame.seq == self.received + 1
            assert frame.stream_id == self.stream_id
            self.received = frame.seq
            if body is None or frame.WhichOneof("body") == body:
                return cast(link_pb2.HubFrame, frame)
            assert frame.WhichOneof("body") == "heartbeat", frame

    async def ended(self, seconds: float = 30.0) -> tuple[grpc.StatusCode, str]:
        """Read what is left and wait for the end; returns its status and the code in its trailers.

        gRPC hands out a status only after every message before it was read.
        """
        async with asyncio.timeout(seconds):
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            status = await self.call.code()
            trailers = dict(await self.call.trailing_metadata())
        return status, str(trailers.get("cellward-code", ""))


@asynccontextmanager
async def stream(channel: grpc.aio.Channel, stream_id: str = "s-1") -> AsyncIterator[BareStream]:
    """Open a Sync stream; it is cancelled when the context ends."""
    call: Any = link_pb2_grpc.LinkStub(channel).Sync()
    try:
        yield BareStream(call, stream_id)
    finally:
        call.cancel()


async def failure(awaitable: Any) -> tuple[grpc.StatusCode, str]:
    """Status and Cellward code with which a call fails."""
    try:
        await awaitable
    except grpc.aio.AioRpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        return error.code(), str(trailers.get("cellward-code", ""))
    raise AssertionError("the call was let through")
