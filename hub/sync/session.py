"""One Sync stream: Hello, Welcome, then items, notices and commands down, receipts and state up.

State shapes: frames are numbered from 1 in each direction; ``_received`` is the last agent frame handled whole, and
is what every hub frame acknowledges; ``_sent`` is the last hub frame written. Frames that are not heartbeats are
acknowledged soon, many at once when they come fast. Items are never queued: the session remembers the revision it has
sent and reads what is newer when it is woken, so a slow reader costs a bounded amount of memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc.aio

from cellward.errors import CellwardError
from cellward.identity.x509 import PeerIdentity
from cellward.runtime.clock import Clock
from cellward.wire.codec import MAX_CARRIED_SET, DesiredItem, item_to_wire, items_digest, refusal_of
from cellward.wire.v1 import link_pb2
from cellward.wire.version import CARRIED_DOCUMENTS, CARRIED_MARK, CARRIED_POLICY, check_skew, negotiate
from hub.store.changes import POLICY, desired_topic, link_topic
from hub.store.links import ANSWER, CommandRow, boot_digest
from hub.sync.changes import Subscription
from hub.sync.errors import HELLO_EXPECTED, OUT_OF_ORDER, SILENT, SLOW_READER, UNEXPECTED_FRAME
from hub.sync.hello import check_hello
from hub.sync.interfaces import SyncPorts
from hub.sync.limits import SyncLimits
from hub.sync.twins import Twins

_KINDS: Final[Mapping[str, link_pb2.CommandKind.ValueType]] = {
    "resync": link_pb2.COMMAND_KIND_RESYNC,
    "probe": link_pb2.COMMAND_KIND_PROBE,
    "diagnose": link_pb2.COMMAND_KIND_DIAGNOSE,
    "renew": link_pb2.COMMAND_KIND_RENEW,
    "reconnect": link_pb2.COMMAND_KIND_RECONNECT,
}
#: What is acknowledged a moment later, with what follows it: a receipt with the state of its cell, which comes next.
_LATER: Final = frozenset({"receipt", "cell_status", "agent_status"})


@dataclass(frozen=True, slots=True)
class HubFacts:
    """What the hub says of itself in Welcome. ``hub_epoch`` is new after a restore from backup."""

    realm: Callable[[], str]
    hub_epoch: Callable[[], str]
    log_origin: Callable[[], str]


class Stream(Protocol):
    """The two halves of a gRPC stream a session uses."""

    async def read(self) -> Any:
        """Next message, or ``grpc.aio.EOF``."""
        ...

    async def write(self, message: Any) -> None:
        """Write a message; waits while the peer's window is full."""
        ...


