"""An agent that is taken from a stolen hub to a new one, by nothing but what its administrator installs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agent.audit.interfaces import Entry
from agent.link.identity import FILE_NAME, IdentityStore
from cellward.audit.record import parse_record
from cellward.audit.vkey import format_vkey
from cellward.identity.keys import spki_of
from cellward.identity.x509 import authority_keyids
from cellward.runtime.clock import SystemClock
from cellward.wire.codec import DesiredItem
from hub.audit.port import AuditIngest
from hub.audit.service import AuditLog
from hub.sync.limits import SyncLimits
from tests.fakes.authority import REALM
from tests.fakes.linked_agent import LinkedAgent, until
from tests.fakes.ports import FakeLinkHub
from tests.fakes.store import scratch_store

#: Items of the old hub and of the new one.
FIRST, SECOND = (DesiredItem(0, "shop", cell, "dev", "sha256:" + digit * 64) for cell, digit in ("a1", "b2"))


def hub_with_log() -> tuple[FakeLinkHub, AuditLog]:
    """A hub with keys and an audit log of its own."""
    clock = SystemClock()
    hub = FakeLinkHub(clock, SyncLimits(recheck=0.1, heartbeat=0.2))
    log = AuditLog(scratch_store(clock).audit, hub.hub.keys.tree_head, lambda: REALM, clock)
    hub.ports = replace(hub.ports, audit=AuditIngest(log, hub.hub.clusters.get, hub))
    hub.log_origin = format_vkey(log.origin, spki_of(hub.hub.keys.tree_head))
    return hub, log


def cells(agent: LinkedAgent) -> list[str]:
    """Cells of the items that the rest of the agent was given, in that order."""
    return [item.cell for item in agent.ports.items]


async def an_item_of_the_new_hub(agent: LinkedAgent, new: FakeLinkHub, *, named_before: bool) -> None:
    """V14: have the new hub name an item before the link is up or on it; what it does not name stays.

    The agent asks for everything once more because the hubs differ, so an item comes on both sessions; one named while
    the first session is being left comes on both, or on the second one alone, as the clock will have it.
    """
    if named_before:
        new.fleet.put("eu-1", SECOND)
    await until(agent.is_ok("hub-link"), "the link to the new hub is up")
    if not named_before:
        new.fleet.put("eu-1", SECOND)
    await until(agent.has_code("desired-items", "link/items-differ"), "it is seen that the hubs differ")
    await until(lambda: "b" in cells(agent), "an item of the new hub")
    assert cells(agent) == ["a", "b", "b"] or (not named_before and cells(agent) == ["a", "b"])
    assert {replace(item, revision=0) for item in await agent.db.items.list()} == {FIRST, SECOND}


async def drained(agent: LinkedAgent) -> None:
    """Wait until every record is proved to be in the hub's log."""
    deadline = asyncio.get_running_loop().time() + 30
    while await agent.db.audit.depth():
        assert asyncio.get_running_loop().time() < deadline, f"never freed: {agent.condition('audit-push')}"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("named_before", [False, True], ids=["named-on-the-link", "named-before-it"])
