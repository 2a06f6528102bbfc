"""One Sync stream against a scripted hub: order both ways, refusals, drain, silence (V13, V16)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from agent.link import session
from agent.link.interfaces import CellReport, ReceiptFacts
from agent.link.outgoing import Outgoing
from agent.link.session import DrainRequest, Session, SessionHooks
from agent.spool.errors import FULL
from agent.spool.state import open_state
from agent.spool.stores import SqliteOutbox
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.identity.errors import EXPIRED
from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import link_pb2, link_pb2_grpc, types_pb2

Frames = AsyncIterator[link_pb2.AgentFrame]


class ScriptedHub(link_pb2_grpc.LinkServicer):
    """Answers with whatever frames a test says, over a real gRPC server without TLS."""

    def __init__(self, script: Callable[[ScriptedHub], AsyncIterator[link_pb2.HubFrame]]) -> None:
        self._script = script
        self.stream = ""
        self.frames: list[link_pb2.AgentFrame] = []
        self.arrived = asyncio.Event()

    async def Sync(self, request_iterator: Frames, context: Any) -> AsyncIterator[link_pb2.HubFrame]:  # noqa: N802
        """Read everything in the background and follow the script."""
        first = await anext(request_iterator)
        self.stream = first.stream_id
        self.frames.append(first)
        reader = asyncio.ensure_future(self._read(request_iterator))
        try:
            async for frame in self._script(self):
                yield frame
                if frame.WhichOneof("body") == "drain":
                    # As a hub does: what the agent still writes must not meet a stream that has ended.
                    await asyncio.wait({reader}, timeout=10)
        finally:
            reader.cancel()

    async def _read(self, frames: Frames) -> None:
        async for frame in frames:
            self.frames.append(frame)
            self.arrived.set()

    async def got(self, body: str) -> link_pb2.AgentFrame:
        """Wait for a frame with this body."""
        while True:
            for frame in self.frames:
                if frame.WhichOneof("body") == body:
                    return frame
            self.arrived.clear()
            await self.arrived.wait()

    def frame(self, seq: int, ack: int = 0, **body: Any) -> link_pb2.HubFrame:
        """A frame of this stream."""
        return link_pb2.HubFrame(stream_id=self.stream, seq=seq, ack=ack, **body)

    def welcome(self) -> link_pb2.HubFrame:
        """The first frame."""
        return self.frame(1, 1, welcome=link_pb2.Welcome(protocol=1))


class Agent:
    """The side under test, with what its hooks heard."""

    def __init__(self, channel: grpc.aio.Channel, outgoing: Outgoing, heartbeat: float = 0.1) -> None:
        self.items: list[str] = []
        self.marks: list[tuple[int, int]] = []
        self.status = link_pb2.AgentStatus(authority="authors")
        self.outgoing = outgoing
        hooks = SessionHooks(
            hello=self._hello,
            welcome=self._nothing,
            item=self._item,
            mark=self._mark,
            notice=lambda _: None,
            command=lambda _: None,
            agent_status=self._status,
            all_reports=list,
        )
        self.session = Session(channel, hooks, outgoing, SystemClock(), heartbeat=heartbeat, status_interval=0.05)

    async def _hello(self) -> link_pb2.Hello:
        return link_pb2.Hello(realm="r")

    async def _status(self) -> link_pb2.AgentStatus:
        status = link_pb2.AgentStatus()
        status.CopyFrom(self.status)
        return status

    async def _item(self, item: link_pb2.DesiredItem) -> None:
        self.items.append(item.cell)

    async def _mark(self, mark: link_pb2.RevisionMark) -> None:
        self.marks.append((mark.revision, len(self.items)))

    async def _nothing(self, _: object) -> None:
        return


@asynccontextmanager
async def scene(
    tmp_path: Path, script: Callable[[ScriptedHub], AsyncIterator[link_pb2.HubFrame]], heartbeat: float = 0.1
) -> AsyncIterator[tuple[ScriptedHub, Agent]]:
    """A hub that follows the script, and an agent that may run against it."""
    hub, server = ScriptedHub(script), grpc.aio.server()
    link_pb2_grpc.add_LinkServicer_to_server(hub, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    db = (await open_state(tmp_path, clock=SystemClock())).db
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield hub, Agent(channel, Outgoing(db.outbox), heartbeat)
    finally:
        await server.stop(0)
        await db.close()


def item(cell: str) -> link_pb2.DesiredItem:
    """An item."""
    return link_pb2.DesiredItem(cell=cell)


def _skipped(hub: ScriptedHub) -> link_pb2.HubFrame:
    return hub.frame(3, desired_item=item("wrong"))


def _repeated(hub: ScriptedHub) -> link_pb2.HubFrame:
    return hub.frame(1, desired_item=item("wrong"))


def _foreign(hub: ScriptedHub) -> link_pb2.HubFrame:
    return link_pb2.HubFrame(stream_id="other", seq=2, desired_item=item("wrong"))


def _acks_unsent(hub: ScriptedHub) -> link_pb2.HubFrame:
    return hub.frame(2, 999, desired_item=item("wrong"))


@pytest.mark.parametrize("bad", [_skipped, _repeated, _foreign, _acks_unsent])
async def test_v13_a_hub_frame_out_of_order_ends_the_stream_before_it_is_acted_on(
    tmp_path: Path, bad: Callable[[ScriptedHub], link_pb2.HubFrame]
) -> None:
    """Skipped, repeated, of another stream, or acknowledging what was never sent."""

    async def script(hub: ScriptedHub) -> AsyncIterator[link_pb2.HubFrame]:
        yield hub.welcome()
        yield bad(hub)
        await asyncio.Event().wait()

    async with scene(tmp_path, script) as (_, agent):
        with pytest.raises(CellwardError) as caught:
            await agent.session.run()
        assert caught.value.code == "link/hub-out-of-order"
        assert agent.items == []


async def test_v13_only_frames_handled_are_acknowledged(tmp_path: Path) -> None:
    """Every frame of ours is numbered without a gap, and says what was handled."""

    async def script(hub: ScriptedHub) -> AsyncIterator[link_pb2.HubFrame]:
        yield hub.welcome()
        for number in range(20):
            yield hub.frame(2 + number, desired_item=item(f"c{number}"))
        yield hub.frame(22, revision_mark=link_pb2.RevisionMark(revision=1))
        while hub.frames[-1].ack < 22:
            hub.arrived.clear()
            await hub.arrived.wait()
        yield hub.frame(23, drain=link_pb2.Drain(after_ms_min=5, after_ms_max=9))

    async with scene(tmp_path, script) as (hub, agent):
        assert await agent.session.run() == DrainRequest(0.005, 0.009)
        assert agent.items == [f"c{number}" for number in range(20)]
        assert [frame.seq for frame in hub.frames] == list(range(1, len(hub.frames) + 1))
        assert {frame.stream_id for frame in hub.frames} == {hub.stream}


async def test_v14_a_mark_in_an_item_is_handled_after_it(tmp_path: Path) -> None:
    """V14: a mark compares what is held, so the item it came with is among that; an item without one brings none."""

    async def script(hub: ScriptedHub) -> AsyncIterator[link_pb2.HubFrame]:
        yield hub.welcome()
        yield hub.frame(2, desired_item=item("first"))
        last = item("last")
        last.mark.revision = 7
        yield hub.frame(3, desired_item=last)
        yield hub.frame(4, drain=link_pb2.Drain(after_ms_min=5, after_ms_max=9))

    async with scene(tmp_path, script) as (_, agent):
        await agent.session.run()
        assert agent.marks == [(7, 2)]


async def test_a_refusal_surfaces_with_the_hubs_code_and_reason(tmp_path: Path) -> None:
    """V15: the agent shows what the hub said."""

    async def script(hub: ScriptedHub) -> AsyncIterator[link_pb2.HubFrame]:
        refusal = types_pb2.Refusal(code=EXPIRED.code, reason="it is late", next="renew")
        yield hub.frame(1, 1, refusal=refusal)

    async with scene(tmp_path, script) as (_, agent):
        with pytest.raises(CellwardError) as caught:
            await agent.session.run()
        assert (caught.value.code, caught.value.message, caught.value.hint) == (
            EXPIRED.code,
            "it is late",
            "renew",
        )


@pytest.mark.parametrize("first", ["item", "end", "twice"])
async def test_v16_a_hub_that_does_not_speak_the_protocol_is_left(tmp_path: Path, first: str) -> None:
    """No welcome first, no welcome at all, or a second one."""

    async def script(hub: ScriptedHub) -> AsyncIterator[link_pb2.HubFrame]:
        if first == "item":
            yield hub.frame(1, desired_item=item("a"))
        if first == "twice":
            yield hub.welcome()
            yield hub.frame(2, welcome=link_pb2.Welcome(protocol=1))
        if first != "end":
            await asyncio.Event().wait()

    async with scene(tmp_path, script) as (_, agent):
        with pytest.raises(CellwardError) as caught:
            await agent.session.run()
        assert caught.value.code == "link/protocol"
        assert agent.items == []


async def test_v13_a_receipt_stays_until_its_frame_is_acknowledged(tmp_path: Path) -> None:
    """Sent is not arrived: only the acknowledgement of the very frame removes it, and a quiet session takes nothing."""
    release = asyncio.Event()

    async def script(hub: ScriptedHub) -> AsyncIterator[link_pb2.HubFrame]:
        yield hub.welcome()
        frame = await hub.got("receipt")
        yield hub.frame(2, frame.seq - 1, heartbeat=link_pb2.Heartbeat())
        await release.wait()
        yield hub.frame(3, frame.seq, heartbeat=link_pb2.Heartbeat())
        await asyncio.Event().wait()

    async with scene(tmp_path, script) as (hub, agent):
        running = asyncio.ensure_future(agent.session.run())
        await agent.outgoing.add_receipt(ReceiptFacts(1, "shop", "cart", "dev", "sha256:" + "1" * 64, accepted=True))
        await hub.got("receipt")
        agent.session.quiet(on=True)
        agent.outgoing.add_report(CellReport("shop", "cart", "dev", "ready"))
        await hub.got("heartbeat")
        assert len(await agent.outgoing.receipts()) == 1
        release.set()
        while await agent.outgoing.receipts():
            await asyncio.sleep(0.01)
        assert "cell_status" not in {frame.WhichOneof("body") for frame in hub.frames}
        agent.session.quiet(on=False)
        await hub.got("cell_status")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_v16_an_acknowledgement_that_cannot_be_kept_does_not_end_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the receipt is acknowledged: the stream goes on, and nothing goes up twice on it (V13)."""
    done, full = SqliteOutbox.done, True
    outboxes: list[SqliteOutbox] = []

    async def while_full(outbox: SqliteOutbox, key: CellKey, number: int) -> None:
        outboxes.append(outbox)
        if full:
            raise FULL("no space left")
        await done(outbox, key, number)

    monkeypatch.setattr(SqliteOutbox, "done", while_full)

    async def script(hub: ScriptedHub) -> AsyncIterator[link_pb2.HubFrame]:
        yield hub.welcome()
        first = await hub.got("receipt")
        yield hub.frame(2, first.seq, desired_item=item("after"))
        await hub.got("cell_status")
        second = max(frame.seq for frame in hub.frames)
        yield hub.frame(3, second, drain=link_pb2.Drain())

    async with scene(tmp_path, script) as (hub, agent):
        running = asyncio.ensure_future(agent.session.run())
        await agent.outgoing.add_receipt(ReceiptFacts(1, "shop", "cart", "dev", "sha256:" + "1" * 64, accepted=True))
        while not agent.items:
            await asyncio.sleep(0)
            assert not running.done(), running
        assert await agent.outgoing.receipts() == ()
        full = False
        await agent.outgoing.add_receipt(ReceiptFacts(2, "shop", "pay", "dev", "sha256:" + "2" * 64, accepted=True))
        agent.outgoing.add_report(CellReport("shop", "cart", "dev", "ready"))
        await asyncio.wait_for(running, 10)
        assert [frame.WhichOneof("body") for frame in hub.frames].count("receipt") == 2
        assert await outboxes[0].pending() == ()


