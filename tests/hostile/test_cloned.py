"""An agent's whole state is copied and started somewhere else, beside the original (V7)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from cellward.runtime.clock import SystemClock
from hub.sync.limits import SyncLimits
from tests.fakes.authority import REALM
from tests.fakes.clock import ShiftedClock
from tests.fakes.linked_agent import LinkedAgent, until
from tests.fakes.ports import FakeLinkHub


def agent_at(hub: FakeLinkHub, directory: Path, token: str = "", clock: ShiftedClock | None = None) -> LinkedAgent:
    """An agent process whose state is in a directory."""
    ca = hub.hub.authority.hub_ca_pem
    return LinkedAgent(directory, REALM, hub.enrolment.address, ca, token, timer=clock or SystemClock())


async def test_v7_a_copy_of_the_state_started_beside_the_original_locks_both(tmp_path: Path) -> None:
    """V7: found while both certificates are good, before any renewal: the original answers, so both are cut off."""
    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2))
    async with hub.running():
        original = agent_at(hub, tmp_path / "original", await hub.invite("eu-1"))
        async with original.boot():
            await until(original.is_ok("hub-link"), "the original is connected")
            shutil.copytree(tmp_path / "original", tmp_path / "copy")
            copy = agent_at(hub, tmp_path / "copy")
            copy.boots = 10
            async with copy.boot():
                uid = original.db.uid
                assert copy.db.uid == uid
                await until(lambda: bool(hub.hub.clusters.locks), "the copy is found")
                for each in (original, copy):
                    await until(each.has_code("hub-link", "authority/locked"), "neither goes on")
                await until(lambda: hub.link.link.connected() == frozenset(), "the hub has no stream of either")
    assert {str(lock) for lock in hub.hub.clusters.locks} == {f"agent/{uid}"}


async def test_v7_a_copy_that_says_the_boot_of_the_original_is_found(tmp_path: Path) -> None:
    """V7: each supersedes the other as one process would its own stream, but not again and again."""
    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2, drain_min_ms=10, drain_max_ms=50))
    async with hub.running():
        original = agent_at(hub, tmp_path / "original", await hub.invite("eu-1"))
        async with original.boot():
            await until(original.is_ok("hub-link"), "the original is connected")
            shutil.copytree(tmp_path / "original", tmp_path / "copy")
            copy = agent_at(hub, tmp_path / "copy")
            copy.boots = original.boots - 1
            async with copy.boot():
                await until(lambda: bool(hub.hub.clusters.locks), "the copy is found")
                for each in (original, copy):
                    await until(each.has_code("hub-link", "authority/locked"), "neither goes on")
    assert {hello.boot_id for _, hello in hub.fleet.hellos} == {f"boot-{original.boots}"}


async def test_v7_a_restart_of_the_agent_is_no_copy(tmp_path: Path) -> None:
    """V7: the same state, another boot, and the stream before is gone: nobody is locked, however often."""
    hub = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2))
    async with hub.running():
        agent = agent_at(hub, tmp_path, await hub.invite("eu-1"))
        for _ in range(3):
            async with agent.boot():
                await until(agent.is_ok("hub-link"), "it is connected")
    assert hub.hub.clusters.locks == []
    assert [each for each in hub.hub.audit.entries if each.decision == "finding"] == []


async def test_v7_the_right_one_comes_back_by_a_token_while_its_certificate_is_out_of_force(tmp_path: Path) -> None:
    """V7: after `unlock --rekey` every certificate the two had is below the floor; a new token is taken at once."""
    hub, clock = FakeLinkHub(SystemClock(), SyncLimits(recheck=0.1, heartbeat=0.2)), ShiftedClock()
    async with hub.running():
        agent = agent_at(hub, tmp_path, await hub.invite("eu-1"), clock)
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "it is connected")
            rows = hub.hub.clusters.rows
            rows["eu-1"] = replace(rows["eu-1"], generation_floor=rows["eu-1"].generation + 1)
            hub.changes.notify("clusters")
            await until(agent.has_code("hub-link", "authority/replaced"), "what it has counts for nothing")
            (tmp_path / "token").write_text(await hub.invite("eu-1"))
            identity = agent.parts.channels.identity
            assert identity is not None
            clock.advance(0.56 * identity.lifetime)
            await until(agent.is_ok("hub-link"), "it is back", seconds=30)
    row = hub.hub.clusters.rows["eu-1"]
    assert row.uid == agent.db.uid
    assert row.generation > row.generation_floor - 1 > 1
