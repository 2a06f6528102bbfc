"""The two listeners agents dial, each on its own port: Python gRPC cannot ask for a client certificate optionally."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import structlog
from google.protobuf.descriptor import FileDescriptor

from cellward.runtime.clock import Clock
from cellward.runtime.supervise import Task
from cellward.runtime.tasks import first_of, stopped_within
from cellward.wire.v1 import (
    content_pb2,
    content_pb2_grpc,
    enrolment_pb2,
    enrolment_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    link_pb2,
    link_pb2_grpc,
    telemetry_pb2,
    telemetry_pb2_grpc,
)
from hub.authority.interfaces import Events
from hub.authority.service import IdentityService
from hub.authority.servicer import EnrolmentServicer
from hub.front.front import Front
from hub.front.limits import ENROLMENT, LINK, FrontLimits
from hub.front.through import Through
from hub.sync.changes import ChangesPort
from hub.sync.errors import CANNOT_LISTEN
from hub.sync.gate import PeerGate
from hub.sync.guard import Guard, Observe, Strangers, unobserved
from hub.sync.interfaces import SyncPorts
from hub.sync.known import KnownPeers
from hub.sync.limits import SyncLimits
from hub.sync.link import LinkServicer
from hub.sync.refusals import Refusals
from hub.sync.services import ContentServicer, IdentityServicer, TelemetryServicer
from hub.sync.session import HubFacts
from hub.sync.tls import RotatingLeaf

_log = structlog.get_logger()
DEFAULTS = SyncLimits()
#: Seconds for calls other than Sync once every Sync stream has ended.
_LAST_WORDS = 1.0
#: Topics of what says who may speak: bindings and a hub's own locks, and the signed ones.
_STANDING = ("clusters", "policy")


@dataclass(frozen=True, slots=True)
class Listener:
    """A server behind a bound address, not yet started. ``port`` is the real one when 0 was asked for.

    gRPC bounds connections in all and no address's share, so it listens on a Unix socket in a directory of this user's
    alone, and what comes from the network passes ``hub.front``.
    """

    server: grpc.aio.Server
    host: str
    front: Front
    place: Path

    @property
    def port(self) -> int:
        """Port listened on."""
        return self.front.port

    async def start(self) -> None:
        """Begin to serve."""
        await self.server.start()
        self.front.start()

    async def stop(self, grace: float) -> None:
        """Take no newcomers, stop the server, and let go of every connection, also when this is cancelled."""
        try:
            await self.release()
            await self.server.stop(grace=grace)
        finally:
            await self.front.end()

    async def release(self) -> None:
        """Give the address back; also for a listener that was never started. Idempotent."""
        await self.front.close()
        shutil.rmtree(self.place, ignore_errors=True)

    @property
    def address(self) -> str:
        """Host and port, as dialled."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class LinkServer:
    """The mTLS listener, its streams, and the timer that looks at them again."""

    def __init__(
        self,
        *,
        listener: Listener,
        link: LinkServicer,
        gate: PeerGate,
        known: KnownPeers,
        leaf: RotatingLeaf,
        changes: ChangesPort,
        limits: SyncLimits,
    ) -> None:
        self._listener = listener
        self._gate = gate
        self._known = known
        self._leaf = leaf
        self._changes = changes
        self._limits = limits
        self._closing: asyncio.Future[None] | None = None
        self.link = link

    @property
    def front(self) -> Front:
        """What stands before it."""
        return self._listener.front

    async def release(self) -> None:
        """Give the address back, served or not."""
        await self._listener.release()

    @property
    def address(self) -> str:
        """Host and port of the link."""
        return self._listener.address

    def task(self, stop: asyncio.Event, *, grace: float = 5.0) -> Task:
        """The listener as a root task; its drain is named, or going down would begin with cutting streams off."""
        return Task("link", lambda: self.serve(stop, grace=grace), lambda: self.close(grace))

    async def serve(self, stop: asyncio.Event, *, grace: float = 5.0) -> None:
        """Serve until ``stop`` is set, with the recheck of V4 on its timer; then drain the streams and close."""
        await self._listener.start()
        _log.info("link-listening", address=self.address)
        try:
            async with self._changes.subscribe(*_STANDING) as changed:
                while not stop.is_set():
                    await self._gate.tick()
                    self._known.look()
                    self._leaf.rotate_if_due()
                    if (await first_of(stop.wait(), changed.wait(), seconds=self._limits.recheck))[1]:
                        # A fleet that joins or renews changes much at once: one look for all of it.
                        await stopped_within(stop, self._limits.settle)
        finally:
            await self.close(grace)

    async def close(self, grace: float) -> None:
        """Drain the streams and close; whoever asks waits for the same end, and nobody's cancellation cuts it short."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(grace))
        await asyncio.shield(self._closing)

    async def _close(self, grace: float) -> None:
        # No newcomers first: agents that were asked to come back would otherwise come back here, and never be gone.
        closing = asyncio.ensure_future(self._listener.stop(grace + _LAST_WORDS))
        await self.link.drain(grace)
        await self._listener.server.stop(grace=_LAST_WORDS)
        await closing


class EnrolmentServer:
    """The listener for those who have no certificate yet."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._closing: asyncio.Future[None] | None = None

    @property
    def front(self) -> Front:
        """What stands before it."""
        return self._listener.front

    async def release(self) -> None:
        """Give the address back, served or not."""
        await self._listener.release()

    @property
    def address(self) -> str:
        """Host and port of enrolment."""
        return self._listener.address

    def task(self, stop: asyncio.Event, *, grace: float = 2.0) -> Task:
        """The listener as a root task; joins in flight are finished in its drain."""
        return Task("enrolment", lambda: self.serve(stop, grace=grace), lambda: self.close(grace))

    async def serve(self, stop: asyncio.Event, *, grace: float = 2.0) -> None:
        """Serve until ``stop`` is set."""
        await self._listener.start()
        _log.info("enrolment-listening", address=self.address)
        try:
            await stop.wait()
        finally:
            await self.close(grace)

    async def close(self, grace: float) -> None:
        """Take no newcomers, let joins in flight finish, and close; nobody's cancellation cuts it short."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._listener.stop(grace))
        await asyncio.shield(self._closing)


def build_enrolment_server(  # noqa: PLR0913  a composition of parts, each by name
    *,
    identity: IdentityService,
    leaf: RotatingLeaf,
    link_address: Callable[[], str],
    host: str,
    port: int,
    clock: Clock,
    limits: SyncLimits = DEFAULTS,
    front: FrontLimits = ENROLMENT,
    observe: Observe = unobserved,
) -> EnrolmentServer:
    """Enrolment over server-authenticated TLS. ``link_address`` is what a Join answers as the address of the link."""
    strangers = Strangers(limits.first_message, limits.silent_per_address)
    server = grpc.aio.server(
        interceptors=(Guard(_methods(enrolment_pb2.DESCRIPTOR), strangers, observe),),
        options=limits.enrolment_options(),
        maximum_concurrent_rpcs=limits.enrolment_calls,
    )
    enrolment_pb2_grpc.add_EnrolmentServicer_to_server(EnrolmentServicer(identity, link_address), server)
    return EnrolmentServer(_bind(server, host, port, leaf.credentials(None), front, clock))


def build_link_server(  # noqa: PLR0913  a composition of parts, each by name
    *,
    ports: SyncPorts,
    identity: IdentityService,
    leaf: RotatingLeaf,
    facts: HubFacts,
    audit: Events,
    clock: Clock,
    host: str,
    port: int,
    limits: SyncLimits = DEFAULTS,
    front: FrontLimits = LINK,
    observe: Observe = unobserved,
) -> LinkServer:
    """The link over mTLS: Link, Content, Telemetry and Identity, all behind one guard."""
    authority = identity.authority
    gate = PeerGate(
        authorities=lambda: authority.agent_authorities,
        trust_domain=authority.trust_domain,
        directory=ports.directory,
        stamp=lambda: ports.changes.stamp(*_STANDING),
        clock=clock,
        view_age=limits.recheck,
        calls_per_cluster=limits.calls_per_cluster,
        copies=identity.copies,
    )
    services = (link_pb2.DESCRIPTOR, content_pb2.DESCRIPTOR, telemetry_pb2.DESCRIPTOR, identity_pb2.DESCRIPTOR)
    methods = [method for file in services for method in _methods(file)]
    known = KnownPeers(gate, front.per_owner)
    server = grpc.aio.server(
        interceptors=(Guard(methods, gate, observe, Refusals(audit, clock), known.hear),),
        options=limits.link_options(),
    )
    link = LinkServicer(ports=ports, facts=facts, limits=limits, clock=clock, copies=identity.copies)
    link_pb2_grpc.add_LinkServicer_to_server(link, server)
    content_pb2_grpc.add_ContentServicer_to_server(ContentServicer(ports.content), server)
    telemetry = TelemetryServicer(ports.audit, ports.metrics, limits, clock)
    telemetry_pb2_grpc.add_TelemetryServicer_to_server(telemetry, server)
    identity_pb2_grpc.add_IdentityServicer_to_server(IdentityServicer(identity), server)
    listener = _bind(server, host, port, leaf.credentials(lambda: authority.agent_ca_pem), front, clock)
    known.door = listener.front
    return LinkServer(
        listener=listener, link=link, gate=gate, known=known, leaf=leaf, changes=ports.changes, limits=limits
    )


def _methods(file: FileDescriptor) -> list[str]:
    """Full method names of a file's services: the allow-list is what was agreed, not what happens to be registered."""
    services = file.services_by_name.values()
    return [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]


def _bind(
    server: grpc.aio.Server,
    host: str,
    port: int,
    credentials: grpc.ServerCredentials,
    limits: FrontLimits,
    clock: Clock,
) -> Listener:
    place = Path(tempfile.mkdtemp(prefix="cellward-hub-"))
    path = str(place / "grpc")
    front: Front | None = None
    try:
        front = Front(host, port, limits, clock, Through(path))
        server.add_secure_port(f"unix:{path}", credentials)
    except (OSError, RuntimeError) as error:
        if front is not None:
            front.abandon()
        shutil.rmtree(place, ignore_errors=True)
        raise CANNOT_LISTEN(f"{host}:{port} cannot be listened on", address=f"{host}:{port}") from error
    return Listener(server, host, front, place)
