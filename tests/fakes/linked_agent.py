"""The real link of an agent over real parts of this side, with a recording stand-in for the rest of the agent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.audit.recorder import Recorder
from agent.audit.statement import StatementKey
from agent.link.channels import ChannelHolder
from agent.link.interfaces import (
    AgentDescription,
    CellReport,
    CommandOutcome,
    CommandRequest,
    ReadPlatform,
    ReceiptFacts,
)
from agent.metrics.registry import AgentMetrics
from agent.metrics.snapshot import take_snapshot
from agent.policy.position import PolicyPosition
from agent.settings import AgentSettings, FactSettings, IntervalSettings
from agent.spool.state import SqliteStateDb, open_state
from cellward.documents.facts import ClusterFacts
from cellward.documents.names import CellKey
from cellward.runtime.clock import SystemClock, Timer
from cellward.runtime.health import Condition, HealthRegistry
from cellward.wire.codec import DesiredItem
from tests.fakes.link_parts import LinkParts, build_link


@dataclass
class FakePorts:
    """Satisfies LinkPorts by writing down what it is told."""

    items: list[DesiredItem] = field(default_factory=list)
    notices: list[int] = field(default_factory=list)
    commands: list[CommandRequest] = field(default_factory=list)
    cells: list[CellReport] = field(default_factory=list)
    withdrawn: list[DesiredItem] = field(default_factory=list)
    refused: list[ReceiptFacts] = field(default_factory=list)
    accepted: bool = True
    ended: Sequence[CellKey] = ()

    async def on_item(self, item: DesiredItem) -> None:
        """Write it down."""
        self.items.append(item)

    async def on_refused(self, receipt: ReceiptFacts) -> None:
        """Write it down."""
        self.refused.append(receipt)

    async def on_withdrawn(self, item: DesiredItem) -> bool:
        """Write it down; True when the test says that nothing was accepted."""
        self.withdrawn.append(item)
        return not self.accepted

    async def on_full(self) -> Sequence[CellKey]:
        """Give way with what the test says has ended."""
        ended, self.ended = self.ended, ()
        return ended

    async def on_policy_notice(self, version: int) -> None:
        """Write it down."""
        self.notices.append(version)

    async def on_command(self, command: CommandRequest) -> CommandOutcome:
        """Write it down and say it went well."""
        self.commands.append(command)
        return CommandOutcome(ok=True, facts={"seen": command.kind.value})

    def policy(self) -> PolicyPosition:
        """Some versions."""
        return PolicyPosition(root=1, timestamp=2, snapshot=3, targets=4)

    def authority(self) -> str:
        """The default."""
        return "authors"

    def reports(self) -> list[CellReport]:
        """What the test set."""
        return list(self.cells)


@dataclass
class LinkedAgent:
    """One agent process, as far as the link goes. ``boot`` runs it until the context ends; the directory stays."""

    directory: Path
    realm: str
    enrolment_address: str
    hub_ca_pem: bytes
    token: str = ""
    timer: Timer = field(default_factory=SystemClock)
    ports: FakePorts = field(default_factory=FakePorts)
    db: SqliteStateDb = field(init=False)
    parts: LinkParts = field(init=False)
    recorder: Recorder = field(init=False)
    health: HealthRegistry = field(init=False)
    metrics: AgentMetrics = field(init=False)
    boots: int = 0
    heartbeat: float = 0.3
    platform: ReadPlatform | None = None

    @contextlib.asynccontextmanager
    async def boot(self) -> AsyncIterator[LinkedAgent]:
        """Start the process, run the link, stop it."""
        self.boots += 1
        settings = self._settings()
        self.db = (await open_state(settings.state_dir, clock=self.timer)).db
        self.health = HealthRegistry(self.timer)
        self.metrics = AgentMetrics()
        statement = StatementKey.load_or_create(settings.state_dir)
        await self.db.bind_statement_key(statement.keyid)
        channels = ChannelHolder()
        self.recorder = Recorder(
            self.db.audit,
            self.timer,
            realm=self.realm,
            uid=self.db.uid,
            cluster=lambda: channels.identity.name if channels.identity is not None else "",
            health=self.health,
        )
        facts = ClusterFacts(
            name="", uid=self.db.uid, environments=("dev",), production=False, labels={}, region="", projects=("*",)
        )
        self.parts = build_link(
            settings,
            AgentDescription(realm=self.realm, facts=facts, agent_version="0.1.0"),
            boot_id=f"boot-{self.boots}",
            db=self.db,
            statement=statement,
            recorder=self.recorder,
            ports=self.ports,
            collect=lambda: take_snapshot(self.metrics.registry),
            timer=self.timer,
            health=self.health,
            channels=channels,
            platform=self.platform,
        )
        running = asyncio.ensure_future(self.parts.client.run())
        try:
            yield self
            assert not running.done(), "run() never ends by itself"
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self.db.close()

    def condition(self, name: str) -> Condition | None:
        """One condition."""
        return next((condition for condition in self.health.get() if condition.name == name), None)

    def is_ok(self, name: str) -> Callable[[], bool]:
        """A question to poll: is this condition good?"""

        def ask() -> bool:
            condition = self.condition(name)
            return condition is not None and condition.ok

        return ask

    def has_code(self, name: str, code: str) -> Callable[[], bool]:
        """A question to poll: does this condition have that code?"""

        def ask() -> bool:
            condition = self.condition(name)
            return condition is not None and condition.code == code

        return ask

    def _settings(self) -> AgentSettings:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "hub-ca.pem").write_bytes(self.hub_ca_pem)
        (self.directory / "token").write_text(self.token)
        return AgentSettings(
            realm=self.realm,
            state_dir=self.directory / "state",
            root_file=self.directory / "root.json",
            enrolment_address=self.enrolment_address,
            hub_ca_file=self.directory / "hub-ca.pem",
            join_token_file=self.directory / "token",
            facts=FactSettings(name="eu-1", environments=("dev",), production=False),
            intervals=IntervalSettings(
                heartbeat=self.heartbeat, status=0.5, metrics=0.1, audit=0.05, backoff_base=0.05, backoff_cap=0.3
            ),
        )


async def until(question: Callable[[], bool], what: str, *, seconds: float = 30.0) -> None:
    """Poll a question until it is answered with yes; fail with ``what`` after a deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not question():
        assert loop.time() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.01)
