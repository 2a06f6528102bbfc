"""The Link service: one live stream per cluster, commands to whoever is connected, drain when the hub goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import structlog

from cellward.errors import CellwardError
from cellward.runtime.clock import Clock
from cellward.runtime.tasks import to_its_end
from cellward.wire.v1 import link_pb2, link_pb2_grpc
from hub.authority.copies import Copies
from hub.authority.limits import Limiter, Rate, peer_of
from hub.store.links import CommandRow, LinkStore, boot_digest
from hub.sync.errors import TOO_MANY_HELLOS
from hub.sync.gate import current_peer
from hub.sync.interfaces import SyncPorts
from hub.sync.limits import SyncLimits
from hub.sync.links import CommandName
from hub.sync.session import HubFacts, SyncSession
from hub.sync.twins import Twins

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
                await self._ports.links.opened(session.cluster, session.stream_id, session.boot_id)
                await self._ports.fleet.connected(session.cluster, session.stream_id)
                await session.run()
            finally:
                # The client may cancel the call while its end is being written: half done, the stream would be shown
                # as open until this process ends.
                await to_its_end(self._release(session), "stream-release")
        except CellwardError as error:
            _log.warning("link-refused", cluster=session.cluster, stream=session.stream_id, code=error.code)
            await session.refuse(error)
            raise

    def connected(self) -> frozenset[str]:
        """Names of the clusters with a live stream on this process."""
        return frozenset(self._sessions)

    async def send_command(
        self,
        cluster: str,
        kind: CommandName,
        subject: str = "",
        *,
        by: str = "hub",
        store: LinkStore | None = None,
        command_id: str = "",
    ) -> CommandRow:
        """Give a command to a connected cluster, whichever process holds its stream, and return it.

        Raises link/not-connected. ``kind`` is one of a closed list (V2). ``store`` is that of a transaction which is
        open already.
        """
        return await self._ports.links.send(
            cluster, kind, subject, by=by, most=self._limits.commands, store=store, command_id=command_id
        )

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

        One boot has one process: its newer stream follows its older one, half-open or not, without a question, unless
        that happens again and again. Where another process of the hub holds the older stream, that one asks.
        """
        asked: SyncSession | None = None
        while (older := self._sessions.get(session.cluster)) not in {None, asked}:
            if older is None or self._is_handover(session, older.boot_id == session.boot_id, older.serial):
                return
            asked = older
            if await older.answers(self._limits.twin):
                await self._twins.two_live(session.cluster, session.boot_id, older.boot_id, address)
        holder = await self._ports.links.elsewhere(session.cluster)
        if holder is None or self._is_handover(session, holder.boot == boot_digest(session.boot_id), session.serial):
            return
        if await self._ports.links.ask(holder, self._limits.twin):
            await self._twins.two_live(session.cluster, session.boot_id, f"sha256:{holder.boot}", address)

    def _is_handover(self, session: SyncSession, same_boot: bool, serial: int) -> bool:
        """Whether a stream follows an older one as those of one process do."""
        if not same_boot or serial != session.serial:
            return same_boot
        return not self._twins.follow_too_often(session.cluster)

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
        try:
            await self._ports.links.closed(session.cluster, session.stream_id)
        finally:
            # Known to this process also while the store does not answer.
            await self._ports.fleet.disconnected(session.cluster, session.stream_id)
