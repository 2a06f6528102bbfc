"""One Sync stream: Hello, Welcome, frames both ways, until it ends.

Invariants (V13): frames are numbered from 1 without gaps in both directions, and a hub frame that breaks the order ends
the stream before it is acted on; a receipt is forgotten only when the hub acknowledged the frame that carried it; the
revision moves only after every item up to it is durable here. A session that ends in any way is resumed by the next
one from the durable revision, so no frame needs to survive in memory. A stream that the hub drains, or we give up, is
half-closed: the hub acknowledges what was in flight, so that the next stream does not carry it a second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import structlog

from agent.link.calls import hub_call
from agent.link.errors import OUT_OF_ORDER, PROTOCOL, STREAM_REFUSED
from agent.link.interfaces import CellReport
from agent.link.messages import report_to_wire
from agent.link.outgoing import MAX_RESULTS, Outgoing
from cellward.documents.names import CellKey
from cellward.errors import known
from cellward.runtime.clock import Timer
from cellward.runtime.tasks import first_of
from cellward.wire import status
from cellward.wire.bounds import MAX_HELLO_TEXT
from cellward.wire.v1 import link_pb2, link_pb2_grpc

_log = structlog.get_logger()

#: Seconds from opening a stream to its Welcome.
WELCOME_TIMEOUT = 20.0
#: Hub frames handled without an acknowledgement of ours before one is sent at once.
ACK_EVERY = 16
#: Seconds within which a hub ends a stream that we have half-closed; it lingers for less.
CLOSING = 10.0
#: Seconds after which an unchanged status is sent again; the hub writes an unchanged one as seldom.
STATUS_AT_LEAST = 300.0
#: Seconds without any frame from the hub after which the stream counts as dead. The hub beats once a minute; a
#: half-open connection shows much earlier, by its pings.
SILENCE = 150.0


@dataclass(frozen=True, slots=True)
class DrainRequest:
    """The hub asked to reconnect after a delay drawn between these seconds."""

    after_min: float
    after_max: float


@dataclass(slots=True)
class SessionHooks:
    """What a session asks of its client; all of it may be awaited while no further hub frame is read."""

    hello: Callable[[], Awaitable[link_pb2.Hello]]
    welcome: Callable[[link_pb2.Welcome], Awaitable[None]]
    item: Callable[[link_pb2.DesiredItem], Awaitable[None]]
    mark: Callable[[link_pb2.RevisionMark], Awaitable[None]]
    notice: Callable[[link_pb2.PolicyNotice], None]
    command: Callable[[link_pb2.Command], None]
    agent_status: Callable[[], Awaitable[link_pb2.AgentStatus]]
    all_reports: Callable[[], list[link_pb2.CellStatus]]


@dataclass(slots=True)
class _Flight:
    """Frames sent and not yet acknowledged, with what each carried; and what this stream has carried so far."""

    receipts: dict[int, tuple[CellKey, int]] = field(default_factory=dict)
    results: dict[int, str] = field(default_factory=dict)
    reports: dict[int, tuple[CellKey, CellReport]] = field(default_factory=dict)
    receipts_sent: set[int] = field(default_factory=set)
    results_sent: set[str] = field(default_factory=set)
    reports_sent: dict[CellKey, CellReport] = field(default_factory=dict)


class Session:
    """One stream on one channel.

    Args:
        channel: where to open it.
        hooks: see SessionHooks.
        outgoing: what waits to go up.
        timer: for heartbeats.
        heartbeat: seconds between heartbeats.
        status_interval: seconds between looks at the agent's status.

    Attributes:
        welcomed: set once the hub answered Hello.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        hooks: SessionHooks,
        outgoing: Outgoing,
        timer: Timer,
        *,
        heartbeat: float,
        status_interval: float,
    ) -> None:
        self._hooks = hooks
        self._outgoing = outgoing
        self._timer = timer
        self._heartbeat = heartbeat
        self._status_interval = status_interval
        self._stub = link_pb2_grpc.LinkStub(channel)
        self._call: Any = None
        self._stream_id = uuid.uuid4().hex
        self._sent = 0
        # Hub frames read, and of them handled; only handled ones are acknowledged.
        self._current = 0
        self._received = 0
        self._acked_to_hub = 0
        self._heard_at = timer.monotonic()
        self._ack_due = False
        self._quiet = False
        self._drain: DrainRequest | None = None
        self._status: link_pb2.AgentStatus | None = None
        # When the status is looked at again, and when it is sent although nothing changed.
        self._status_at = self._status_due = 0.0
        # When a heartbeat is due: so long after whatever was sent last.
        self._beat_at = 0.0
        self._flight = _Flight()
        self._finishing = asyncio.Event()
        self._control = asyncio.Event()
        self.welcomed = asyncio.Event()

    async def run(self) -> DrainRequest | None:
        """Run until the stream ends; None when we or the hub closed it in good order.

        Raises:
            CellwardError: why it ended otherwise; also ``link/hub-out-of-order`` and ``link/stream-refused``.
        """
        with hub_call("the session"):
            self._call = self._stub.Sync()
            try:
                await self._send(hello=await self._hooks.hello())
                frames = aiter(self._frames())
                await self._expect_welcome(frames)
                return await self._exchange(frames)
            finally:
                self._call.cancel()

    def quiet(self, *, on: bool) -> None:
        """Stop taking from what waits to go up, or take again; hub frames are still handled and answered.

        While a successor is being opened only one of the two may take, else what the dying stream took could be lost.
        """
        self._quiet = on
        self._control.set()
        self._outgoing.wake.set()

    def finish(self) -> None:
        """Ask the session to close; ``run`` then returns."""
        self._finishing.set()
        self._control.set()
        self._outgoing.wake.set()

    async def _exchange(self, frames: AsyncIterator[link_pb2.HubFrame]) -> DrainRequest | None:
        reader = asyncio.ensure_future(self._read(frames))
        sender = asyncio.ensure_future(self._send_all())
        try:
            await first_of(reader, sender)
            if sender.done() and not reader.done() and sender.exception() is None:
                # Half-closed in good order: the hub still acknowledges, then ends the stream.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSING):
                        await reader
                return self._drain
            if reader.done():
                reader.result()
            else:
                sender.result()
            return self._drain
        finally:
            for task in (reader, sender):
                task.cancel()
            await asyncio.gather(reader, sender, return_exceptions=True)

    async def _frames(self) -> AsyncIterator[link_pb2.HubFrame]:
        """Yield hub frames in order; anything else ends the stream."""
        while True:
            frame = await self._call.read()
            if frame is grpc.aio.EOF:
                code = await self._call.code()
                if code is not grpc.StatusCode.OK:
                    raise await _failure(self._call)
                return
            if frame.stream_id != self._stream_id or frame.seq != self._current + 1:
                raise OUT_OF_ORDER(
                    f"expected frame {self._current + 1} of stream {self._stream_id},"
                    f" got {frame.seq} of {frame.stream_id[:64]!r}"
                )
            self._heard_at = self._timer.monotonic()
            await self._acknowledged(frame.ack)
            if frame.WhichOneof("body") == "refusal":
                entry = known(frame.refusal.code) or STREAM_REFUSED
                raise entry(frame.refusal.reason or "the hub gave no reason", hint=frame.refusal.next or None)
            self._current = frame.seq
            yield frame

    async def _expect_welcome(self, frames: AsyncIterator[link_pb2.HubFrame]) -> None:
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT):
                await self._take_welcome(frames)
        except TimeoutError as error:
            raise PROTOCOL(f"no answer to Hello within {WELCOME_TIMEOUT:g} s") from error

    async def _take_welcome(self, frames: AsyncIterator[link_pb2.HubFrame]) -> None:
        async for frame in frames:
            if frame.WhichOneof("body") != "welcome":
                raise PROTOCOL(f"the first frame is a {frame.WhichOneof('body')}, not a welcome")
            if len(frame.welcome.hub_epoch) > MAX_HELLO_TEXT:
                # It is repeated to every hub from now on, and none takes a longer one.
                raise PROTOCOL("the hub's epoch is longer than any hub takes")
            # Set first: once the client listens to this session, nobody may take it for one that never was welcomed.
            self.welcomed.set()
            await self._hooks.welcome(frame.welcome)
            self._received = frame.seq
            return
        raise PROTOCOL("the hub closed the stream instead of welcoming")

    async def _read(self, frames: AsyncIterator[link_pb2.HubFrame]) -> None:
        async for frame in frames:
            await self._handle(frame)
            self._received = frame.seq
            if self._ack_due or frame.seq - self._acked_to_hub >= ACK_EVERY:
                self._outgoing.wake.set()

    async def _handle(self, frame: link_pb2.HubFrame) -> None:
        match frame.WhichOneof("body"):
            case "desired_item":
                await self._hooks.item(frame.desired_item)
                if frame.desired_item.HasField("mark"):
                    await self._hooks.mark(frame.desired_item.mark)
            case "revision_mark":
                # Acknowledged with what is sent next: the hub keeps nothing until then, and asks when it wants to know.
                await self._hooks.mark(frame.revision_mark)
            case "policy_notice":
                self._hooks.notice(frame.policy_notice)
            case "command":
                self._hooks.command(frame.command)
            case "drain":
                low = min(frame.drain.after_ms_min, 300_000) / 1000
                self._drain = DrainRequest(low, max(low, min(frame.drain.after_ms_max, 300_000) / 1000))
                # Nothing more is sent, and what is in flight is waited for: ended at once, it would come twice (V13).
                self.finish()
            case "heartbeat" if frame.heartbeat.answer:
                # Asked whether anybody is there: another boot wants this stream's place.
                self._ack_due = True
            case "welcome":
                raise PROTOCOL("the hub welcomed twice")
            case _:
                # A heartbeat, or a body this version does not know: messages may grow (design §2).
                pass

    async def _send_all(self) -> None:
        """Send whatever waits, and heartbeats, until asked to finish."""
        for report in self._hooks.all_reports():
            await self._send(cell_status=report)
        await self._send_status()
        while True:
            if self._finishing.is_set():
                await self._call.done_writing()
                return
            if self._quiet:
                # The wake-up belongs to the successor.
                self._control.clear()
                await self._pause(self._control, self._beat_at)
                continue
            self._outgoing.wake.clear()
            await self._flush()
            if self._outgoing.take_status() or self._timer.monotonic() >= self._status_at:
                await self._send_status()
            if self._ack_due or self._received - self._acked_to_hub >= ACK_EVERY:
                self._ack_due = False
                await self._send(heartbeat=link_pb2.Heartbeat())
            else:
                await self._pause(self._outgoing.wake, min(self._beat_at, self._status_at))

    async def _send_status(self) -> None:
        """Send the agent's status when it changed, or for long was not sent: each one costs the hub two frames."""
        now = self._timer.monotonic()
        status = await self._hooks.agent_status()
        self._status_at = now + self._status_interval
        if self._status is None or now >= self._status_due or not _is_same(status, self._status):
            self._status, self._status_due = status, now + STATUS_AT_LEAST
            await self._send(agent_status=status)

    async def _flush(self) -> None:
        """Send what this stream has not carried yet; each stays in ``outgoing`` until its frame is acknowledged.

        Nothing more is taken once the session is quiet, also where that was said while this was sending.
        """
        flight, outgoing = self._flight, self._outgoing
        for number, key, payload in await outgoing.receipts():
            if number not in flight.receipts_sent and not self._quiet:
                flight.receipts_sent.add(number)
                flight.receipts[self._sent + 1] = (key, number)
                await self._send(receipt=link_pb2.Receipt.FromString(payload))
        for key, report in outgoing.reports():
            if flight.reports_sent.get(key) is not report and not self._quiet:
                flight.reports_sent[key] = report
                flight.reports[self._sent + 1] = (key, report)
                await self._send(cell_status=report_to_wire(report))
        for result in outgoing.results():
            if len(flight.results) >= MAX_RESULTS:
                break  # a hub that acknowledges none gets no more
            if result.id not in flight.results_sent and not self._quiet:
                flight.results_sent.add(result.id)
                flight.results[self._sent + 1] = result.id
                await self._send(command_result=result)

    async def _pause(self, event: asyncio.Event, until: float) -> None:
        """Wait for the event, at most until then, and send a heartbeat if one is due."""
        await first_of(event.wait(), self._timer.sleep(until - self._timer.monotonic()))
        if self._timer.monotonic() >= self._beat_at:
            await self._beat()

    async def _beat(self) -> None:
        if self._timer.monotonic() - self._heard_at > SILENCE:
            raise PROTOCOL(f"the hub was silent for more than {SILENCE:g} s")
        await self._send(heartbeat=link_pb2.Heartbeat())

    async def _send(self, **body: Any) -> None:
        frame = link_pb2.AgentFrame(
            stream_id=self._stream_id,
            seq=self._sent + 1,
            ack=self._received,
            sent_at_unix_ms=int(self._timer.now().timestamp() * 1000),
            **body,
        )
        self._sent += 1
        self._acked_to_hub = self._received
        self._beat_at = self._timer.monotonic() + self._heartbeat
        await self._call.write(frame)

    async def _acknowledged(self, ack: int) -> None:
        if ack > self._sent:
            raise OUT_OF_ORDER(f"the hub acknowledged frame {ack}, only {self._sent} were sent")
        flight = self._flight
        for seq in [seq for seq in flight.receipts if seq <= ack]:
            key, number = flight.receipts.pop(seq)
            await self._outgoing.receipt_done(key, number)
        for seq in [seq for seq in flight.reports if seq <= ack]:
            self._outgoing.report_done(*flight.reports.pop(seq))
        for seq in [seq for seq in flight.results if seq <= ack]:
            done = flight.results.pop(seq)
            flight.results_sent.discard(done)
            self._outgoing.result_done(done)


def _is_same(one: link_pb2.AgentStatus, other: link_pb2.AgentStatus) -> bool:
    """Whether both say the same; how many records wait moves all the time, only whether any do counts."""
    copies = []
    for each in (one, other):
        copy = link_pb2.AgentStatus()
        copy.CopyFrom(each)
        copy.spool_depth = min(copy.spool_depth, 1)
        copies.append(copy)
    return bool(copies[0] == copies[1])


async def _failure(call: Any) -> Exception:
    error = grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )
    return status.error_of(error)
