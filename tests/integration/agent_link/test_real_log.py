"""Both halves of the audit trail together: the agent's spool and proofs against the hub's own log (V13)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from agent.audit.interfaces import Entry
from agent.spool.interfaces import AnchorState
from agent.spool.state import open_state
from cellward.audit.vkey import format_vkey
from cellward.identity.keys import spki_of
from cellward.runtime.clock import SystemClock
from hub.audit.port import AuditIngest
from hub.audit.service import AuditLog
from hub.store.log import AuditEvent
from hub.sync.limits import SyncLimits
from tests.fakes.anchor import FakeAnchor
from tests.fakes.authority import REALM
from tests.fakes.linked_agent import LinkedAgent, until
from tests.fakes.ports import FakeLinkHub
from tests.fakes.store import scratch_store


async def _drained(agent: LinkedAgent) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 30
    while await agent.db.audit.depth():
        assert loop.time() < deadline, f"never freed: {agent.condition('audit-push')}"
        await asyncio.sleep(0.01)


async def test_v13_the_agent_accepts_the_proofs_of_the_hubs_log_across_restarts_and_epochs(tmp_path: Path) -> None:
    """Records, a restart, and a new epoch after lost state: all taken, proved and freed, and the log grew by each."""
    clock = SystemClock()
    hub = FakeLinkHub(clock, SyncLimits(recheck=0.1, heartbeat=0.2))
    log = AuditLog(scratch_store(clock).audit, hub.hub.keys.tree_head, lambda: REALM, clock)
    hub.ports = replace(hub.ports, audit=AuditIngest(log, hub.hub.clusters.get, hub))
    hub.log_origin = format_vkey(log.origin, spki_of(hub.hub.keys.tree_head))
    async with hub.running():
        token = await hub.invite("eu-1")
        agent = LinkedAgent(tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, token)
        for count in (40, 3):
            async with agent.boot():
                await until(agent.is_ok("hub-link"), "the link is up")
                for number in range(count):
                    await agent.recorder.record(Entry("cell.apply", f"Cell//{number}", "done"))
                    await log.append(AuditEvent("hub", "hub.start", "Hub", "done"))
                await _drained(agent)
                view = await agent.db.audit.log_view()
        assert 43 < view.size <= 86
        anchored = replace(await _position(tmp_path / "state"), seq=1000)
        opened = await open_state(tmp_path / "state", clock=clock, anchor=FakeAnchor(anchored))
        assert opened.db.epoch == 2
        await opened.db.close()
        async with agent.boot():
            await agent.recorder.record_findings()
            await _drained(agent)
            assert (await agent.db.audit.log_view()).size > view.size
        assert log.refused == {}


async def _position(directory: Path) -> AnchorState:
    opened = await open_state(directory, clock=SystemClock())
    position = await opened.db.position()
    await opened.db.close()
    return position
