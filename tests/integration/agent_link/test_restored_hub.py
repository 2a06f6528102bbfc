"""A whole hub that `restore` brought back to an older backup, and the link of an agent that had seen more (V1, V14)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent.audit.interfaces import Entry
from cellward.documents.dsse import parse_envelope
from cellward.documents.facts import Selector
from cellward.documents.floors import Floor, check_floor
from cellward.documents.keyring import Keyring
from cellward.documents.model import Deployment, Release
from cellward.errors import CellwardError
from cellward.wire.codec import DesiredItem
from hub.app import Hub, open_hub
from hub.authority.keystore import KeyStore
from hub.authority.model import HubKeys
from hub.keeping import back_up, fsck, restore
from hub.settings import HubSettings
from tests.fakes.linked_agent import FakePorts, LinkedAgent, until
from tests.fakes.policy import PolicyWorld, starter_archive
from tests.fakes.signed import Author, Keys, digest
from tools.stack.ports import free_ports

NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass
class Floored(FakePorts):
    """Takes an item as an agent's intake does, by the floors in its own state: what is older is refused."""

    agent: LinkedAgent | None = None
    running: dict[str, int] = field(default_factory=dict)
    older: list[str] = field(default_factory=list)

    async def on_item(self, item: DesiredItem) -> None:
        """Fetch the document over the link, compare it with the floor, raise that."""
        await super().on_item(item)
        assert self.agent is not None
        data = await self.agent.parts.content.fetch_digest(item.deployment_digest, 1024 * 1024)
        assert data is not None
        sequence = int(json.loads(parse_envelope(data).payload)["sequence"])
        floors = self.agent.db.floors
        try:
            check_floor(await floors.get(*item.key), sequence, item.deployment_digest, NOW)
        except CellwardError as error:
            self.older.append(error.code)
            return
        await floors.set(*item.key, Floor(sequence, item.deployment_digest, NOW))
        self.running[item.cell] = sequence


@dataclass
class Signed:
    """What one author signs now."""

    author: Author

    def release(self, cell: str) -> bytes:
        """A release."""
        return self.author.sign(
            Release(
                realm=self.author.realm, project="shop", cell=cell, version="1", owner="ada", spec={}, issued_at=NOW
            )
        )  # fmt: skip

    def deployment(self, cell: str, sequence: int) -> bytes:
        """A placement of it."""
        return self.author.sign(
            Deployment(
                realm=self.author.realm, project="shop", cell=cell, environments=("dev",), sequence=sequence,
                release_digest=digest(self.release(cell)), issued_at=NOW, not_after=NOW + timedelta(days=1),
                cluster_selector=Selector(all=True),
            )
        )  # fmt: skip


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A process sets up logging for good; other tests must not write to its standard error."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> PolicyWorld:
    """A policy authority whose root names the timestamp key of the hub."""
    made, opened = PolicyWorld(), KeyStore.open

    def open_keys(store: KeyStore, now: datetime) -> HubKeys:
        return replace(opened(store, now), timestamp=made.hub_key._key)

    monkeypatch.setattr(KeyStore, "open", open_keys)
    return made


@pytest.fixture
def settings(tmp_path: Path) -> HubSettings:
    """A hub that comes back at the same addresses."""
    (tmp_path / "backups").mkdir()
    names = dict(zip(("enrolment", "link", "api"), (f"127.0.0.1:{port}" for port in free_ports(3)), strict=True))
    given: dict[str, Any] = {"data_dir": tmp_path / "data", "listen": {**names, "metrics": ""}, "drain_seconds": 0.2}
    return HubSettings.model_validate({**given, "backup_dir": tmp_path / "backups", "log_level": "error"})


@asynccontextmanager
async def serving(settings: HubSettings) -> AsyncIterator[Hub]:
    """Run the whole hub until the context ends."""
    async with open_hub(settings) as hub:
        stop = asyncio.Event()
        running = asyncio.ensure_future(hub.run(stop))
        try:
            yield hub
        finally:
            stop.set()
            await running


