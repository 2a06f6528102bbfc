"""An outage of a week needs no human: real agent link, real listeners, only the clocks of both sides are moved."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.audit.statement import StatementKey
from agent.link.identity import IdentityStore, accept_identity
from agent.spool.state import open_state
from cellward.identity import keys
from cellward.identity.x509 import make_csr
from cellward.wire.codec import DesiredItem
from hub.authority.model import Attempt
from hub.sync.limits import SyncLimits
from tests.fakes.authority import REALM
from tests.fakes.clock import ShiftedClock
from tests.fakes.linked_agent import LinkedAgent, until
from tests.fakes.ports import FakeLinkHub
from tools.stack.ports import free_ports

WEEK = 7 * 24 * 3600.0


async def joined_then(hub: FakeLinkHub, directory: Path, link_port: int) -> str:
    """Let an agent join at the time of the hub's clock, and keep what it got where it keeps it; returns its uid.

    Not over TLS: to the TLS library it is today, and a certificate of a week ago has ended.
    """
    db = (await open_state(directory, clock=hub.clock)).db
    uid, statement = db.uid, StatementKey.load_or_create(directory)
    await db.close()
    key = keys.new_tls_key()
    attempt = Attempt(await hub.invite("eu-1"), make_csr(key), REALM, uid, statement.spki_der, "192.0.2.1")
    joined = await hub.hub.identity.join(attempt)
    identity = accept_identity(
        key,
        joined.certificate.chain_pem.decode(),
        hub.hub.authority.hub_ca_pem.decode(),
        trust_domain=joined.trust_domain,
        link_address=f"127.0.0.1:{link_port}",
        now=hub.clock.now(),
    )
    IdentityStore(directory).save(identity)
    return uid


@pytest.mark.parametrize("running", [True, False], ids=["the agent runs on", "the agent was off as well"])
async def test_v7_after_a_week_without_a_hub_the_agent_comes_back_by_itself(tmp_path: Path, running: bool) -> None:
    """Its certificate ended six days and 23 hours ago; no token, no restart, no person; the identity is the same."""
    clock = ShiftedClock(-WEEK)
    hub = FakeLinkHub(clock, SyncLimits(recheck=0.1, heartbeat=0.2))
    link, enrolment = free_ports(2)
    uid = await joined_then(hub, tmp_path / "state", link)
    ca = hub.hub.authority.hub_ca_pem
    agent = LinkedAgent(tmp_path, REALM, f"127.0.0.1:{enrolment}", ca, timer=clock)
    if not running:
        clock.advance(WEEK)
    async with agent.boot():
        if running:
            await until(agent.has_code("hub-link", "link/hub-unavailable"), "the hub is away")
            assert agent.is_ok("certificate")()
            clock.advance(WEEK)
            await until(lambda: not agent.is_ok("certificate")(), "the certificate has ended meanwhile")
        async with hub.running(link_port=link, enrolment_port=enrolment):
            await until(agent.is_ok("hub-link"), "the link is up again", seconds=40)
            assert agent.is_ok("certificate")()
            row = hub.hub.clusters.rows["eu-1"]
            assert (row.uid, row.generation, row.previous_spki_sha256) == (uid, 2, "")
            hub.fleet.put("eu-1", DesiredItem(0, "shop", "a", "dev", "sha256:" + "1" * 64))
            await until(lambda: len(agent.ports.items) == 1, "an item over the new link")
    recovered = [each for each in hub.hub.audit.entries if each.action == "certificate.recover"]
    assert [(each.decision, each.object) for each in recovered] == [("allow", "Cluster//eu-1")]
    assert hub.hub.clusters.locks == []
