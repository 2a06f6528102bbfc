"""Certificates in time: renewal at half life by itself, and the way back from an expired one (V5)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from agent.audit.interfaces import Entry
from agent.link import enrolment
from agent.link.identity import IdentityStore, LinkIdentity, accept_identity
from cellward.identity import keys
from cellward.identity.names import SpiffeId
from cellward.identity.x509 import issue_leaf, make_ca, to_pem
from cellward.runtime.clock import SystemClock
from cellward.wire.codec import DesiredItem
from hub.authority.model import Attempt, Joined, RecoveryAttempt
from hub.sync.limits import SyncLimits
from tests.fakes.authority import REALM
from tests.fakes.clock import ShiftedClock
from tests.fakes.linked_agent import LinkedAgent, until
from tests.fakes.ports import FakeLinkHub


async def test_v5_the_agent_renews_at_half_life_and_the_stream_moves_over(tmp_path: Path) -> None:
    """Half an hour passes for the agent: a new certificate, a new stream beside the old one, and items keep coming."""
    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2))
    async with hub.running():
        clock = ShiftedClock()
        token = await hub.invite("eu-1")
        agent = LinkedAgent(tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, token, timer=clock)
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            first = agent.parts.channels.identity
            assert first is not None
            delays = [agent.parts.keeper.renewal_delay(first) for _ in range(200)]
            assert 0.44 * first.lifetime <= min(delays) < max(delays) <= 0.56 * first.lifetime
            clock.advance(0.56 * first.lifetime)
            await until(lambda: hub.hub.clusters.rows["eu-1"].generation == 2, "the certificate was renewed")
            await until(lambda: agent.parts.client.sessions_welcomed == 2, "a stream with the new one")
            await until(lambda: len(hub.fleet.open["eu-1"]) == 1, "the old stream has ended")
            hub.fleet.put("eu-1", DesiredItem(0, "shop", "a", "dev", "sha256:" + "1" * 64))
            await until(lambda: len(agent.ports.items) == 1, "an item on the new stream")
            assert agent.parts.client.sessions_failed == 0


def _store_expired(hub: FakeLinkHub, directory: Path, address: str) -> LinkIdentity:
    """Put an identity that ended an hour ago where the agent keeps its own."""
    past = hub.clock.now() - timedelta(hours=2)
    key = keys.new_tls_key()
    uri = SpiffeId(hub.hub.authority.trust_domain(), "agent", "eu-1")
    issuer = make_ca("agents", keys.new_tls_key(), past)
    leaf = issue_leaf(issuer, key.public_key(), kind="agent", uri=uri, now=past)
    expired = accept_identity(
        key,
        (to_pem(leaf) + issuer.pem).decode(),
        hub.hub.authority.hub_ca_pem.decode(),
        trust_domain=uri.trust_domain,
        link_address=address,
        now=past,
    )
    directory.mkdir(parents=True)
    IdentityStore(directory).save(expired)
    return expired


async def test_an_agent_whose_certificate_expired_says_so_and_comes_back_with_a_token(tmp_path: Path) -> None:
    """A hub that does not know the key: the condition names it and the way out, and a new token works at once."""
    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2))
    async with hub.running():
        _store_expired(hub, tmp_path / "state", hub.link.address)
        agent = LinkedAgent(tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, token="")
        async with agent.boot():
            await until(agent.has_code("certificate", "link/certificate-expired"), "the expiry is visible")
            # V1: what needs no hub was not kept waiting, and the name is known.
            assert agent.parts.cluster_name() == "eu-1"
            assert await agent.recorder.record(Entry("cell.apply", "Cell//x", "done")) >= 1
            (tmp_path / "token").write_text(await hub.invite("eu-1"))
            await until(agent.is_ok("hub-link"), "the link is up")


async def test_v1_a_restart_while_the_hub_is_away_for_hours_does_not_wait_for_it(tmp_path: Path) -> None:
    """An expired identity and no hub: obtain() returns at once, so that enforcement begins."""
    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2))
    _store_expired(hub, tmp_path / "state", "127.0.0.1:9")
    agent = LinkedAgent(tmp_path, REALM, "127.0.0.1:9", hub.hub.authority.hub_ca_pem)
    async with agent.boot():
        async with asyncio.timeout(2):
            identity = await agent.parts.keeper.obtain()
        assert identity.name == "eu-1"
        assert agent.has_code("certificate", "link/certificate-expired")()


async def test_v3_a_hub_cannot_rename_a_cluster_by_letting_it_join_again(tmp_path: Path) -> None:
    """Selectors and bindings match the name: it stays what it was, whatever certificate comes for a token."""
    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2))
    async with hub.running():
        _store_expired(hub, tmp_path / "state", hub.link.address)
        token = await hub.invite("us-1")
        agent = LinkedAgent(tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, token)
        async with agent.boot():
            await until(agent.has_code("certificate", "link/certificate-expired"), "the refusal is visible")
            assert agent.parts.cluster_name() == "eu-1"
        found = IdentityStore(tmp_path / "state").load()
        assert found is not None
        assert found.name == "eu-1"


async def test_v6_a_fleet_that_expired_in_an_outage_does_not_keep_newcomers_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spent token is shown once, not every few seconds: refusals count against everybody behind one address."""
    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2))
    async with hub.running():
        join, joins = hub.hub.identity.join, list[str]()

        async def counted(attempt: Attempt) -> Joined:
            joins.append(attempt.token)
            return await join(attempt)

        recover, recoveries = hub.hub.identity.recover, 0

        async def recovering(attempt: RecoveryAttempt) -> bytes | Joined:
            nonlocal recoveries
            recoveries += not attempt.nonce
            return await recover(attempt)

        monkeypatch.setattr(enrolment, "LOOK", 60.0)
        monkeypatch.setattr(hub.hub.identity, "join", counted)
        monkeypatch.setattr(hub.hub.identity, "recover", recovering)
        _store_expired(hub, tmp_path / "state", hub.link.address)
        clock, spent = ShiftedClock(), "cwj_" + "0" * 64
        agent = LinkedAgent(tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, spent, timer=clock)
        async with agent.boot():
            await until(agent.has_code("certificate", "link/certificate-expired"), "the expiry is visible")
            await until(lambda: "unknown, expired or spent" in str(agent.condition("certificate")), "it was refused")
            # Each of its tries is a recovery and then a join: with the begin of the third two of them are over.
            async with asyncio.timeout(30):
                while recoveries < 3:
                    clock.advance(60)
                    await asyncio.sleep(0.005)
            assert joins == [spent]
            assert agent.parts.channels.channel is None, "nobody dials with an expired certificate"
            good = await hub.invite("eu-1")
            (tmp_path / "token").write_text(good)
            clock.advance(60)
            await until(agent.is_ok("hub-link"), "the link is up")
        assert joins == [spent, good]
