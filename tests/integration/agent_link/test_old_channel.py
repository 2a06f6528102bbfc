"""Calls that are under way while the certificate is renewed: they end well, or plainly, and nothing dies of it (V5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.audit.interfaces import Entry
from agent.link import channels
from agent.link.content import FETCH_TIMEOUT
from agent.link.succession import HANDOVER_TIMEOUT
from cellward.errors import CellwardError
from cellward.runtime.clock import SystemClock
from cellward.wire.codec import DesiredItem
from cellward.wire.v1 import telemetry_pb2
from hub.sync.limits import SyncLimits
from tests.fakes.authority import REALM
from tests.fakes.linked_agent import LinkedAgent, until
from tests.fakes.merkle_audit import MerkleAudit
from tests.fakes.ports import FakeContent, FakeLinkHub, FakeMetrics

D1 = "sha256:" + "1" * 64


@dataclass
class Stall:
    """Holds every call to the telemetry and content services until it is let go, and counts those held."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    held: set[str] = field(default_factory=set)

    async def hold(self, what: str) -> None:
        """Wait."""
        self.held.add(what)
        await self.go.wait()


class StalledContent(FakeContent):
    """Content that stalls."""

    stall: Stall

    async def by_digest(self, cluster: str, digest: str) -> bytes | None:
        """Answer late."""
        await self.stall.hold("content")
        return await super().by_digest(cluster, digest)


class StalledMetrics(FakeMetrics):
    """Metrics that stall."""

    stall: Stall

    async def push(self, cluster: str, batch: telemetry_pb2.MetricsBatch) -> int:
        """Answer late."""
        await self.stall.hold("metrics")
        return await super().push(cluster, batch)


class StalledAudit(MerkleAudit):
    """A log that stalls."""

    stall: Stall

    async def ingest(self, cluster: str, batch: telemetry_pb2.AuditBatch) -> telemetry_pb2.AuditAck:
        """Answer late."""
        await self.stall.hold("audit")
        return await super().ingest(cluster, batch)


@dataclass
class Scene:
    """A hub that stalls, and an agent that is linked to it with calls under way."""

    hub: FakeLinkHub
    agent: LinkedAgent
    stall: Stall
    content: FakeContent
    audit: MerkleAudit
    metrics: FakeMetrics

    async def under_way(self, digest: str) -> asyncio.Task[bytes | None]:
        """Begin a fetch and a push of each kind, and return the fetch once all three are held at the hub."""
        await self.agent.recorder.record(Entry("cell.apply", "Cell//a", "done"))
        fetch = asyncio.create_task(self.agent.parts.content.fetch_digest(digest, 100))
        await until(lambda: self.stall.held >= {"content", "metrics", "audit"}, "three calls are under way")
        return fetch

    async def drained(self) -> None:
        """Wait until every record is proved to be in the log."""
        async with asyncio.timeout(30):
            while await self.agent.db.audit.depth():
                await asyncio.sleep(0.01)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A linked agent and a hub that stalls everything but the session."""
    stall, content, audit, metrics = Stall(), StalledContent(), StalledAudit(REALM), StalledMetrics()
    content.stall = audit.stall = metrics.stall = stall
    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2))
    hub.ports = replace(hub.ports, content=content, audit=audit, metrics=metrics)
    hub.log_origin = audit.vkey
    async with hub.running():
        token = await hub.invite("eu-1")
        agent = LinkedAgent(tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, token)
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            yield Scene(hub, agent, stall, content, audit, metrics)
            stall.go.set()


async def test_v5_a_call_under_way_when_the_certificate_is_renewed_is_finished(scene: Scene) -> None:
    """The old channel stays for whatever was begun on it: a fetch that is answered late arrives whole."""
    digest = scene.content.put(b"late")
    fetch = await scene.under_way(digest)
    await scene.agent.parts.keeper.renew()
    await until(lambda: scene.agent.parts.client.sessions_welcomed == 2, "the session moved over")
    assert not fetch.done()
    scene.stall.go.set()
    assert await fetch == b"late"
    await scene.drained()
    assert scene.agent.parts.client.sessions_failed == 0


async def test_v5_v16_a_channel_closed_under_a_call_kills_neither_caller_nor_push(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub stalls every call until the old channel is gone: a plain error for the fetch, new streams for the rest."""
    monkeypatch.setattr(channels, "OLD_CHANNEL_GRACE", 0.05)
    fetch = await scene.under_way(scene.content.put(b"late"))
    await scene.agent.parts.keeper.renew()
    with pytest.raises(CellwardError) as caught:
        async with asyncio.timeout(30):
            await fetch
    assert caught.value.code == "link/hub-unavailable"
    scene.metrics.snapshots.clear()
    scene.stall.go.set()
    await scene.drained()
    await until(lambda: "eu-1" in scene.metrics.snapshots, "metrics go on")
    scene.hub.fleet.put("eu-1", DesiredItem(0, "shop", "a", "dev", D1))
    await until(lambda: [item.cell for item in scene.agent.ports.items] == ["a"], "the session goes on")


async def test_v5_renewal_upon_renewal_keeps_a_bounded_number_of_channels(scene: Scene) -> None:
    """A hub may order renewals as often as it likes: the oldest channel goes at once, its calls fail plainly."""
    fetch = await scene.under_way(scene.content.put(b"late"))
    for _ in range(channels.MAX_OLD_CHANNELS):
        await scene.agent.parts.keeper.renew()
    assert not fetch.done()
    await scene.agent.parts.keeper.renew()
    with pytest.raises(CellwardError) as caught:
        async with asyncio.timeout(30):
            await fetch
    assert caught.value.code == "link/hub-unavailable"
    assert len(scene.agent.parts.channels._closing) <= channels.MAX_OLD_CHANNELS + 1


def test_v5_an_old_channel_outlives_what_may_be_under_way_on_it() -> None:
    """A fetch and the opening of the next session have bounds of their own, and the old channel waits for both."""
    assert max(FETCH_TIMEOUT, HANDOVER_TIMEOUT) < channels.OLD_CHANNEL_GRACE