async def test_v7_v13_an_agent_leaves_a_stolen_hub_for_the_one_its_administrator_names(
    tmp_path: Path, named_before: bool
) -> None:
    """V7, V13: name, uid and records stay; the old hub is there all the time, and hears nothing any more."""
    (old, old_log), (new, new_log) = hub_with_log(), hub_with_log()
    async with old.running(), new.running():
        token = await old.invite("eu-1")
        agent = LinkedAgent(tmp_path, REALM, old.enrolment.address, old.hub.authority.hub_ca_pem, token)
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link to the old hub is up")
            old.fleet.put("eu-1", FIRST)
            await until(lambda: cells(agent) == ["a"], "an item of the old hub")
            await agent.recorder.record(Entry("cell.apply", "Cell//seen-by-the-old-hub", "done"))
            await drained(agent)
            uid, old_size = agent.db.uid, (await agent.db.audit.log_view()).size

        # What the join line brings: address and authority of the new hub. The token comes a little later.
        (tmp_path / "token").write_text("")
        agent.enrolment_address, agent.hub_ca_pem, agent.token = new.enrolment.address, new.hub.authority.hub_ca_pem, ""
        renewals = old.hub.clusters.rows["eu-1"].generation
        async with agent.boot():
            await until(lambda: agent.condition("certificate") is not None, "the certificate was looked at")
            # V1: nobody waits for a hub, and the certificate of the old one, good for an hour, is shown to nobody.
            assert agent.parts.cluster_name() == "eu-1"
            assert agent.parts.channels.channel is None
            condition = agent.condition("certificate")
            assert condition is not None
            assert condition.code in {"link/other-hub", "link/no-join-token"}
            await agent.recorder.record(Entry("cell.apply", "Cell//while-between-hubs", "done"))
            (tmp_path / "token").write_text(await new.invite("eu-1"))
            await an_item_of_the_new_hub(agent, new, named_before=named_before)
            await drained(agent)
            assert agent.db.uid == uid
            assert not old.fleet.open["eu-1"]
            assert old.hub.clusters.rows["eu-1"].generation == renewals
            # The new log has what waited, behind the record that says where the old log was seen to end.
            records = [parse_record(leaf.record) for leaf in await new_log.tail(0, 100)]
            mine = [record for record in records if record.origin == f"agent:{uid}"]
            assert [record.seq for record in mine] == list(range(1, len(mine) + 1))
            assert (mine[0].action, mine[0].code) == ("audit.rollback", "link/other-hub")
            assert int(mine[0].details["size"]) == old_size
            assert "Cell//while-between-hubs" in {record.object for record in mine}
            seen_by_old = {parse_record(leaf.record).object for leaf in await old_log.tail(0, 100)}
            assert "Cell//while-between-hubs" not in seen_by_old
        found = IdentityStore(tmp_path / "state").load()
        assert found is not None
        assert found.authorities.split() == list(authority_keyids(new.hub.authority.hub_ca_pem))

        # It stays there: another start needs no token and begins no other epoch.
        epoch = mine[0].epoch
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link to the new hub is up again")
            assert (await agent.db.audit.head()).epoch == epoch


async def test_v13_a_hub_alone_does_not_take_another_log_key(tmp_path: Path) -> None:
    """V13: without another authority from the administrator, another log key stays refused."""
    hub, log = hub_with_log()
    other = FakeLinkHub(SystemClock()).hub.keys.tree_head
    async with hub.running():
        token = await hub.invite("eu-1")
        agent = LinkedAgent(tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, token)
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            await agent.recorder.record(Entry("cell.apply", "Cell//x", "done"))
            await drained(agent)
        hub.log_origin = format_vkey(log.origin, spki_of(other))
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            await agent.recorder.record(Entry("cell.apply", "Cell//y", "done"))
            await until(agent.has_code("audit-push", "link/log-key-changed"), "the other key is refused")


async def test_v13_an_agent_without_its_identity_takes_up_the_log_of_another_hub(tmp_path: Path) -> None:
    """V13: the file was removed, or is of another realm; whose log is remembered does not hang on it."""
    (old, _), (new, new_log) = hub_with_log(), hub_with_log()
    async with old.running(), new.running():
        agent = LinkedAgent(
            tmp_path, REALM, old.enrolment.address, old.hub.authority.hub_ca_pem, await old.invite("eu-1")
        )
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link to the old hub is up")
            await agent.recorder.record(Entry("cell.apply", "Cell//a", "done"))
            await drained(agent)
            old_size = (await agent.db.audit.log_view()).size
        (tmp_path / "state" / FILE_NAME).unlink()
        agent.enrolment_address, agent.hub_ca_pem = new.enrolment.address, new.hub.authority.hub_ca_pem
        agent.token = await new.invite("eu-1")
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link to the new hub is up")
            await agent.recorder.record(Entry("cell.apply", "Cell//b", "done"))
            await drained(agent)
        records = [parse_record(leaf.record) for leaf in await new_log.tail(0, 100)]
        mine = [record for record in records if record.origin == f"agent:{agent.db.uid}"]
        assert (mine[0].action, mine[0].code) == ("audit.rollback", "link/other-hub")
        assert int(mine[0].details["size"]) == old_size
        assert mine[-1].object == "Cell//b"