async def test_v1_v14_an_agent_meets_a_hub_restored_from_an_older_backup(
    settings: HubSettings, world: PolicyWorld, tmp_path: Path
) -> None:
    """It sees the new history, is sent everything again, takes nothing older, ends nothing, and loses no record."""
    signed, ports = Signed(Author(world.realm)), Floored()
    async with serving(settings) as hub:
        token = await installed(hub, world, signed.author)
        agent = LinkedAgent(
            tmp_path / "agent", world.realm, settings.enrolment_address, hub.keys.hub_ca.pem, token, ports=ports
        )
        ports.agent = agent
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            await hub.documents.accept([signed.release("cart"), signed.deployment("cart", 1)])
            await until(lambda: ports.running.get("cart") == 1, "the first release")
            await agent.recorder.record(Entry("cell.apply", "before", "done"))
            await drained(agent)
            made = await back_up(settings, settings.backup_dir)
            await hub.documents.accept([signed.deployment("cart", 2)])
            await hub.documents.accept([signed.release("web"), signed.deployment("web", 1)])
            await until(lambda: ports.running == {"cart": 2, "web": 1}, "what the backup lacks")
            await agent.recorder.record(Entry("cell.apply", "after", "done"))
            await drained(agent)
            epoch, seen = hub.store.hub_epoch, await agent.db.audit.log_view()
        # The agent is away while the hub is restored; its state stays.
    said = await restore(settings, Path(str(made["file"])))
    ports.items.clear()
    async with serving(settings) as hub:
        assert hub.store.hub_epoch == said["hubEpoch"] != epoch
        async with agent.boot():
            await agent.recorder.record_findings()
            await until(lambda: bool(ports.older), "the older Deployment was listed again, and met the floor")
            assert set(ports.older) == {"document/older-sequence"}
            assert ports.running == {"cart": 2, "web": 1}, "nothing went back"
            assert ports.withdrawn == [], "V14: what the hub does not name any more goes on"
            await agent.recorder.record(Entry("cell.apply", "later", "done"))
            await drained(agent)
            assert (await agent.db.audit.log_view()).hub_epoch == said["hubEpoch"]
            # The people upload again what was signed since: it is the very one that runs.
            await hub.documents.accept(
                [signed.deployment("cart", 2), signed.release("web"), signed.deployment("web", 1)]
            )
            both = {digest(signed.deployment("cart", 2)), digest(signed.deployment("web", 1))}
            await until(lambda: both <= {item.deployment_digest for item in ports.items}, "both are listed")
            await until(agent.is_ok("desired-items"), "hub and agent name the same")
            assert ports.running == {"cart": 2, "web": 1}
            assert set(ports.older) == {"document/older-sequence"}
        records = [json.loads(found.record) for found in await hub.audit.tail(0, 1000)]
    mine = [one["object"] for one in records if one["origin"].startswith("agent:") and one["action"] == "cell.apply"]
    assert mine == ["before", "later"]
    finding = next(one for one in records if one["action"] == "audit.rollback")
    assert (finding["details"]["size"], finding["details"]["root"]) == (str(seen.size), seen.root)
    assert [one["action"] for one in records if one["action"] == "hub.restore"] == ["hub.restore"]
    # And that it stopped.
    assert (await fsck(settings, None))["auditRecords"] == len(records) + 1


async def installed(hub: Hub, world: PolicyWorld, author: Author) -> str:
    """Adopt the realm, publish policy with the author's key, invite eu-1; return its join token."""
    entries = tuple(Keys(author).entries.values())
    world.record = replace(world.record, keyring=Keyring(world.realm, 1, entries))
    await hub.realm.adopt(world.root)
    await hub.policy.publish(world.publish(starter_archive()))
    await hub.clusters.create_cluster("eu-1", "ada")
    invited = {"environments": ["dev"], "production": False, "projects": ["*"], "region": "", "labels": {}}
    await hub.store.clusters.set_invited("eu-1", invited)
    return await hub.tokens.mint("eu-1", lifetime=timedelta(minutes=5))


async def drained(agent: LinkedAgent) -> None:
    """Wait until every record is in the hub's log."""
    async with asyncio.timeout(30):
        while await agent.db.audit.depth():
            await asyncio.sleep(0.01)
