"""How one session follows the other: nothing is lost or sent twice, and a hub that is slow costs nobody the link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc.aio
import pytest

from agent.link import channels, succession
from agent.link.interfaces import Platform, ReceiptFacts
from cellward.errors import CellwardError
from cellward.runtime.clock import SystemClock
from cellward.wire.codec import DesiredItem
from cellward.wire.v1 import link_pb2
from hub.authority.errors import LOCKED
from hub.sync.limits import SyncLimits
from tests.fakes.authority import REALM
from tests.fakes.linked_agent import LinkedAgent, until
from tests.fakes.ports import FakeFleet, FakeLinkHub

D1 = "sha256:" + "1" * 64


@dataclass
class SlowFleet(FakeFleet):
    """A fleet whose answers to Hello and to receipts a test can hold back or refuse."""

    hello_go: asyncio.Event = field(default_factory=asyncio.Event)
    receipt_go: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)
    hello_refused: CellwardError | None = None

    async def hello(self, cluster: str, hello: link_pb2.Hello) -> None:
        """Answer late, or not at all."""
        await self.hello_go.wait()
        if self.hello_refused is not None:
            raise self.hello_refused
        await super().hello(cluster, hello)

    async def receipt(self, cluster: str, receipt: link_pb2.Receipt) -> None:
        """Make it durable late."""
        self.begun.append(receipt.cell)
        await self.receipt_go.wait()
        await super().receipt(cluster, receipt)


@dataclass
class SlowPlatform:
    """Says where the agent runs, which it asks before each Hello, as late as a test likes."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0

    async def __call__(self) -> Platform:
        """Answer late that this is not known."""
        self.asked += 1
        await self.go.wait()
        return Platform(uid="", authority_sha256="")


@dataclass
class Scene:
    """A hub that can be slow, and an agent that is linked to it."""

    hub: FakeLinkHub
    fleet: SlowFleet
    platform: SlowPlatform
    agent: LinkedAgent

    @property
    def client_failed(self) -> int:
        """Sessions that failed."""
        return self.agent.parts.client.sessions_failed

    async def send(self, *cells: str) -> None:
        """Send receipts."""
        for cell in cells:
            await self.agent.parts.client.send_receipt(ReceiptFacts(1, "shop", cell, "dev", D1, accepted=True))

    async def nothing_waits(self) -> None:
        """Wait until every receipt was acknowledged."""
        async with asyncio.timeout(30):
            while await self.agent.db.outbox.pending():
                await asyncio.sleep(0.01)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A linked agent."""
    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2, drain_min_ms=10, drain_max_ms=50))
    fleet = hub.fleet = SlowFleet(hub.changes)
    hub.ports = replace(hub.ports, fleet=fleet)
    platform = SlowPlatform()
    platform.go.set()
    fleet.hello_go.set()
    fleet.receipt_go.set()
    async with hub.running():
        token = await hub.invite("eu-1")
        agent = LinkedAgent(tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, token)
        agent.platform = platform
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            yield Scene(hub, fleet, platform, agent)
            platform.go.set()
            fleet.hello_go.set()
            fleet.receipt_go.set()


async def test_v5_a_slow_welcome_keeps_the_old_session_until_the_new_one_is_there(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub takes longer than one try: items go on coming on the old session, and the switch is tried again."""
    monkeypatch.setattr(succession, "HANDOVER_TIMEOUT", 0.2)
    scene.fleet.hello_go.clear()
    await scene.agent.parts.keeper.renew()
    await until(lambda: scene.client_failed >= 2, "it was tried twice")
    scene.hub.fleet.put("eu-1", DesiredItem(0, "shop", "a", "dev", D1))
    await until(lambda: [item.cell for item in scene.agent.ports.items] == ["a"], "the old session goes on")
    await scene.send("a")
    await scene.nothing_waits()
    assert scene.agent.is_ok("hub-link")()
    assert scene.agent.parts.client.sessions_welcomed == 1
    scene.fleet.hello_go.set()
    await until(lambda: scene.agent.parts.client.sessions_welcomed == 2, "the session moved over")
    await until(lambda: len(scene.fleet.open["eu-1"]) == 1, "the old one has ended")