async def test_v13_without_its_identity_the_same_hub_takes_no_other_log_key(tmp_path: Path) -> None:
    """V13: that the identity is gone says nothing about the log; a hub with another key is refused as before."""
    hub, log = hub_with_log()
    other = FakeLinkHub(SystemClock()).hub.keys.tree_head
    async with hub.running():
        agent = LinkedAgent(
            tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, await hub.invite("eu-1")
        )
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            await agent.recorder.record(Entry("cell.apply", "Cell//x", "done"))
            await drained(agent)
        hub.log_origin = format_vkey(log.origin, spki_of(other))
        (tmp_path / "state" / FILE_NAME).unlink()
        agent.token = await hub.invite("eu-1")
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            await agent.recorder.record(Entry("cell.apply", "Cell//y", "done"))
            await until(agent.has_code("audit-push", "link/log-key-changed"), "the other key is refused")


async def test_v13_a_hub_cannot_make_an_agent_of_an_earlier_version_leave(tmp_path: Path) -> None:
    """V4, V13: its identity names no authorities; those that the hub sent with a renewal do not stand in for them."""
    (hub, _), (stranger, _) = hub_with_log(), hub_with_log()
    async with hub.running():
        agent = LinkedAgent(
            tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, await hub.invite("eu-1")
        )
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
        store = IdentityStore(tmp_path / "state")
        earlier = store.load()
        assert earlier is not None
        # What the hub names for the link now; the link itself goes on with the authority that is installed.
        both = hub.hub.authority.hub_ca_pem + stranger.hub.authority.hub_ca_pem
        for named, is_up in ((stranger.hub.authority.hub_ca_pem, False), (both, True)):
            store.save(replace(earlier, authorities="", hub_ca_pem=named.decode()))
            async with agent.boot():
                await until(lambda: agent.condition("certificate") is not None, "the certificate was looked at")
                assert agent.is_ok("certificate")(), agent.condition("certificate")
                if is_up:
                    await until(agent.is_ok("hub-link"), "the link is up")
            found = store.load()
            assert found is not None
            assert found.authorities.split() == sorted(authority_keyids(hub.hub.authority.hub_ca_pem))


async def test_v7_authorities_that_are_replaced_one_after_the_other_change_nothing(tmp_path: Path) -> None:
    """V7: first both are installed, then the new one alone, all within the life of one certificate."""
    (hub, _), (stranger, _) = hub_with_log(), hub_with_log()
    mine, new = hub.hub.authority.hub_ca_pem, stranger.hub.authority.hub_ca_pem
    async with hub.running():
        agent = LinkedAgent(tmp_path, REALM, hub.enrolment.address, mine, await hub.invite("eu-1"))
        for installed in (mine, mine + new, new):
            agent.hub_ca_pem = installed
            async with agent.boot():
                await until(agent.is_ok("hub-link"), "the link is up")
                await agent.recorder.record(Entry("cell.apply", "Cell//x", "done"))
                await drained(agent)
                assert (await agent.db.audit.head()).epoch == 1


async def test_v6_a_rewritten_identity_leaves_the_request_under_way_its_key(tmp_path: Path) -> None:
    """V6: an answer that was lost is asked for again with the same key."""
    hub, _ = hub_with_log()
    async with hub.running():
        agent = LinkedAgent(
            tmp_path, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, await hub.invite("eu-1")
        )
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
        store = IdentityStore(tmp_path / "state")
        earlier = store.load()
        assert earlier is not None
        store.save(replace(earlier, authorities=""))
        pending = spki_of(store.pending_key())
        async with agent.boot():
            await until(agent.is_ok("certificate"), "the certificate was looked at")
        found = store.load()
        assert found is not None
        assert found.authorities
        assert spki_of(store.pending_key()) == pending