async def test_v13_a_session_that_became_quiet_while_it_was_sending_takes_no_more(tmp_path: Path) -> None:
    """What waits belongs to the successor from that moment on, not from the next round on."""

    async def script(hub: ScriptedHub) -> AsyncIterator[link_pb2.HubFrame]:
        yield hub.welcome()
        await asyncio.Event().wait()

    async with scene(tmp_path, script) as (hub, agent):
        read = agent.outgoing.receipts

        async def slow() -> Any:
            found = await read()
            if found:
                agent.session.quiet(on=True)
                agent.outgoing.add_report(CellReport("shop", "cart", "dev", "ready"))
            return found

        agent.outgoing.receipts = slow  # type: ignore[method-assign]
        running = asyncio.ensure_future(agent.session.run())
        await agent.outgoing.add_receipt(ReceiptFacts(1, "shop", "cart", "dev", "sha256:" + "1" * 64, accepted=True))
        await hub.got("heartbeat")
        assert not {"receipt", "cell_status"} & {frame.WhichOneof("body") for frame in hub.frames}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_unchanged_status_is_not_repeated_and_a_change_is_told_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand idle agents must not cost the hub a frame and an answer each, every few seconds."""

    async def script(hub: ScriptedHub) -> AsyncIterator[link_pb2.HubFrame]:
        yield hub.welcome()
        await asyncio.Event().wait()

    def bodies(hub: ScriptedHub, kind: str) -> int:
        return sum(frame.WhichOneof("body") == kind for frame in hub.frames)

    async with scene(tmp_path, script) as (hub, agent):
        running = asyncio.ensure_future(agent.session.run())
        while bodies(hub, "heartbeat") < 4:
            agent.status.spool_depth = bodies(hub, "heartbeat") + 1
            await asyncio.sleep(0.01)
        first = bodies(hub, "agent_status")
        assert first <= 2, "the first one, and that there are records at all"
        agent.status.authority = "authors+hub"
        while bodies(hub, "agent_status") == first:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(session, "STATUS_AT_LEAST", 0.0)
        agent.status.authority = "authors"
        before = bodies(hub, "agent_status")
        while bodies(hub, "agent_status") < before + 3:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_change_of_the_status_does_not_wait_for_a_heartbeat(tmp_path: Path) -> None:
    """Heartbeats are rare, and nothing else wakes an agent that has nothing to say but that its spool is empty."""

    async def script(hub: ScriptedHub) -> AsyncIterator[link_pb2.HubFrame]:
        yield hub.welcome()
        await asyncio.Event().wait()

    async with scene(tmp_path, script, heartbeat=3600.0) as (hub, agent):
        agent.status.spool_depth = 7
        running = asyncio.ensure_future(agent.session.run())
        async with asyncio.timeout(20):
            assert (await hub.got("agent_status")).agent_status.spool_depth == 7
            agent.status.spool_depth = 0
            while hub.frames[-1].agent_status.spool_depth or hub.frames[-1].WhichOneof("body") != "agent_status":
                await asyncio.sleep(0.01)
        assert not any(frame.WhichOneof("body") == "heartbeat" for frame in hub.frames)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