async def test_why_a_session_could_not_be_handed_over_is_told(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """The hub refuses the new session: its reason is in the log, and the old one goes on."""
    scene.fleet.hello_refused = LOCKED("the cluster is looked at")
    await scene.agent.parts.keeper.renew()
    await until(lambda: scene.client_failed >= 1, "it was tried")
    assert "authority/locked" in capsys.readouterr().out
    assert scene.agent.is_ok("hub-link")()
    scene.fleet.hello_refused = None
    await until(lambda: scene.agent.parts.client.sessions_welcomed == 2, "the session moved over")


async def test_v5_v7_a_handover_that_a_newer_renewal_overtakes_is_no_failure(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Hello comes so late that its key was followed by newer ones: the next channel is taken, nobody is locked."""
    scene.platform.go.clear()
    asked = scene.platform.asked
    await scene.agent.parts.keeper.renew()
    await until(lambda: scene.platform.asked > asked, "the first successor is about to say Hello")
    # Two more: the second one is asked for with the key that the first one brought, and so puts it to use.
    await scene.agent.parts.keeper.renew()
    await scene.agent.parts.keeper.renew()
    scene.platform.go.set()
    await until(lambda: scene.agent.parts.client.sessions_welcomed == 2, "the session moved over")
    assert "authority/overtaken" in capsys.readouterr().out, "the first successor was refused"
    assert scene.fleet.hellos[-1][1].generation == scene.hub.hub.clusters.rows["eu-1"].generation == 4
    assert scene.client_failed == 0
    assert scene.agent.is_ok("hub-link")()
    assert not scene.hub.hub.clusters.locks
    await scene.send("a")
    await scene.nothing_waits()


async def test_v5_a_channel_that_is_replaced_while_it_connects_is_left(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal falls between the connection and the session: that session moves over like any other.

    Or the newer one says Hello first, and the hub refuses the older one (V7): that is no failure either.
    """
    renewed: list[int] = []

    async def then_renew(channel: grpc.aio.Channel, replaced: asyncio.Event, seconds: float) -> bool:
        is_there = await channels.connected(channel, replaced, seconds)
        if not renewed:
            renewed.append((await scene.agent.parts.keeper.renew()).generation)
        return is_there

    monkeypatch.setattr(succession, "connected", then_renew)
    scene.agent.parts.client._succession.reconnect()
    await until(lambda: scene.fleet.hellos[-1][1].generation == 2, "it came to the new channel")
    assert renewed == [2]
    await until(lambda: len(scene.fleet.open["eu-1"]) == 1, "the old one has ended")
    await until(scene.agent.is_ok("hub-link"), "the link is up")
    assert scene.client_failed == 0


async def test_an_agent_that_ends_in_the_middle_of_a_handover_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while the successor waits for its welcome: both sessions end, not only when their channels do."""

    async def nothing() -> None:
        return

    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2, linger=0.2))
    fleet = hub.fleet = SlowFleet(hub.changes)
    hub.ports = replace(hub.ports, fleet=fleet)
    fleet.hello_go.set()
    async with hub.running():
        token = await hub.invite("eu-1")
        agent = LinkedAgent(tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, token)
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            fleet.hello_go.clear()
            await agent.parts.keeper.renew()
            await until(lambda: len(sessions_running()) == 2, "two sessions")
            close = agent.parts.channels.close
            monkeypatch.setattr(agent.parts.channels, "close", nothing)
        left = sessions_running()
        await close()
        assert not left


async def test_v13_what_was_on_the_way_when_the_hub_drains_arrives_once(scene: Scene) -> None:
    """The hub goes away while it handles receipts: they are acknowledged on the stream that carried them."""
    scene.fleet.receipt_go.clear()
    await scene.send("a", "b", "c")
    await until(lambda: scene.fleet.begun == ["a"], "the first one is being handled")
    draining = asyncio.create_task(scene.hub.link.link.drain(5))
    await asyncio.sleep(0)
    await scene.send("d")
    scene.fleet.receipt_go.set()
    await draining
    arrived = [receipt.cell for _, receipt in scene.fleet.receipts]
    assert "a" in arrived
    assert len(arrived) == len(set(arrived)), "nothing comes twice"
    async with asyncio.timeout(30):
        while {key.cell for _, key, _ in await scene.agent.db.outbox.pending()} != {*"abcd"} - {*arrived}:
            await asyncio.sleep(0.01)
    assert scene.fleet.begun == arrived, "what is acknowledged was made durable, and the rest was never sent"


async def test_v13_what_was_on_the_way_when_the_agent_reconnects_arrives_once(scene: Scene) -> None:
    """A reconnect command closes the stream in good order: nothing is lost, nothing comes twice."""
    scene.fleet.receipt_go.clear()
    await scene.send("a", "b", "c")
    await until(lambda: scene.fleet.begun == ["a"], "the first one is being handled")
    scene.agent.parts.client._succession.reconnect()
    await scene.send("d")
    await asyncio.sleep(0)
    scene.fleet.receipt_go.set()
    await until(lambda: scene.agent.parts.client.sessions_welcomed == 2, "a new session")
    await scene.nothing_waits()
    assert sorted(scene.fleet.begun) == ["a", "b", "c", "d"]
    assert scene.client_failed == 0


def sessions_running() -> list[str]:
    """Tasks that run a session."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return [name for name in names if name == "Session.run"]