class SyncSession:
    """One stream of one agent, from Hello to its end."""

    def __init__(
        self,
        *,
        peer: PeerIdentity,
        stream: Stream,
        ports: SyncPorts,
        facts: HubFacts,
        limits: SyncLimits,
        clock: Clock,
        twins: Twins,
    ) -> None:
        self._peer = peer
        self._twins = twins
        self._stream = stream
        self._ports = ports
        self._facts = facts
        self._limits = limits
        self._clock = clock
        self._writing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._dirty: set[str] = set()
        self._heard = clock.monotonic()
        self._answering: set[asyncio.Future[None]] = set()
        self._drain = False
        self._sent = 0
        self._received = 0
        self._acknowledged = 0
        self._ack_due = False
        #: Whether a receipt is among what is not acknowledged; and what acknowledges when nothing follows.
        self._receipt_due = False
        self._later: asyncio.TimerHandle | None = None
        self._revision = 0
        self._timestamp = 0
        self._ask = False
        self._asked = 0
        self._answered = asyncio.Event()
        self._hello: link_pb2.Hello | None = None
        #: Whether the agent takes documents with their items, and the mark with the last of these.
        self._carries = False
        self._takes_mark = False
        #: Whether it takes policy files with their notice; and versions of root and snapshot it said last to hold.
        self._takes_policy = False
        self._policy_held = (0, 0)
        self.stream_id = ""
        self.boot_id = ""

    @property
    def cluster(self) -> str:
        """Name from the peer certificate."""
        return self._peer.name

    async def introduce(self) -> None:
        """Read and check Hello.

        Raises link/hello-expected, link/hello-refused, wire/no-common-version, wire/version-skew.
        """
        try:
            async with asyncio.timeout(self._limits.hello):
                frame = await self._stream.read()
        except TimeoutError:
            raise HELLO_EXPECTED(f"no Hello within {self._limits.hello:g} seconds") from None
        if frame is grpc.aio.EOF:
            raise HELLO_EXPECTED("the stream ended before Hello")
        self.stream_id = check_stream_id(frame.stream_id)
        if frame.WhichOneof("body") != "hello":
            raise HELLO_EXPECTED("the stream does not begin with Hello")
        self._check_order(frame)
        binding = await self._ports.directory.binding(self.cluster)
        bound = check_hello(self._peer, binding, frame.hello, self._facts.realm())
        hello: link_pb2.Hello = frame.hello
        await self._twins.check(self._peer, bound, hello)
        negotiate(hello.protocol_min, hello.protocol_max)
        self.boot_id = hello.boot_id
        self._carries = CARRIED_DOCUMENTS in hello.features
        self._takes_mark = CARRIED_MARK in hello.features
        self._takes_policy = CARRIED_POLICY in hello.features
        self._holds(hello.policy)
        await self._ports.audit.hello(self.cluster, hello.hub_epoch, hello.last_checkpoint)
        await self._ports.fleet.hello(self.cluster, hello)
        # Kept first, so that people see which version it is of.
        check_skew(hello.agent_version)
        self._received = 1
        self._hello = hello

    async def run(self) -> None:
        """Serve the stream until it ends, is drained or refused; ``introduce`` must have returned before."""
        hello, self._hello = self._hello, None
        if hello is None:
            raise RuntimeError("a session is introduced before it runs, and runs once")
        link = link_topic(self.cluster)
        async with self._ports.changes.subscribe(desired_topic(self.cluster), link, POLICY) as changes:
            # Subscribed before anything is read, so that no change falls between.
            await self._welcome(hello)
            # From here on a stream mostly waits, for days; what it needs no more must not wait with it.
            del hello
            # Another process may have been given the next stream, or a command, before this one subscribed.
            self._dirty.add(link)
            self._wake.set()
            try:
                await _until_one_ends(self._read_loop(), self._write_loop(), self._listen(changes))
            finally:
                for each in self._answering:
                    each.cancel()
                if self._later is not None:
                    self._later.cancel()

    def drain(self) -> None:
        """Ask the agent to reconnect and end the stream."""
        self._drain = True
        self._wake.set()

    @property
    def serial(self) -> int:
        """Serial number of the certificate it was opened with."""
        return self._peer.serial

    async def answers(self, seconds: float) -> bool:
        """Ask for a sign of life, and say whether the agent gave one in time; a half-open stream never does.

        Asked by the writer of the stream, so that a peer that does not read costs the asker a wait and nothing else.
        """
        self._ask, self._asked = True, 0
        self._answered.clear()
        self._wake.set()
        try:
            async with asyncio.timeout(seconds):
                await self._answered.wait()
        except TimeoutError:
            return False
        return True

    async def refuse(self, error: CellwardError) -> None:
        """Say why before the stream is closed; best effort."""
        with contextlib.suppress(CellwardError, grpc.aio.UsageError, asyncio.InvalidStateError):
            await self._write(refusal=refusal_of(error))

    # ---- hub to agent

    async def _welcome(self, hello: link_pb2.Hello) -> None:
        items = await self._ports.fleet.items(self.cluster, 0)
        current = max((item.revision for item in items), default=0)
        self._timestamp = await self._ports.policy.timestamp_version()
        await self._write(
            welcome=link_pb2.Welcome(
                protocol=negotiate(hello.protocol_min, hello.protocol_max),
                hub_epoch=self._facts.hub_epoch(),
                revision=current,
                log_origin=self._facts.log_origin(),
                timestamp_version=self._timestamp,
                cluster_name=self.cluster,
            )
        )
        same_epoch = hello.hub_epoch == self._facts.hub_epoch()
        if same_epoch and hello.revision == current and hello.items_digest == items_digest(items):
            self._revision = current
        elif same_epoch and hello.revision < current:
            # What it held then cannot be compared with what is now; the mark after the difference lets it compare.
            self._revision = hello.revision
        await self._send_newer(items, always_mark=True)

    async def _send_newer(self, items: Sequence[DesiredItem], *, always_mark: bool = False) -> None:
        current = max((item.revision for item in items), default=0)
        changed = sorted((item for item in items if item.revision > self._revision), key=lambda item: item.revision)
        if not changed and not always_mark:
            return
        mark = link_pb2.RevisionMark(revision=current, items_digest=items_digest(items))
        travels = self._takes_mark and bool(changed)
        for item in changed:
            message = item_to_wire(item)
            if travels and item is changed[-1]:
                message.mark.CopyFrom(mark)
            # Not on resume: whoever comes back mostly holds them, and a newcomer of many cells would get all at once.
            if self._carries and not always_mark:
                for digest, envelope in await self._ports.content.carried(item):
                    message.documents.add(digest=digest, envelope=envelope)
            await self._write(desired_item=message)
        if not travels:
            await self._write(revision_mark=mark)
        self._revision = max(self._revision, current)

    async def _write_loop(self) -> None:
        while not self._drain:
            try:
                async with asyncio.timeout(self._limits.heartbeat):
                    await self._wake.wait()
            except TimeoutError:
                # Who was not heard for long is asked to answer: an agent's own heartbeats may be rare.
                quiet = self._clock.monotonic() - self._heard >= self._limits.quiet
                await self._write(heartbeat=link_pb2.Heartbeat(answer=quiet))
                continue
            self._wake.clear()
            topics, self._dirty = self._dirty, set()
            if self._ask:
                self._ask, self._asked = False, self._sent + 1
                await self._write(heartbeat=link_pb2.Heartbeat(answer=True))
            await self._send_changes(topics)
            await self._acknowledge()
        await self._write(
            drain=link_pb2.Drain(after_ms_min=self._limits.drain_min_ms, after_ms_max=self._limits.drain_max_ms)
        )
        await self._linger()

    async def _linger(self) -> None:
        """Take and acknowledge what the agent still had on the way; it closes its half, or time is up (V13)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger):
                while True:
                    await self._acknowledge()
                    await self._wake.wait()
                    self._wake.clear()

    async def _acknowledge(self) -> None:
        """Say what was handled when nothing else has said it: the agent keeps what is not acknowledged."""
        due, self._ack_due, self._receipt_due = self._ack_due, False, False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if due and self._acknowledged < self._received:
            await self._write(heartbeat=link_pb2.Heartbeat())

    async def _send_changes(self, topics: set[str]) -> None:
        if POLICY in topics:
            version = await self._ports.policy.timestamp_version()
            if version != self._timestamp:
                self._timestamp = version
                await self._write(policy_notice=await self._notice(version))
        if desired_topic(self.cluster) in topics:
            await self._send_newer(await self._ports.fleet.items(self.cluster, 0))
        if link_topic(self.cluster) in topics:
            await self._look()

    async def _look(self) -> None:
        """Give way to a newer stream, at whichever process, and carry commands."""
        view = await self._ports.links.look(self.cluster)
        if view.holder is None:
            await self._ports.links.opened(self.cluster, self.stream_id, self.boot_id)
        elif view.holder.stream != self.stream_id:
            self.drain()
            return
        if boot_digest(self.boot_id) not in view.waiting:
            return
        for row in await self._ports.links.take(self.cluster, self.boot_id):
            if row.kind == ANSWER:
                # Not here: the question is written by the loop that this runs in.
                task = asyncio.ensure_future(self._answer(row))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
                continue
            await self._write(
                command=link_pb2.Command(
                    id=row.id,
                    kind=_KINDS[row.kind],
                    boot_id=self.boot_id,
                    expires_unix=int(row.expires_at.timestamp()),
                    subject=row.subject,
                )
            )

    async def _answer(self, row: CommandRow) -> None:
        await self._ports.links.answered(row, alive=await self.answers(self._limits.twin))

    async def _notice(self, version: int) -> link_pb2.PolicyNotice:
        notice = link_pb2.PolicyNotice(timestamp_version=version)
        files = await self._ports.content.policy_set(*self._policy_held) if self._takes_policy else None
        if files is not None and len(files) <= MAX_CARRIED_SET:
            notice.files.MergeFromString(files)
            notice.held.root_version, notice.held.snapshot_version = self._policy_held
        return notice

    async def _listen(self, changes: Subscription) -> None:
        while True:
            # Waited for first: ``|=`` would add to the set that was there before, and the writer has taken that one.
            topics = await changes.wait()
            self._dirty |= topics
            self._wake.set()

    async def _write(self, **body: Any) -> None:
        async with self._writing:
            frame = link_pb2.HubFrame(
                stream_id=self.stream_id,
                seq=self._sent + 1,
                ack=self._received,
                sent_at_unix_ms=int(self._clock.now().timestamp() * 1000),
                **body,
            )
            try:
                async with asyncio.timeout(self._limits.write):
                    await self._stream.write(frame)
            except TimeoutError:
                raise SLOW_READER(f"a frame was not taken within {self._limits.write:g} seconds") from None
            self._sent += 1
            self._acknowledged = max(self._acknowledged, frame.ack)

    # ---- agent to hub

    async def _read_loop(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._limits.silence):
                    frame = await self._stream.read()
            except TimeoutError:
                raise SILENT(f"nothing was received for {self._limits.silence:g} seconds") from None
            if frame is grpc.aio.EOF:
                await self._acknowledge()
                return
            self._check_order(frame)
            self._heard = self._clock.monotonic()
            if self._asked and frame.ack >= self._asked:
                self._answered.set()
            await self._handle(frame)
            # Only now: what is acknowledged has been handled whole.
            self._received = frame.seq
            self._owe(frame.WhichOneof("body"))
            del frame

    def _owe(self, body: str | None) -> None:
        """Acknowledge what was handled: a release costs an agent one frame for its receipt and its cell's new state."""
        if body == "heartbeat":
            return
        self._ack_due = True
        if body not in _LATER or (body == "cell_status" and self._receipt_due):
            self._wake.set()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(self._limits.gather, self._wake.set)
        self._receipt_due |= body == "receipt"

    def _holds(self, policy: link_pb2.PolicyVersions) -> None:
        self._policy_held = (policy.root, policy.snapshot)

    def _check_order(self, frame: link_pb2.AgentFrame) -> None:
        if frame.stream_id != self.stream_id:
            raise OUT_OF_ORDER("the frame belongs to another stream")
        if frame.seq != self._received + 1:
            raise OUT_OF_ORDER(f"frame {frame.seq} came where {self._received + 1} was expected")
        # A frame being written has no number yet in _sent, but may already have been read and acknowledged.
        if frame.ack > self._sent + 1:
            raise OUT_OF_ORDER(f"the frame acknowledges {frame.ack}, {self._sent} were sent")

    async def _handle(self, frame: link_pb2.AgentFrame) -> None:
        fleet = self._ports.fleet
        body = frame.WhichOneof("body")
        if body == "receipt":
            await fleet.receipt(self.cluster, frame.receipt)
        elif body == "cell_status":
            await fleet.cell_status(self.cluster, frame.cell_status)
        elif body == "agent_status":
            self._holds(frame.agent_status.policy)
            await fleet.agent_status(self.cluster, frame.agent_status)
        elif body == "command_result":
            await self._ports.links.finish(self.cluster, frame.command_result)
        elif body == "hello":
            raise HELLO_EXPECTED("a second Hello came on the same stream")
        elif body != "heartbeat":
            raise UNEXPECTED_FRAME(f"frame {frame.seq} has no body that is known here")


def check_stream_id(stream_id: str) -> str:
    """Return a stream id of 1 to 64 printable ASCII characters; raises link/out-of-order."""
    if not 0 < len(stream_id) <= 64 or not stream_id.isascii() or not stream_id.isprintable():
        raise OUT_OF_ORDER("the stream id is not 1 to 64 printable ASCII characters")
    return stream_id


async def _until_one_ends(*work: Any) -> None:
    """Run until the first of the loops ends; its error, if any, is raised, and the others are stopped."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    # An error beats a clean end when both happened in the same turn.
    for task, result in zip(tasks, results, strict=True):
        if task in done and isinstance(result, BaseException):
            raise result
