"""The Link service: one live stream per cluster, commands to whoever is connected, drain when the hub goes away."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Literal

import grpc.aio
import structlog

from cellward.errors import CellwardError
from cellward.runtime.clock import Clock
from cellward.wire.v1 import link_pb2, link_pb2_grpc
from hub.authority.copies import Copies
from hub.authority.limits import Limiter, Rate, peer_of
from hub.sync.errors import NOT_CONNECTED, TOO_MANY_HELLOS
from hub.sync.gate import current_peer
from hub.sync.interfaces import SyncPorts
from hub.sync.limits import SyncLimits
from hub.sync.session import HubFacts, SyncSession
from hub.sync.twins import Twins

CommandName = Literal["resync", "probe", "diagnose", "renew", "reconnect"]
#: How long a command is worth running.
COMMAND_LIFETIME = timedelta(minutes=2)
_KINDS: dict[CommandName, link_pb2.CommandKind.ValueType] = {
    "resync": link_pb2.COMMAND_KIND_RESYNC,
    "probe": link_pb2.COMMAND_KIND_PROBE,
    "diagnose": link_pb2.COMMAND_KIND_DIAGNOSE,
    "renew": link_pb2.COMMAND_KIND_RENEW,
    "reconnect": link_pb2.COMMAND_KIND_RECONNECT,
}
_log = structlog.get_logger()


class LinkServicer(link_pb2_grpc.LinkServicer):
    """Sync streams of all agents connected to this process."""

    def __init__(self, *, ports: SyncPorts, facts: HubFacts, limits: SyncLimits, clock: Clock, copies: Copies) -> None:
        self._ports = ports
        self._facts = facts
        self._limits = limits
        self._clock = clock
        self._twins = Twins(ports.directory, copies, clock)
        self._sessions: dict[str, SyncSession] = {}
        self._hellos = Limiter(Rate(limits.hellos, limits.hellos_per_second), clock)
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def Sync(  # type: ignore[override]  # noqa: N802 - it reads and writes itself
        self,
        request_iterator: AsyncIterator[link_pb2.AgentFrame],  # noqa: ARG002
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Serve one stream; refusals leave as a Refusal frame and then as the status of the call."""
        peer = current_peer()
        if not self._hellos.take(peer.name):
            # By the status alone: nothing was read, so the stream has no name that a frame could bear.
            raise TOO_MANY_HELLOS(f"cluster {peer.name} begins streams too often", cluster=peer.name)
        session = SyncSession(
            peer=peer,
            stream=context,
            ports=self._ports,
            facts=self._facts,
            limits=self._limits,
            clock=self._clock,
            twins=self._twins,
        )
        try:
            await session.introduce()
            await self._check_twin(session, peer_of(context.peer()))
            # Nothing is awaited between here and the try: what is registered is released.
            self._take_over(session)
            try:
                await self._ports.fleet.connected(session.cluster, session.stream_id)
                await session.run()
            finally:
                await self._release(session)
        except CellwardError as error:
            _log.warning("link-refused", cluster=session.cluster, stream=session.stream_id, code=error.code)
            await session.refuse(error)
            raise

    def connected(self) -> frozenset[str]:
        """Names of the clusters with a live stream on this process."""
        return frozenset(self._sessions)

    def send_command(self, cluster: str, kind: CommandName, subject: str = "") -> str:
        """Send a command to a connected cluster; returns its id.

        Raises link/not-connected. ``kind`` is one of a closed list (V2).
        """
        session = self._sessions.get(cluster)
        if session is None:
            raise NOT_CONNECTED(f"cluster {cluster} has no open link to this hub", cluster=cluster)
        command = link_pb2.Command(
            id=str(uuid.uuid4()),
            kind=_KINDS[kind],
            boot_id=session.boot_id,
            expires_unix=int((self._clock.now() + COMMAND_LIFETIME).timestamp()),
            subject=subject,
        )
        session.command(command)
        return command.id

    async def drain(self, grace: float) -> None:
        """Ask every agent to reconnect later, and wait until they are gone or ``grace`` seconds have passed."""
        self._draining = True
        for session in self._sessions.values():
            session.drain()
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("drain-incomplete", streams=len(self._sessions))

    async def _check_twin(self, session: SyncSession, address: str) -> None:
        """Refuse a second live stream of one identity, and lock both (V7); a stream nobody answers on is superseded.

        One boot has one process: its newer stream follows its older one, half-open or not, without a question.
        """
        asked: SyncSession | None = None
        while (older := self._sessions.get(session.cluster)) not in {None, asked}:
            if older is None or older.boot_id == session.boot_id:
                return
            asked = older
            if await older.answers(self._limits.twin):
                await self._twins.two_live(session, older, address)

    def _take_over(self, session: SyncSession) -> None:
        """Newest wins."""
        older = self._sessions.get(session.cluster)
        self._sessions[session.cluster] = session
        self._idle.clear()
        if self._draining:
            session.drain()
        if older is not None:
            older.drain()

    async def _release(self, session: SyncSession) -> None:
        if self._sessions.get(session.cluster) is session:
            del self._sessions[session.cluster]
        if not self._sessions:
            self._idle.set()
        await self._ports.fleet.disconnected(session.cluster, session.stream_id)
